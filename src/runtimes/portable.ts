import { megatron } from "./megatron.js";
import type { RuntimeDescription } from "./runtime.js";

/**
 * What Megatron-LM and plain PyTorch share, without what only these two have. Mixtures may split experts over tensor
 * ranks, which PyTorch's launcher does not do, or few would fit.
 */
export const portable: RuntimeDescription = {
  name: "portable",
  software: "plain",
  pipeline: true,
  sequenceParallel: [true, false],
  schedules: ["1f1b"],
  context: [],
  experts: false,
  zero: [1, 0],
  hybrid: false,
  recompute: ["none", "selective", "full"],
  besideWholeLayers: [],
  offload: ["none"],
  splitsExperts: megatron.splitsExperts,
};
