import {
  type PipedreamProblem,
  type PipedreamTables,
  type Place,
  peakBytes,
  reduceSeconds,
  slack,
  unbounded,
} from "./pipedreamTables.js";

/** A stage of a range, between two cuts, with the stages of the level below inside it. */
export interface PlannedStage {
  start: number;
  end: number;
  replicas: number;
  /** Machines of the level before it. */
  used: number;
  inner: PlannedStage[];
}

/** Sums that differ by less, relatively, are equal: they were added in another order. */
const tie = 1e-12;

/**
 * The stages of a range, all of whose times and transfers are at most `limit` seconds: of all such plans the one
 * with the least sum of stage times, then traffic, then (innermost level) peak memory, then the latest cuts. The
 * levels below follow with what limit is left for them.
 */
export function planStages(
  problem: PipedreamProblem,
  tables: PipedreamTables,
  limit: number,
  at = problem.levels.length - 1,
  place: Place = { copies: 1, later: 0 },
  start = 0,
  end = problem.cuts.count - 1,
): PlannedStage[] {
  const { cuts, levels, straight, peerMemoryBytes, memoryBytes } = problem;
  const { count, seconds, parameterBytes, activationBytes, outputBytes, inside } = cuts;
  const level = levels[at]!;
  const { machines, devices, transferSeconds } = level;
  const last = count - 1;
  const most = limit * slack;
  // By cut, then by machines used: `[j * width + p]`.
  const width = machines + 1;
  const sums = new Float64Array(count * width).fill(unbounded);
  const traffic = new Float64Array(count * width);
  const peaks = new Float64Array(count * width);
  const fromCut = new Int32Array(count * width);
  const replicas = new Int32Array(count * width);
  sums[start * width] = 0;
  const within = (part: number, whole: number) =>
    part === whole || inside === undefined || inside[whole * count + part] === 1;
  const limited = peerMemoryBytes < unbounded;
  // Above zero, so that graphs that take no time have a quotient.
  const atOnce = Math.max(most * slack * devices, 1e-300);
  const equal = tie * limit;

  for (let j = start + 1; j <= end; j++) {
    if (!within(start, j) || !within(j, end)) continue;
    const here = seconds[j]!;
    const sent = j === last ? 0 : transferSeconds[j]!;
    // Machines that the range up to here needs, and leaves to what follows.
    const fewest = j === end ? machines : Math.max(1, Math.ceil((here - seconds[start]!) / atOnce));
    const highest = j === end ? machines : machines - Math.max(1, Math.ceil((seconds[end]! - here) / atOnce));
    for (let k = j - 1; k >= start; k--) {
      const span = here - seconds[k]!;
      if (span > atOnce * machines) break;
      const first = k === start;
      if (!within(k, j) || (!first && !within(start, k))) continue;
      const received = first ? 0 : transferSeconds[k]!;
      const crossing = first ? 0 : Math.max(sent, received);
      const parameters = parameterBytes[j]! - parameterBytes[k]!;
      const activations = activationBytes[j]! - activationBytes[k]!;
      const input = first ? 0 : 2 * outputBytes[k]!;
      for (let m = straight ? 1 : Math.max(1, Math.ceil(span / atOnce)); m <= highest; m++) {
        if (straight && m > 1) break;
        if (crossing > most * m) continue;
        const reduce = reduceSeconds(level, m, parameters, first);
        if (span / devices + reduce > most * slack * m) continue;
        const sends = input + (4 * (m - 1) * parameters) / m;
        // The first stage uses the first machines; any other one follows at least one machine.
        const to = first ? Math.min(highest, m) : highest;
        for (let p = Math.max(fewest, first ? m : m + 1); p <= to; p++) {
          const before = k * width + p - m;
          if (sums[before]! >= unbounded) continue;
          const slot = j * width + p;
          const later = place.later + place.copies * (machines - p) * devices;
          const kept = activations + parameters;
          if (limited && Math.ceil((machines - p) / m) * kept > peerMemoryBytes) continue;
          let range = span;
          if (at > 0) range = tables.below(at, { copies: place.copies * m, later }, k)[j]!;
          const time = (range + reduce) / m;
          if (time > most) continue;
          const sum = sums[before]! + time;
          const worse = sum - sums[slot]!;
          if (worse > equal) continue;
          let peak = peaks[before]!;
          if (at === 0) {
            const own = peakBytes(place.copies * m, later, activations, parameters);
            if (own > memoryBytes) continue;
            if (own > peak) peak = own;
          }
          const bytes = traffic[before]! + sends;
          if (worse >= -equal) {
            const more = bytes - traffic[slot]!;
            if (more > tie * bytes || (more >= -tie * bytes && peak >= peaks[slot]!)) continue;
          }
          sums[slot] = sum;
          traffic[slot] = bytes;
          peaks[slot] = peak;
          fromCut[slot] = k;
          replicas[slot] = m;
        }
      }
    }
  }

  const stages: PlannedStage[] = [];
  for (let j = end, p = machines; p > 0; ) {
    const slot = j * width + p;
    const m = replicas[slot]!;
    if (m === 0) throw new Error("the tables hold a value that no plan has");
    const k = fromCut[slot]!;
    const stage: PlannedStage = { start: k, end: j, replicas: m, used: p - m, inner: [] };
    if (at > 0) {
      const inner = {
        copies: place.copies * m,
        later: place.later + place.copies * (machines - p) * devices,
      };
      const parameters = parameterBytes[j]! - parameterBytes[k]!;
      const left = limit * m - reduceSeconds(level, m, parameters, m === p);
      const least = tables.below(at, inner, k)[j]!;
      stage.inner = planStages(problem, tables, Math.max(left, least), at - 1, inner, k, j);
    }
    stages.unshift(stage);
    p -= m;
    j = k;
  }
  return stages;
}
