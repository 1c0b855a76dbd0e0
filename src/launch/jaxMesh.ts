import { axisSize, type Plan } from "../contracts/index.js";
import { divisionOf } from "./outside.js";

/** How a plan's ranks appear in JAX: its mesh, and which axes take what. */
export interface JaxMesh {
  /** Outermost first, in the plan's rank order; `replica` where ZeRO shards over a part of the data ranks. */
  axes: string[];
  shape: number[];
  /** Axes that ZeRO shards over. */
  state: string[];
  /** Data axes whose gradients are summed once a step. */
  mapped: string[];
  /** Data axes whose gradients are summed, into shards, with every micro-batch. */
  batch: string[];
}

/** The mesh without its pipeline axis, which JAX's core has no schedule for. */
export function jaxMesh(plan: Plan): JaxMesh {
  const { data, context, shards, zero } = divisionOf(plan);
  // Groups that are no sub-mesh are refused; written all the same, they hold all replicas.
  const whole = zero === 0 || shards % context !== 0 || data % (shards / context) !== 0;
  const inner = whole ? data : shards / context;
  const axes: string[] = [];
  const shape: number[] = [];
  for (const axis of plan.mesh.axes) {
    if (axis === "pipeline") continue;
    if (axis === "data" && inner < data) {
      axes.push("replica");
      shape.push(data / inner);
    }
    axes.push(axis);
    shape.push(axis === "data" ? inner : axisSize(plan, axis));
  }
  const over = inner < data ? ["replica"] : [];
  return {
    axes,
    shape,
    state: zero === 0 ? [] : axes.filter((axis) => axis === "data" || axis === "context"),
    mapped: zero < 2 ? [...over, "data"] : over,
    batch: zero < 2 ? [] : ["data"],
  };
}
