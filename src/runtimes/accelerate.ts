import type { RuntimeDescription } from "./runtime.js";

/** Hugging Face Accelerate: `ParallelismConfig` over FSDP2 and tensor parallelism; it has no pipeline and no experts. */
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
  splitsExperts: () => false,
};
