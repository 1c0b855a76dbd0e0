import type { RuntimeDescription } from "./runtime.js";

/**
 * DeepSpeed. `PipelineModule` runs 1F1B (`TrainSchedule` of deepspeed/runtime/pipe/schedule.py) and goes with ZeRO-0 and 1
 * (`PipelineEngine.__init__`); its layers are split over tensor ranks only where they do so themselves. Without stages
 * AutoTP splits layers (`_apply_autotp_partitioning` of deepspeed/runtime/engine.py), without dividing sequences.
 * Sharding groups are left out: hpZ (`zero_hpz_partition_size`) keeps a second copy of the parameters in a group
 * (`_create_zero_param_parallel_group` of deepspeed/utils/groups.py) while the state stays sharded over all replicas.
 */
export const deepspeed: RuntimeDescription = {
  name: "deepspeed",
  software: "plain",
  pipeline: true,
  sequenceParallel: [false],
  schedules: ["1f1b"],
  context: [],
  experts: false,
  zero: [1, 0, 2, 3],
  hybrid: false,
  recompute: ["none", "full"],
  besideWholeLayers: [],
  offload: ["none", "optimizer"],
  divides: ({ tensor, pipeline }) => tensor === 1 || pipeline === 1,
  splitsExperts: () => false,

  /**
   * Without stages and ZeRO, gradients are summed in the parameters' type alone (`_do_optimizer_sanity_check` of
   * deepspeed/runtime/engine.py): that is left to who asks for it.
   */
  shards: ({ pipeline, zero }) => (pipeline === 1 ? zero > 0 : zero < 2),

  /** ZeRO-Offload: Adam on the host, over a sharded state (`offload_optimizer`). */
  offloads: ({ zero, pipeline }, optimizer) => optimizer === "adam" && zero > 0 && pipeline === 1,
};
