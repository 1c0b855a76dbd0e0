import { axisSize, MpoptError, type Plan } from "../contracts/index.js";
import type { Exporter } from "./exporter.js";
import { nodeLayout } from "./layout.js";
import type { Flag } from "./megatronFlag.js";
import { lostModel, modelFlags } from "./megatronModel.js";
import { lostParallelism, parallelFlags } from "./megatronParallel.js";
import { shellQuote } from "./shell.js";

export { pipelineLayout } from "./megatronParallel.js";

/**
 * Megatron-LM: flags for `pretrain_gpt.py`, as its argument parser of August 2026 takes them
 * (megatron/training/arguments.py and the dataclasses that it reads).
 */
export const megatron: Exporter = {
  name: "megatron",
  runtime: "megatron",
  lossy,
  files: (plan) => ({
    "train.sh": launchScript(plan),
    "args.txt": `${argumentsOf(plan).map(groupLine).join("\n")}\n`,
    "plan.json": `${JSON.stringify(plan, null, 1)}\n`,
  }),
};

function lossy(plan: Plan): string[] {
  const lost = lostModel(plan);
  if (plan.cluster.deviceType === "cpu") {
    lost.push("The devices are processors, but Megatron-LM trains on GPUs.");
  }
  return [...lost, ...lostParallelism(plan), ...lostTypes(plan)];
}

/** Types that its mixed precision does not keep (`validate_args`, OptimizerConfig). */
function lostTypes({ job }: Plan): string[] {
  const { parameters, gradients, optimizer, linear, scaling, microBatchGradients } = job.dtypes;
  const lost: string[] = [];
  if (parameters !== "bf16" && parameters !== "f16") {
    lost.push(`Parameters are ${parameters}, but these flags train in bf16 or f16.`);
  }
  if (gradients !== "f32" && gradients !== parameters) {
    lost.push(`Gradients are ${gradients}, but these flags sum them in f32 or the parameters' type.`);
  }
  if (microBatchGradients) {
    lost.push("Gradients of one micro-batch stay beside their sums, which Megatron-LM does not do.");
  }
  if (optimizer !== "f32") {
    lost.push(`The optimizer's state is ${optimizer}, but these flags keep it in f32.`);
  }
  if (linear && linear !== parameters && linear !== "fp8") {
    lost.push(`Linear layers compute in ${linear}, but these flags have fp8 or the parameters' type.`);
  }
  if (linear === "fp8" && scaling === "row") {
    lost.push("Operands of narrow products are scaled by row, for which Megatron-LM has no recipe.");
  }
  return lost;
}

/** All flags, in groups: parallelism first, then the model, then the batch. */
function argumentsOf(plan: Plan): Flag[] {
  const { architecture } = plan.model;
  if (!architecture) {
    throw new MpoptError(
      "E_LOSSY",
      `Expected a model whose architecture is known for Megatron-LM but found ${plan.model.name} without one.`,
    );
  }
  return [...parallelFlags(plan), ...modelFlags(architecture, plan), ...training(plan)];
}

/**
 * The recipe that scales operands of narrow products as the plan says (Fp8Recipe of megatron/core/enums.py); blocks
 * have their own form on Blackwell.
 */
function narrowRecipe({ job, cluster }: Plan): string {
  const { scaling = "delayed" } = job.dtypes;
  if (scaling === "block") return /^g?b\d{3}/i.test(cluster.deviceKind) ? "mxfp8" : "blockwise";
  return scaling === "delayed" ? "delayed" : "tensorwise";
}

function training(plan: Plan): Flag[] {
  const { batch, job, model, optimizer } = plan;
  const { parameters, gradients, linear } = job.dtypes;
  const flags: Flag[] = [
    ["--micro-batch-size", String(batch.micro)],
    ["--global-batch-size", String(batch.global)],
    [parameters === "f16" ? "--fp16" : "--bf16"],
  ];
  // By default gradients are summed in f32 beside bf16, in f16 beside f16.
  if (parameters === "bf16" && gradients === "bf16") flags.push(["--grad-reduce-in-bf16"]);
  if (parameters === "f16" && gradients === "f32") flags.push(["--accumulate-allreduce-grads-in-fp32"]);
  if (linear === "fp8") flags.push(["--fp8-format", "hybrid"], ["--fp8-recipe", narrowRecipe(plan)]);
  if (job.expertCapacity && model.architecture?.experts) {
    flags.push(
      ["--moe-expert-capacity-factor", String(job.expertCapacity)],
      ["--moe-pad-expert-input-to-capacity"],
    );
  }
  return [
    ...flags,
    ["--use-mcore-models"],
    ["--transformer-impl", "transformer_engine"],
    ["--attention-backend", "auto"],
    ["--optimizer", optimizer.name],
  ];
}

function groupLine(flag: Flag): string {
  return flag.map(shellQuote).join(" ");
}

/** A script that starts the ranks of one node; the flags that are the user's (data, learning rate) follow "$@". */
function launchScript(plan: Plan): string {
  const { world, nodes, ranksPerNode } = nodeLayout(plan);
  const environment =
    axisSize(plan, "tensor") > 1 || axisSize(plan, "context") > 1
      ? ["export CUDA_DEVICE_MAX_CONNECTIONS=1 # kernels start in the order they were sent"]
      : [];
  return [
    "#!/usr/bin/env bash",
    `# Megatron-LM on ${world} devices: run on every node from the folder of Megatron-LM, with data and`,
    "# optimizer flags behind it. Set NODE_RANK, MASTER_ADDR and MASTER_PORT where there are several nodes.",
    "set -euo pipefail",
    `NODES="\${NNODES:-${nodes}}"`,
    `if [ "$NODES" != ${nodes} ]; then`,
    `  echo "Expected ${nodes} nodes of ${ranksPerNode} devices for this plan but found NNODES=$NODES." >&2`,
    "  exit 2",
    "fi",
    ...environment,
    "FLAGS=(",
    ...argumentsOf(plan).map((flag) => `  ${groupLine(flag)}`),
    ")",
    `exec torchrun --nnodes ${nodes} --nproc-per-node ${ranksPerNode} --node-rank "\${NODE_RANK:-0}" \\`,
    `  --master-addr "\${MASTER_ADDR:-127.0.0.1}" --master-port "\${MASTER_PORT:-29500}" \\`,
    `  "\${MEGATRON_SCRIPT:-pretrain_gpt.py}" "\${FLAGS[@]}" "$@"`,
    "",
  ].join("\n");
}
