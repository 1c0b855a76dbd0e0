import type { RuntimeDescription } from "./runtime.js";

/**
 * Hugging Face Accelerate: `ParallelismConfig` (src/accelerate/parallelism_config.py) over FSDP2 and the tensor
 * parallelism of Transformers, or plain replicas. It has no pipeline and no experts over ranks.
 */
export const accelerate: RuntimeDescription = {
  name: "accelerate",
  software: "pytorch",
  pipeline: false,
  sequenceParallel: [false],
  schedules: ["1f1b"],
  context: [],
  experts: false,
  zero: [0, 2, 3],
  hybrid: true,
  recompute: ["none", "full"],
  besideWholeLayers: [],
  offload: ["none"],
  /** `--use_parallelism_config` asks for FSDP2, whose mesh wants replicas that share the state. */
  divides: ({ tensor, data }) => tensor === 1 || data > 1,
  splitsExperts: () => false,
  /** Beside tensor ranks replicas without shards are refused (`ParallelismConfig.__post_init__`). */
  shards: ({ tensor, zero, shards }) => (zero === 0 ? tensor === 1 : shards > 1),
};
