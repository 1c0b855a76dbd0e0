import { type Architecture, axisSize, MpoptError, type Plan } from "../contracts/index.js";
import type { Exporter } from "./exporter.js";
import { interleavedGroupSize, isOneForwardOneBackward } from "./schedule.js";
import { shellQuote } from "./shell.js";

/**
 * Megatron-LM: flags for `pretrain_gpt.py`, as its argument parser of August 2026 takes them
 * (megatron/training/arguments.py and the dataclasses that it reads).
 */
export const megatron: Exporter = {
  name: "megatron",
  lossy,
  files: (plan) => ({
    "train.sh": launchScript(plan),
    "args.txt": `${argumentsOf(plan).map(groupLine).join("\n")}\n`,
    "plan.json": `${JSON.stringify(plan, null, 1)}\n`,
  }),
};

type Flag = readonly [name: string, ...values: string[]];

/**
 * The stage layout string: `E` embedding, `t` a decoder layer, `L` the loss, `|` between stages in the order of the
 * forward pass. Stage k is chunk floor(k / p) of pipeline rank k mod p
 * (megatron/core/transformer/pipeline_parallel_layer_layout.py).
 */
export function pipelineLayout(plan: Plan): string {
  return plan.stages
    .map((stage) => {
      const layers = "t".repeat(stage.layers.end - stage.layers.start);
      return `${stage.embedding ? "E" : ""}${layers}${stage.head ? "L" : ""}`;
    })
    .join("|");
}

function lossy(plan: Plan): string[] {
  const lost: string[] = [];
  const { architecture } = plan.model;
  if (!architecture) lost.push("The model's architecture is not one that Megatron-LM builds from flags.");
  if (architecture?.family === "gemma2") {
    lost.push("Gemma 2 caps its logits and has norms behind each branch, which no flag describes.");
  }
  if (architecture?.family === "opt") lost.push("OPT's offset positions and ReLU have no flag.");
  if (plan.cluster.deviceType === "cpu") {
    lost.push("The devices are processors, but Megatron-LM trains on GPUs.");
  }
  lost.push(...lossySchedule(plan));
  if (plan.optimizer.zero > 1) {
    lost.push(
      `Parameters or gradients are sharded (ZeRO-${plan.optimizer.zero}), but these flags stop at ZeRO-1.`,
    );
  }
  if (new Set(plan.stages.map((stage) => stage.recompute)).size > 1) {
    lost.push("Stages differ in recomputation, but Megatron-LM has one setting for all of them.");
  }
  if (plan.mesh.axes.join() !== "pipeline,data,tensor") {
    lost.push(
      `Ranks are ordered by ${plan.mesh.axes.join(", ")}, but Megatron-LM's order is pipeline, data, tensor.`,
    );
  }
  const { parameters } = plan.job.dtypes;
  if (parameters !== "bf16" && parameters !== "f16") {
    lost.push(`Parameters are ${parameters}, but these flags train in bf16 or f16.`);
  }
  if (architecture?.experts && axisSize(plan, "tensor") > 1 && !plan.mesh.sequenceParallel) {
    lost.push("Experts with tensor parallelism need sequence parallelism in Megatron-LM.");
  }
  return lost;
}

/**
 * What the schedule loses. Megatron-LM runs 1F1B with one stage a pipeline rank and interleaved 1F1B with several
 * (megatron/core/pipeline_parallel/schedules.py), and places stages by turns.
 */
function lossySchedule(plan: Plan): string[] {
  const { stages, schedule } = plan;
  const pipeline = axisSize(plan, "pipeline");
  if (stages.length === 1) return [];
  if (stages.length % pipeline) {
    return [`${stages.length} stages do not divide over ${pipeline} pipeline ranks.`];
  }
  const astray = stages.find((stage, k) => stage.rank !== k % pipeline);
  if (astray) {
    return [
      `Stage ${astray.index} is on pipeline rank ${astray.rank}, but Megatron-LM puts it on rank ${astray.index % pipeline}.`,
    ];
  }
  const chunks = stages.length / pipeline;
  if (chunks === 1) {
    if (isOneForwardOneBackward(plan)) return [];
    return [
      `The schedule is ${schedule.name}, but Megatron-LM runs 1F1B where each pipeline rank has one stage.`,
    ];
  }
  if (pipeline === 1) return [`${stages.length} stages share the only pipeline rank.`];
  if (schedule.microBatches < pipeline) {
    return [
      `There are ${schedule.microBatches} micro-batches, but Megatron-LM interleaves no fewer than the ${pipeline} pipeline ranks.`,
    ];
  }
  if (interleavedGroupSize(plan) !== undefined) return [];
  return [
    `The schedule is ${schedule.name}, but Megatron-LM runs interleaved 1F1B where each pipeline rank has ${chunks} stages.`,
  ];
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
  return [...parallelism(plan), ...modelFlags(architecture, plan), ...training(plan)];
}

function parallelism(plan: Plan): Flag[] {
  const flags: Flag[] = [
    ["--tensor-model-parallel-size", String(axisSize(plan, "tensor"))],
    ["--pipeline-model-parallel-size", String(axisSize(plan, "pipeline"))],
  ];
  if (plan.stages.length > 1) flags.push(["--pipeline-model-parallel-layout", pipelineLayout(plan)]);
  const group = plan.stages.length > axisSize(plan, "pipeline") ? interleavedGroupSize(plan) : undefined;
  if (group) flags.push(["--microbatch-group-size-per-virtual-pipeline-stage", String(group)]);
  if (plan.mesh.sequenceParallel) flags.push(["--sequence-parallel"]);
  if (plan.optimizer.zero === 1) flags.push(["--use-distributed-optimizer"]);
  if (axisSize(plan, "data") > 1) {
    flags.push(["--overlap-grad-reduce"]);
    if (plan.optimizer.zero === 1) flags.push(["--overlap-param-gather"]);
  }
  const recompute = plan.stages[0]!.recompute;
  if (recompute === "full") {
    flags.push(
      ["--recompute-granularity", "full"],
      ["--recompute-method", "uniform"],
      ["--recompute-num-layers", "1"],
    );
  } else if (recompute === "selective") {
    flags.push(["--recompute-granularity", "selective"], ["--recompute-modules", "core_attn"]);
  }
  return flags;
}

function modelFlags(architecture: Architecture, plan: Plan): Flag[] {
  const flags: Flag[] = [
    ["--num-layers", String(architecture.layers)],
    ["--hidden-size", String(architecture.hidden)],
    ["--ffn-hidden-size", String(architecture.ffn)],
    ["--num-attention-heads", String(architecture.heads)],
    ["--kv-channels", String(architecture.headSize)],
    ["--seq-length", String(plan.batch.sequence)],
    ["--max-position-embeddings", String(Math.max(architecture.maxSequence, plan.batch.sequence))],
    ["--normalization", architecture.norm === "rms_norm" ? "RMSNorm" : "LayerNorm"],
    ["--vocab-size", String(architecture.vocabulary)],
    ["--make-vocab-size-divisible-by", "1"],
    ["--attention-dropout", "0"],
    ["--hidden-dropout", "0"],
  ];
  if (architecture.normEpsilon) flags.push(["--norm-epsilon", String(architecture.normEpsilon)]);
  if (architecture.keyValueHeads !== architecture.heads && !architecture.latent) {
    flags.push(["--group-query-attention"], ["--num-query-groups", String(architecture.keyValueHeads)]);
  }
  if (architecture.gated) flags.push(["--swiglu"]);
  if (architecture.positions === "rotary") {
    flags.push(["--position-embedding-type", "rope"]);
    if (architecture.ropeTheta) flags.push(["--rotary-base", String(Math.round(architecture.ropeTheta))]);
    if (architecture.rotaryFraction && architecture.rotaryFraction !== 1) {
      flags.push(["--rotary-percent", String(architecture.rotaryFraction)]);
    }
  } else {
    flags.push([
      "--position-embedding-type",
      architecture.positions === "learned" ? "learned_absolute" : "none",
    ]);
  }
  if (!architecture.tiedEmbeddings) flags.push(["--untie-embeddings-and-output-weights"]);
  if (!architecture.mlpBias) flags.push(["--disable-bias-linear"]);
  if (architecture.attentionBias && !architecture.mlpBias) flags.push(["--add-qkv-bias"]);
  if (architecture.queryKeyNorm || architecture.latent) flags.push(["--qk-layernorm"]);
  if (architecture.slidingWindow && architecture.slidingWindow < plan.batch.sequence) {
    flags.push(["--window-size", `${architecture.slidingWindow - 1},0`]);
  }
  return [...flags, ...latentFlags(architecture), ...expertFlags(architecture)];
}

function latentFlags({ latent }: Architecture): Flag[] {
  if (!latent) return [];
  const flags: Flag[] = [
    ["--multi-latent-attention"],
    ["--kv-lora-rank", String(latent.keyValueRank)],
    ["--qk-head-dim", String(latent.noRopeHeadSize)],
    ["--qk-pos-emb-head-dim", String(latent.ropeHeadSize)],
    ["--v-head-dim", String(latent.valueHeadSize)],
  ];
  if (latent.queryRank > 0) flags.push(["--q-lora-rank", String(latent.queryRank)]);
  return flags;
}

function expertFlags({ experts, layers }: Architecture): Flag[] {
  if (!experts) return [];
  const flags: Flag[] = [
    ["--num-experts", String(experts.routed)],
    ["--moe-router-topk", String(experts.topK)],
    ["--moe-ffn-hidden-size", String(experts.ffn)],
    ["--moe-grouped-gemm"],
    ["--moe-token-dispatcher-type", "alltoall"],
  ];
  if (experts.shared > 0) flags.push(["--moe-shared-expert-intermediate-size", String(experts.sharedFfn)]);
  if (experts.denseLayers > 0) {
    flags.push(["--moe-layer-freq", `([0]*${experts.denseLayers}+[1]*${layers - experts.denseLayers})`]);
  }
  return flags;
}

function training(plan: Plan): Flag[] {
  return [
    ["--micro-batch-size", String(plan.batch.micro)],
    ["--global-batch-size", String(plan.batch.global)],
    [plan.job.dtypes.parameters === "f16" ? "--fp16" : "--bf16"],
    ["--use-mcore-models"],
    ["--transformer-impl", "transformer_engine"],
    ["--optimizer", plan.optimizer.name],
  ];
}

function groupLine(flag: Flag): string {
  return flag.map(shellQuote).join(" ");
}

/** A script that starts the ranks of one node; the flags that are the user's (data, learning rate) follow "$@". */
function launchScript(plan: Plan): string {
  const { devices, devicesPerNode } = plan.cluster;
  const perNode = Math.min(devices, devicesPerNode);
  const nodes = devices / perNode;
  const environment =
    axisSize(plan, "tensor") > 1
      ? ["export CUDA_DEVICE_MAX_CONNECTIONS=1 # kernels start in the order they were sent"]
      : [];
  return [
    "#!/usr/bin/env bash",
    `# Megatron-LM on ${devices} devices: run on every node from the folder of Megatron-LM, with data and`,
    "# optimizer flags behind it. Set NODE_RANK, MASTER_ADDR and MASTER_PORT where there are several nodes.",
    "set -euo pipefail",
    `NODES="\${NNODES:-${nodes}}"`,
    `if [ "$NODES" != ${nodes} ]; then`,
    `  echo "Expected ${nodes} nodes of ${perNode} devices for this plan but found NNODES=$NODES." >&2`,
    "  exit 2",
    "fi",
    ...environment,
    "FLAGS=(",
    ...argumentsOf(plan).map((flag) => `  ${groupLine(flag)}`),
    ")",
    `exec torchrun --nnodes ${nodes} --nproc-per-node ${perNode} --node-rank "\${NODE_RANK:-0}" \\`,
    `  --master-addr "\${MASTER_ADDR:-127.0.0.1}" --master-port "\${MASTER_PORT:-29500}" \\`,
    `  "\${MEGATRON_SCRIPT:-pretrain_gpt.py}" "\${FLAGS[@]}" "$@"`,
    "",
  ].join("\n");
}
