import type { Plan, Stage } from "../contracts/index.js";

/**
 * Recomputation of all stages in one setting: `full` for every layer, the attention of every layer (`selective`), a
 * number for the first so many layers of each stage, whole.
 */
export type Recomputation = "none" | "selective" | "full" | number;

const layersOf = ({ layers }: Stage): number => layers.end - layers.start;

/** Layers of a stage, from its first, that are recomputed whole. */
export function wholeLayers(stage: Stage): number {
  if (stage.recompute === "full") return layersOf(stage);
  return Math.min(stage.recomputeLayers ?? 0, layersOf(stage));
}

/** The one setting that gives every stage its recomputation; undefined where none does. */
export function commonRecomputation({ stages }: Pick<Plan, "stages">): Recomputation | undefined {
  const open = stages.filter((stage) => wholeLayers(stage) < layersOf(stage));
  const most = Math.max(...stages.map(wholeLayers));
  if (most > 0 && open.length === 0) return "full";
  if (open.some(({ recompute }) => recompute === "selective")) {
    const alike = stages.every((stage) => wholeLayers(stage) === 0) && isOne(open.map((s) => s.recompute));
    return alike ? "selective" : undefined;
  }
  if (stages.some((stage) => wholeLayers(stage) !== Math.min(most, layersOf(stage)))) return undefined;
  return most === 0 ? "none" : most;
}

function isOne(values: readonly unknown[]): boolean {
  return new Set(values).size === 1;
}
