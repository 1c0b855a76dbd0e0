import type { RuntimeDescription } from "./runtime.js";

/**
 * DeepSpeed: `PipelineModule` runs 1F1B and goes with ZeRO-0 and 1; without stages all of ZeRO. AutoTP splits layers
 * without dividing sequences.
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
  offload: ["none"],
  splitsExperts: () => false,
  shards: ({ pipeline, zero }) => zero < 2 || pipeline === 1,
};
