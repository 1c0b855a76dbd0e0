import type { RuntimeDescription } from "./runtime.js";

/** JAX: meshes and partition specifications; its core has no pipeline schedule. */
export const jax: RuntimeDescription = {
  name: "jax",
  software: "plain",
  pipeline: false,
  sequenceParallel: [true, false],
  schedules: ["1f1b"],
  context: [],
  experts: false,
  zero: [0, 1, 3],
  hybrid: true,
  recompute: ["none", "full"],
  besideWholeLayers: [],
  offload: ["none"],
};
