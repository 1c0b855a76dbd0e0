import type { RuntimeDescription } from "./runtime.js";

/**
 * JAX, as `plan_sharding.py` applies a plan: GSPMD over a mesh of data, context and tensor axes. Its core has no pipeline
 * schedule and no ring; context-parallel ranks exchange sequence for heads, which a change of sharding says. Experts are
 * split over tensor ranks like other layers.
 */
export const jax: RuntimeDescription = {
  name: "jax",
  software: "plain",
  pipeline: false,
  sequenceParallel: [true, false],
  schedules: ["1f1b"],
  context: ["all-to-all"],
  experts: false,
  zero: [1, 0, 2, 3],
  hybrid: true,
  recompute: ["none", "selective", "full"],
  besideWholeLayers: ["none", "selective"],
  offload: ["none"],

  /** Groups are sub-meshes of whole context groups. Arrays are cut into equal parts alone, most of them along `hidden`. */
  shards({ zero, shards, context, data }, architecture) {
    if (zero === 0) return true;
    if (shards % context !== 0 || data % (shards / context) !== 0) return false;
    return architecture === undefined || architecture.hidden % shards === 0;
  },
};
