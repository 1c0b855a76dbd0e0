import type { FlatSchedule } from "./problem.js";

/**
 * What each rank's memory must hold over time, bytes times seconds: an activation stays at least for its
 * micro-batch's way to the last stage and back.
 */
export function memoryAreas(flat: FlatSchedule): Float64Array {
  const { stages, kinds, seconds, bytes, delay, rankOf, microBatches } = flat;
  const areas = new Float64Array(flat.ranks);
  let way = 0;
  for (let s = stages - 1; s >= 0; s--) {
    const forward = s * kinds;
    way += seconds[forward]! + seconds[forward + 1]!;
    const kept = kinds === 3 ? -bytes[forward + 2]! * seconds[forward + 2]! : 0;
    const area = microBatches * (bytes[forward]! * way + kept);
    areas[rankOf[forward]!] = areas[rankOf[forward]!]! + area;
    way += s > 0 ? delay[forward]! + delay[forward - kinds + 1]! : 0;
  }
  return areas;
}

/**
 * Whether a rank's memory has that much room within its windows: at each time it holds at most its limit, what
 * can have started by then, and what can still be there.
 */
export function hasArea(
  flat: FlatSchedule,
  rank: number,
  area: number,
  earliest: Float64Array,
  latest: Float64Array,
  tolerance: number,
): boolean {
  const { microBatches: m, kinds, bytes } = flat;
  const limit = flat.limit[rank]!;
  if (area === 0 || limit === Number.POSITIVE_INFINITY) return true;
  const comes: [time: number, bytes: number][] = [];
  const goes: [time: number, bytes: number][] = [];
  for (const chain of flat.chainsOfRank[rank]!) {
    for (let k = 0; k < m; k++) {
      if (chain % kinds === 0) comes.push([earliest[chain * m + k]!, bytes[chain]!]);
      else goes.push([-latest[chain * m + k]!, -bytes[chain]!]);
    }
  }
  // The time from which the memory, were it full at once, would have as much room; mirrored for the end.
  const ramp = (events: [number, number][]): number => {
    events.sort((a, b) => a[0] - b[0]);
    let held = 0;
    let at = events[0]![0];
    let used = 0;
    for (const [time, more] of events) {
      used += held * (time - at);
      at = time;
      held += more;
      if (held >= limit) break;
    }
    return at - used / limit;
  };
  const start = ramp(comes);
  const end = -ramp(goes);
  return area <= limit * (end - start + tolerance) * (1 + 1e-12);
}
