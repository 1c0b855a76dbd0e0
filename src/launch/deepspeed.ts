import { axisSize, type Plan, serialize } from "../contracts/index.js";
import { blockModules, deepspeedModule } from "./deepspeedModule.js";
import type { Exporter } from "./exporter.js";
import { lostRankOrder, nodeLayout } from "./layout.js";
import { outsideRuntime } from "./outside.js";
import { shellQuote } from "./shell.js";

/**
 * DeepSpeed: its JSON (deepspeed/runtime/config.py), a module that fixes the stages of a pipeline or recomputes blocks,
 * and the command that starts the ranks.
 */
export const deepspeed: Exporter = {
  name: "deepspeed",
  runtime: "deepspeed",
  lossy,
  files: (plan) => ({
    "plan.json": serialize(plan),
    "ds_config.json": `${JSON.stringify(configuration(plan), null, 2)}\n`,
    "plan_deepspeed.py": deepspeedModule(plan),
    "run.sh": runScript(plan),
  }),
};

function lossy(plan: Plan): string[] {
  const lost = [...outsideRuntime(plan, "deepspeed", "DeepSpeed"), ...lostTypes(plan), ...lostSizes(plan)];
  lost.push(...lostRankOrder(plan, "DeepSpeed"));
  if (plan.job.expertCapacity) {
    lost.push("Experts have a capacity, but DeepSpeed leaves them to the model.");
  }
  if (plan.model.architecture?.nextTokenPredictions && axisSize(plan, "pipeline") > 1) {
    lost.push("The model predicts further tokens, but the stages of PipelineModule hand on one activation.");
  }
  if (plan.stages.length === 1 && recomputes(plan) && blockModules(plan).length === 0) {
    lost.push("Layers are recomputed, but the plan does not name their modules.");
  }
  return lost;
}

/** Types that its engine combines (`_do_optimizer_sanity_check` of deepspeed/runtime/engine.py). */
function lostTypes(plan: Plan): string[] {
  const { parameters, gradients, optimizer, linear, microBatchGradients } = plan.job.dtypes;
  const lost: string[] = [];
  if (!["f32", "bf16", "f16"].includes(parameters)) {
    lost.push(`Parameters are ${parameters}, but DeepSpeed trains in f32, bf16 or f16.`);
  }
  if (gradients !== "f32" && gradients !== parameters) {
    lost.push(`Gradients are ${gradients}, but DeepSpeed sums them in f32 or the parameters' type.`);
  }
  if (gradients !== "f32" && axisSize(plan, "pipeline") > 1 && parameters === "bf16") {
    lost.push(`Gradients are ${gradients}, but DeepSpeed's pipelines sum those of bf16 parameters in f32.`);
  }
  if (optimizer !== "f32") lost.push(`The optimizer's state is ${optimizer}, but DeepSpeed keeps it in f32.`);
  if (linear && linear !== parameters) {
    lost.push(`Linear layers compute in ${linear}, but DeepSpeed leaves them in the parameters' type.`);
  }
  if (microBatchGradients && microBatchGradients !== parameters) {
    lost.push(`Gradients of one micro-batch are ${microBatchGradients}, but DeepSpeed's are ${parameters}.`);
  }
  return lost;
}

/** What AutoTP divides: whole heads, of queries and of keys, and features. */
function lostSizes(plan: Plan): string[] {
  const tensor = axisSize(plan, "tensor");
  const { architecture } = plan.model;
  if (tensor === 1 || !architecture) return [];
  const { heads, keyValueHeads, ffn } = architecture;
  const lost: string[] = [];
  if (heads % tensor) lost.push(`${heads} attention heads do not divide over ${tensor} tensor ranks.`);
  else if (keyValueHeads % tensor) {
    lost.push(`${keyValueHeads} key-value heads do not divide over ${tensor} tensor ranks.`);
  }
  if (ffn % tensor) lost.push(`${ffn} features do not divide over ${tensor} tensor ranks.`);
  return lost;
}

function recomputes({ stages }: Plan): boolean {
  return stages.some(({ recompute }) => recompute === "full");
}

/**
 * ZeRO's stage in the JSON. Without replicas nothing is sharded; but sums of gradients in f32 beside narrower parameters
 * are the sharded optimizers' alone, which do the same for one replica.
 */
function zeroStage(plan: Plan): number {
  const { parameters, gradients } = plan.job.dtypes;
  const { zero } = plan.optimizer;
  const pipeline = axisSize(plan, "pipeline") > 1;
  return zero === 0 && !pipeline && gradients !== parameters && axisSize(plan, "data") === 1 ? 1 : zero;
}

/** Keys of docs/_pages/config-json.md; DeepSpeed ignores what it does not know, so nothing else may be here. */
function configuration(plan: Plan): Record<string, unknown> {
  const { parameters, gradients } = plan.job.dtypes;
  const stage = zeroStage(plan);
  const tensor = axisSize(plan, "tensor");
  const pipeline = axisSize(plan, "pipeline");
  const offload = plan.optimizer.offload === "optimizer";
  return {
    // Under AutoTP the engine multiplies by all ranks, tensor ranks too (`DeepSpeedConfig.__init__`).
    ...(tensor === 1 ? { train_batch_size: plan.batch.global } : {}),
    train_micro_batch_size_per_gpu: plan.batch.micro,
    gradient_accumulation_steps: plan.schedule.microBatches,
    ...(parameters === "bf16" ? { bf16: { enabled: true } } : {}),
    ...(parameters === "f16" ? { fp16: { enabled: true } } : {}),
    // A pipeline's own optimizer sums in f32 by itself.
    ...(stage > 0 || pipeline === 1 ? { data_types: { grad_accum_dtype: dtypeName(gradients) } } : {}),
    zero_optimization: {
      stage,
      ...(stage > 0 ? { overlap_comm: true, contiguous_gradients: true } : {}),
      ...(offload ? { offload_optimizer: { device: "cpu", pin_memory: true } } : {}),
    },
    ...(tensor > 1 ? { tensor_parallel: { autotp_size: tensor } } : {}),
  };
}

function dtypeName(dtype: string): string {
  return { f32: "fp32", bf16: "bf16", f16: "fp16" }[dtype] ?? dtype;
}

function runScript(plan: Plan): string {
  const { world, nodes, ranksPerNode } = nodeLayout(plan);
  const hosts =
    nodes === 1
      ? `  --num_gpus ${ranksPerNode} \\`
      : `  --hostfile "\${HOSTFILE:-/job/hostfile}" --num_nodes ${nodes} --num_gpus ${ranksPerNode} \\`;
  return `#!/bin/sh
# Starts the plan's ${world} ranks: ./run.sh [train.py [arguments]]
${nodes > 1 ? `# HOSTFILE names a file with one line a node: name slots=${ranksPerNode}\n` : ""}set -eu
[ $# -gt 0 ] || set -- train.py
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
printf 'Plan %s: %s ranks\\n' ${shellQuote(plan.name)} ${world} >&2
export MPOPT_PLAN="$here/plan.json"
export MPOPT_DEEPSPEED_CONFIG="$here/ds_config.json"
export PYTHONPATH="$here\${PYTHONPATH:+:$PYTHONPATH}"
exec deepspeed \\
${hosts}
  "$@"
`;
}
