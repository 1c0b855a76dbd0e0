import type { Group } from "../cluster/index.js";
import type { Collective, CommunicationModel } from "./communication.js";
import { type Placement, samePlacement } from "./placement.js";

/**
 * Seconds to bring a tensor from one placement to another over a group.
 * @param bytes the whole tensor.
 * @param copySeconds what a framework takes to copy so many bytes where its collectives know the first axis alone, and
 *   parts along another one have to be put in order before or after; nothing by default.
 * @returns Infinity where no collective does it (into a partial sum).
 */
export function reshardSeconds(
  from: Placement,
  to: Placement,
  bytes: number,
  group: Group,
  communication: CommunicationModel,
  copySeconds: (bytes: number) => number = () => 0,
): number {
  if (samePlacement(from, to)) return 0;
  const inOrder = [from, to].every((placement) => placement.kind !== "shard" || placement.axis === 0);
  const copies = inOrder ? 0 : copySeconds(bytes);
  const seconds = (collective: Collective, size: number) =>
    communication.collectiveSeconds(collective, size, group) + (group.size > 1 ? copies : 0);
  if (to.kind === "partial") return Number.POSITIVE_INFINITY;
  if (from.kind === "partial") {
    return to.kind === "replicate" ? seconds("allReduce", bytes) : seconds("reduceScatter", bytes);
  }
  if (from.kind === "replicate") return 0;
  return to.kind === "replicate" ? seconds("allGather", bytes) : seconds("allToAll", bytes / group.size);
}
