/** Where a tensor's parts are: split along an axis, whole on every device, or to be summed. */
export type Placement = { kind: "shard"; axis: number } | { kind: "replicate" } | { kind: "partial" };

export const replicate: Placement = { kind: "replicate" };
export const partial: Placement = { kind: "partial" };
export const shard = (axis: number): Placement => ({ kind: "shard", axis });

export function samePlacement(a: Placement, b: Placement): boolean {
  return a.kind === b.kind && (a.kind !== "shard" || a.axis === (b as { axis: number }).axis);
}

/** DTensor's way of writing it. */
export function placementName(placement: Placement): string {
  if (placement.kind === "shard") return `Shard(${placement.axis})`;
  return placement.kind === "replicate" ? "Replicate" : "Partial";
}
