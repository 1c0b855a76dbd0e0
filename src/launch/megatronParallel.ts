import { axisSize, type Plan } from "../contracts/index.js";
import { lostPlacements, lostRankOrder } from "./layout.js";
import type { Flag } from "./megatronFlag.js";
import { hasWindow } from "./modelFacts.js";
import { commonRecomputation } from "./recomputation.js";
import { interleavedGroupSize, isOneForwardOneBackward } from "./schedule.js";

/**
 * How Megatron-LM divides a model over ranks, and what it keeps where: ModelParallelConfig, the recomputation of
 * TransformerConfig, DistributedDataParallelConfig and OptimizerConfig of megatron/core, and the checks of
 * `validate_args` (megatron/training/arguments.py) and `initialize_model_parallel` (megatron/core/parallel_state.py).
 */

/** Degrees of the plan, with what follows from them. */
function degreesOf(plan: Plan) {
  const tensor = axisSize(plan, "tensor");
  const context = axisSize(plan, "context");
  const data = axisSize(plan, "data");
  const { expert, tensor: expertTensor } = plan.mesh.experts ?? { expert: 1, tensor };
  /** Ranks with the same parameters, outside experts. */
  const copies = data * context;
  const expertCopies = (tensor * copies) / (expert * expertTensor);
  const shards = plan.optimizer.shards ?? copies;
  return { tensor, context, data, expert, expertTensor, copies, expertCopies, shards };
}

/**
 * The stage layout string: `E` embedding, `t` a decoder layer, `m` a prediction of a further token, `L` the loss, `|`
 * between stages in the order of the forward pass. Stage k is chunk floor(k / p) of pipeline rank k mod p
 * (megatron/core/transformer/pipeline_parallel_layer_layout.py).
 */
export function pipelineLayout({ stages, model }: Plan): string {
  const predictions = "m".repeat(model.architecture?.nextTokenPredictions ?? 0);
  return stages
    .map((stage) => {
      const layers = "t".repeat(stage.layers.end - stage.layers.start);
      return `${stage.embedding ? "E" : ""}${layers}${stage.head ? `${predictions}L` : ""}`;
    })
    .join("|");
}

/** Flags that divide the work. */
export function parallelFlags(plan: Plan): Flag[] {
  const { tensor, context, expert, expertTensor, copies, expertCopies, shards } = degreesOf(plan);
  const { zero } = plan.optimizer;
  const offload = plan.optimizer.offload === "optimizer";
  const pipeline = axisSize(plan, "pipeline");
  const flags: Flag[] = [
    ["--tensor-model-parallel-size", String(tensor)],
    ["--pipeline-model-parallel-size", String(pipeline)],
  ];
  if (plan.stages.length > 1) flags.push(["--pipeline-model-parallel-layout", pipelineLayout(plan)]);
  const group = plan.stages.length > pipeline ? interleavedGroupSize(plan) : undefined;
  if (group) flags.push(["--microbatch-group-size-per-virtual-pipeline-stage", String(group)]);
  if (plan.mesh.sequenceParallel) flags.push(["--sequence-parallel"]);
  if (context > 1) {
    flags.push(
      ["--context-parallel-size", String(context)],
      ["--cp-comm-type", plan.mesh.contextExchange === "all-to-all" ? "a2a" : "p2p"],
    );
  }
  if (plan.mesh.experts) {
    flags.push(
      ["--expert-model-parallel-size", String(expert)],
      ["--expert-tensor-parallel-size", String(expertTensor)],
    );
  }
  const distributed = zero === 1 || offload;
  if (distributed) flags.push(["--use-distributed-optimizer"]);
  if (zero === 1 && shards < copies) {
    flags.push(["--num-distributed-optimizer-instances", String(copies / shards)]);
  }
  if (copies > 1 || (plan.model.architecture?.experts && expertCopies > 1)) {
    flags.push(["--overlap-grad-reduce"]);
    if (distributed) flags.push(["--overlap-param-gather"]);
  }
  if (offload) {
    flags.push(
      ["--use-precision-aware-optimizer"],
      ["--optimizer-cpu-offload"],
      ["--optimizer-offload-fraction", "1.0"],
    );
  }
  return [...flags, ...recomputationFlags(plan)];
}

function recomputationFlags(plan: Plan): Flag[] {
  const recomputation = commonRecomputation(plan);
  if (recomputation === undefined || recomputation === "none") return [];
  if (recomputation === "selective") {
    return [
      ["--recompute-granularity", "selective"],
      ["--recompute-modules", "core_attn"],
    ];
  }
  const full = recomputation === "full";
  return [
    ["--recompute-granularity", "full"],
    ["--recompute-method", full ? "uniform" : "block"],
    ["--recompute-num-layers", full ? "1" : String(recomputation)],
  ];
}

/** What Megatron-LM cannot divide as planned. */
export function lostParallelism(plan: Plan): string[] {
  return [
    ...lostRanks(plan),
    ...lostSchedule(plan),
    ...lostContext(plan),
    ...lostExperts(plan),
    ...lostState(plan),
    ...lostRecomputation(plan),
  ];
}

function lostRanks(plan: Plan): string[] {
  const lost = lostRankOrder(plan, "Megatron-LM");
  const { architecture } = plan.model;
  const { tensor, context } = degreesOf(plan);
  if (architecture) {
    const { heads, keyValueHeads } = architecture;
    if (heads % tensor) lost.push(`${heads} attention heads do not divide over ${tensor} tensor ranks.`);
    else if (keyValueHeads % tensor && tensor % keyValueHeads) {
      lost.push(
        `${keyValueHeads} key-value heads neither divide over ${tensor} tensor ranks nor they over it.`,
      );
    }
  }
  if (plan.mesh.sequenceParallel && (plan.batch.sequence / context) % tensor) {
    lost.push(`${plan.batch.sequence / context} tokens do not divide over ${tensor} tensor ranks.`);
  }
  return [...lost, ...lostPlacements(plan, "Megatron-LM")];
}

/**
 * What the schedule loses. Megatron-LM runs 1F1B with one stage a pipeline rank and interleaved 1F1B with several
 * (megatron/core/pipeline_parallel/schedules.py), and places stages by turns.
 */
function lostSchedule(plan: Plan): string[] {
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

/**
 * What Transformer Engine's attention does not exchange between context-parallel ranks (`attn_forward_func_with_cp`
 * of transformer_engine/pytorch/attention).
 */
function lostContext(plan: Plan): string[] {
  const { architecture } = plan.model;
  const { tensor, context } = degreesOf(plan);
  const { sequence } = plan.batch;
  if (context === 1) return [];
  const lost: string[] = [];
  if (sequence % (2 * context)) {
    lost.push(
      `${sequence} tokens do not divide into two pieces for each of ${context} context-parallel ranks.`,
    );
  }
  if (!architecture) return lost;
  const { heads, keyValueHeads, latent } = architecture;
  if (plan.mesh.contextExchange !== "all-to-all") {
    if (hasWindow(architecture, sequence)) {
      lost.push("A ring of context-parallel ranks knows no sliding windows in Megatron-LM; all-to-all does.");
    }
    return lost;
  }
  if (latent) lost.push("Latent attention is not exchanged all-to-all in Megatron-LM; a ring is.");
  const local = Math.max(1, keyValueHeads / tensor);
  if ((heads / tensor) % context || local % context) {
    lost.push(
      `${heads / tensor} heads and ${local} key-value heads of a tensor rank do not divide over ${context} context-parallel ranks, as all-to-all exchanges want.`,
    );
  }
  return lost;
}

function lostExperts(plan: Plan): string[] {
  const experts = plan.model.architecture?.experts;
  const { tensor, expert, expertTensor, expertCopies } = degreesOf(plan);
  if (!experts) {
    return plan.mesh.experts
      ? ["Experts are divided over ranks, but the model has none for Megatron-LM."]
      : [];
  }
  const lost: string[] = [];
  if (tensor > 1 && !plan.mesh.sequenceParallel) {
    lost.push("Experts with tensor parallelism need sequence parallelism in Megatron-LM.");
  }
  if (experts.routed % expert) {
    lost.push(`${experts.routed} experts do not divide over ${expert} expert-parallel ranks.`);
  }
  if (experts.ffn % expertTensor) {
    lost.push(`Experts of width ${experts.ffn} do not divide over ${expertTensor} tensor ranks.`);
  }
  if (!Number.isInteger(expertCopies)) {
    lost.push(`Experts over ${expert} x ${expertTensor} ranks do not divide the ranks of a stage.`);
  }
  return lost;
}

/** What its optimizers do not shard or offload as planned. */
function lostState(plan: Plan): string[] {
  const { zero, offload = "none", name } = plan.optimizer;
  const { copies, expertCopies, shards } = degreesOf(plan);
  const lost: string[] = [];
  if (zero > 1) {
    lost.push(`Parameters or gradients are sharded (ZeRO-${zero}), but these flags stop at ZeRO-1.`);
  }
  if (zero === 1 && shards < copies) {
    const instances = copies / shards;
    if (!Number.isInteger(instances)) {
      lost.push(
        `Sharding groups of ${shards} ranks do not divide the ${copies} ranks with equal parameters.`,
      );
    } else if (plan.model.architecture?.experts && expertCopies % instances) {
      lost.push(
        `${expertCopies} ranks with equal experts do not divide over ${instances} sharding groups, as Megatron-LM wants.`,
      );
    }
  }
  if (offload === "activations" || offload === "both") {
    lost.push("Activations of all layers are offloaded, for which Megatron-LM has no flag.");
  }
  if (offload === "optimizer" || offload === "both") {
    if (zero === 0 && copies > 1) {
      lost.push(
        "A replicated optimizer state is offloaded, but Megatron-LM offloads a distributed one (ZeRO-1).",
      );
    }
    if (name !== "adam")
      lost.push(`Megatron-LM offloads the state of Adam alone, but the optimizer is ${name}.`);
  }
  return lost;
}

function lostRecomputation(plan: Plan): string[] {
  if (commonRecomputation(plan) !== undefined) return [];
  const beside = plan.stages.some(
    ({ recompute, recomputeLayers = 0 }) => recompute === "selective" && recomputeLayers > 0,
  );
  return beside
    ? [
        "Some layers are recomputed whole beside selective recomputation, but Megatron-LM does one or the other.",
      ]
    : ["Stages differ in recomputation, but Megatron-LM has one setting for all of them."];
}
