import { type RuntimeDescription, searchedSchedule } from "./runtime.js";

/** Schedules whose backward passes run in two halves, or may do so. */
const splitBackwards = new Set(["interleaved-zb", "zb-h1", "zb-h2", "zbv", "dualpipev", searchedSchedule]);

/**
 * torchtitan of August 2026. Where a statement is not in torchtitan itself, the file is PyTorch 2.13's.
 *
 * - Pipelines: PyTorch's classes by name, any other order of one route as CSV (`_build_pipeline_schedule` of
 *   torchtitan/distributed/pipeline_parallel.py).
 * - Context parallelism gathers all keys of the sequence for every layer (`set_gqa_inner_attention_local_map` of
 *   torchtitan/models/common/decoder_sharding.py); neither a ring nor all-to-all, so none is opened here.
 * - Experts take their ranks from those of sharding and tensor parallelism, whole ones on each
 *   (`ParallelDims.build_mesh` of torchtitan/distributed/parallel_dims.py, the sparse mesh).
 * - Recomputation of whole blocks. `SelectiveAC` keeps every second product and all of attention
 *   (torchtitan/distributed/activation_checkpoint.py), which is not what `selective` recomputes.
 * - Host memory takes parameters, gradients and optimizer together or nothing (`enable_cpu_offload`).
 */
export const torchtitan: RuntimeDescription = {
  name: "torchtitan",
  software: "pytorch",
  pipeline: true,
  sequenceParallel: [true, false],
  schedules: [
    "1f1b",
    "gpipe",
    "interleaved",
    "looped-bfs",
    "interleaved-zb",
    "zb-h1",
    "zb-h2",
    "zbv",
    "dualpipev",
    searchedSchedule,
  ],
  context: [],
  experts: true,
  zero: [0, 1, 2, 3],
  hybrid: true,
  recompute: ["none", "full"],
  besideWholeLayers: [],
  offload: ["none"],

  /** Tied weights stay on one stage (`Decoder.Config.update_from_config` of torchtitan/models/common/decoder.py). */
  dividesLayers: ({ tiedEmbeddings }) => !tiedEmbeddings,

  refusesSchedule(name, { chunks, recompute }) {
    // A rank keeps the parameters of three stages whole; with more it gathers them anew whenever it turns to another
    // (`_add_unshard_reshard` of torch/distributed/pipelining/schedules.py, max_active_stages).
    if (chunks > 3)
      return "torchtitan keeps the parameters of 3 stages a rank, and gathers those of more again";
    // Checkpoints recompute for each graph that autograd runs through, of which a split backward pass has one a weight
    // (`stage_backward_weight` of torch/distributed/pipelining/_backward.py).
    if (recompute !== "none" && splitBackwards.has(name)) {
      return "torchtitan recomputes once for every weight where backward passes are split";
    }
    return undefined;
  },

  dividesExperts: ({ tensor, context, data, expert, expertTensor }) =>
    expert === 1 ? expertTensor === tensor : expertTensor === 1 && (data * context > 1 || tensor === expert),

  /**
   * A pipeline stage gathers its parameters once, reduces gradients behind the last micro-batch and keeps sums whole
   * until then (`backward_maybe_with_nosync` and `perform_reduce_grad` of torch/distributed/pipelining/stage.py, with
   * `get_fsdp_reshard_after_forward_policy` of torchtitan/distributed/fsdp.py): that is ZeRO-0 or 1. Without stages
   * gradients are reduced with every micro-batch (`Trainer._forward_backward_body`), which is ZeRO-2 or 3; replicas of
   * the shards are summed each time as well, so they go with one micro-batch. Experts lie inside one sharding group,
   * all of whose other ranks shard them.
   */
  shards({ pipeline, zero, data, context, shards, tensor, expert, microBatches }) {
    const inside = zero === 0 ? tensor === expert : (shards * tensor) % expert === 0;
    if (expert > 1 && !inside) return false;
    if (pipeline > 1) return zero < 2;
    if (zero === 0) return microBatches === 1;
    return zero > 1 && (shards === data * context || microBatches === 1);
  },
};
