import { type CompiledSchedule, kindCodes } from "./compile.js";
import { routesOf } from "./routes.js";
import type { Clock } from "./timeInOrder.js";

/** Relative difference that rounding leaves between equal rounds. */
const tolerance = 1e-9;

/**
 * Time of one more micro-batch once the pipeline is full: the pace at which first stages end backwards, from half
 * of the run on and before its drain. Times of a fixed order are max-plus linear and so become periodic (Baccelli
 * et al., "Synchronization and Linearity", 1992, theorem 3.109): where a whole number of equal periods shows, the
 * result is exact, otherwise it is the mean over what there is.
 */
export function steadySecondsPerMicroBatch(schedule: CompiledSchedule, { ends }: Clock): number {
  const { table, kind, stage, length, peakMicroBatches } = schedule;
  const first = new Set(routesOf(table).map(({ stages }) => stages[0]!));
  const times: number[] = [];
  for (let i = 0; i < length; i++) {
    const isLast = kind[i] === kindCodes.backward || kind[i] === kindCodes["backward-input"];
    if (isLast && first.has(stage[i]!)) times.push(ends[i]!);
  }
  times.sort((a, b) => a - b);
  const drain = peakMicroBatches.reduce((most, each) => Math.max(most, each), 0);
  const window = times.slice(Math.floor(times.length / 2), Math.max(0, times.length - drain));
  const used = window.length >= 2 ? window : times;
  if (used.length < 2) return times[0] ?? 0;
  const span = used.at(-1)! - used[0]!;
  for (let period = 1; 2 * period < used.length; period++) {
    const round = used[period]! - used[0]!;
    let equal = true;
    for (let i = 1; equal && i + period < used.length; i++) {
      equal = Math.abs(used[i + period]! - used[i]! - round) <= tolerance * (span + round);
    }
    if (equal) return round / period;
  }
  return span / (used.length - 1);
}
