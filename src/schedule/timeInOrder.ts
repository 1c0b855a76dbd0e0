import { type CompiledSchedule, lastComputeKind } from "./compile.js";
import type { FlatTimes } from "./times.js";

/** Start and end of everything, seconds; what the timing loops fill. */
export interface Clock {
  /** By position. Posted sends and receives and reshards take no time. */
  readonly starts: Float64Array;
  readonly ends: Float64Array;
  /** By transfer: when its first byte moves, and when the receiver may use it. */
  readonly transferStarts: Float64Array;
  readonly arrivals: Float64Array;
  /** By collective. */
  readonly collectiveStarts: Float64Array;
  readonly collectiveEnds: Float64Array;
}

/** Arrays to time a schedule into, again and again. */
export function clockFor({ length, transfers, collectives }: CompiledSchedule): Clock {
  return {
    starts: new Float64Array(length),
    ends: new Float64Array(length),
    transferStarts: new Float64Array(transfers.length),
    arrivals: new Float64Array(transfers.length),
    collectiveStarts: new Float64Array(collectives.length),
    collectiveEnds: new Float64Array(collectives.length),
  };
}

/**
 * Whether one pass over the order gives all times: no link that several connections share, and no gather or
 * reduction. Otherwise `timeByEvents` must step through time.
 */
export function isTimedInOrder(schedule: CompiledSchedule, times: FlatTimes): boolean {
  return schedule.collectives.length === 0 && !times.network?.shared;
}

/**
 * Start and end of every action by one pass over the compiled order. Allocates nothing.
 * @param transfers fill the times of transfers even where the actions' own can do without.
 * @returns the end of the last action.
 */
export function timeInOrder(
  schedule: CompiledSchedule,
  times: FlatTimes,
  clock: Clock,
  transfers = false,
): number {
  return schedule.plain && !times.network && !transfers
    ? timePlain(schedule, times, clock)
    : timeGeneral(schedule, times, clock);
}

/** Only compute actions, transfers that are a delay. */
function timePlain(schedule: CompiledSchedule, times: FlatTimes, { starts, ends }: Clock): number {
  const { length, kind, stage, previousOnRank, input, boundary } = schedule;
  const { stages } = schedule.table;
  const { seconds, delaySeconds } = times;
  let makespan = 0;
  for (let i = 0; i < length; i++) {
    const previous = previousOnRank[i]!;
    let start = previous === -1 ? 0 : ends[previous]!;
    const from = input[i]!;
    const code = kind[i]!;
    if (from !== -1) {
      const crossed = boundary[i]!;
      const arrival =
        crossed === -1 ? ends[from]! : ends[from]! + delaySeconds[2 * crossed + (code === 0 ? 0 : 1)]!;
      if (arrival > start) start = arrival;
    }
    const end = start + seconds[code * stages + stage[i]!]!;
    starts[i] = start;
    ends[i] = end;
    if (end > makespan) makespan = end;
  }
  return makespan;
}

/** Overlapped pairs, sends and receives, and links that one connection has for itself. */
function timeGeneral(schedule: CompiledSchedule, times: FlatTimes, clock: Clock): number {
  const { length, kind, stage, previousOnRank, input, partner, boundary, transfer } = schedule;
  const { transfers, output, blockingSends } = schedule;
  const { stages } = schedule.table;
  const { seconds, delaySeconds, network, pairFactor } = times;
  const { starts, ends, transferStarts, arrivals } = clock;
  const count = transfers.length;

  const startOf = (i: number): number => {
    const previous = previousOnRank[i]!;
    let start = previous === -1 ? 0 : ends[previous]!;
    const t = transfer[i]!;
    if (t !== -1) {
      if (arrivals[t]! > start) start = arrivals[t]!;
    } else if (input[i] !== -1 && ends[input[i]!]! > start) start = ends[input[i]!]!;
    return start;
  };
  const secondsOf = (i: number) => seconds[kind[i]! * stages + stage[i]!]!;
  let makespan = 0;
  let next = 0;

  for (let i = 0; i < length; i++) {
    const code = kind[i]!;
    const other = partner[i]!;
    if (code <= lastComputeKind) {
      let start = startOf(i);
      let duration = secondsOf(i);
      if (other === i + 1) {
        start = Math.max(start, startOf(other));
        duration = pairFactor * (duration + secondsOf(other));
        starts[other] = start;
        ends[other] = start + duration;
      }
      if (other !== i - 1 || i === 0) {
        starts[i] = start;
        ends[i] = start + duration;
      }
    } else if (other === -1) {
      const previous = previousOnRank[i]!;
      starts[i] = ends[i] = previous === -1 ? 0 : ends[previous]!;
    } else if (other === i + 1) {
      const mine = previousOnRank[i] === -1 ? 0 : ends[previousOnRank[i]!]!;
      const theirs = previousOnRank[other] === -1 ? 0 : ends[previousOnRank[other]!]!;
      const t = output[i]!;
      const start = Math.max(mine, theirs);
      const end = start + delaySeconds[2 * boundary[i]! + transfers.gradient[t]!]!;
      transferStarts[t] = start;
      arrivals[t] = end;
      starts[i] = mine;
      starts[other] = theirs;
      ends[i] = ends[other] = end;
    }
    if (ends[i]! > makespan) makespan = ends[i]!;

    // A transfer after the second of a pair waits until both have their times.
    while (next < count && transfers.after[next]! <= i && !(other === i + 1 && code <= lastComputeKind)) {
      const t = next++;
      const way = 2 * transfers.boundary[t]! + transfers.gradient[t]!;
      if (blockingSends && kind[transfers.producer[t]!]! > lastComputeKind) continue;
      let start = ends[transfers.producer[t]!]!;
      const receive = transfers.posted[t]!;
      if (receive !== -1 && ends[receive]! > start) start = ends[receive]!;
      if (network) {
        const before = transfers.previous[t]!;
        if (before !== -1) {
          const free = transferStarts[before]! + network.aloneSeconds[wayOf(schedule, before)]!;
          if (free > start) start = free;
        }
        arrivals[t] = start + network.aloneSeconds[way]! + network.latencySeconds[way]!;
      } else arrivals[t] = start + delaySeconds[way]!;
      transferStarts[t] = start;
    }
  }
  return makespan;
}

function wayOf({ transfers }: CompiledSchedule, t: number): number {
  return 2 * transfers.boundary[t]! + transfers.gradient[t]!;
}
