import { type CompiledSchedule, kindCodes, lastComputeKind } from "./compile.js";
import type { Clock } from "./timeInOrder.js";
import type { FlatTimes } from "./times.js";

/**
 * What a rank waits for: the `activation` or `gradient` that another rank has yet to make; the other rank's
 * `receive` of a blocking send; the `link` while data is queued or under way; a `gather` or `reduction`; or
 * nothing more, at the `end` of its list.
 */
export type WaitCause = "activation" | "gradient" | "receive" | "link" | "gather" | "reduction" | "end";

export interface Wait {
  cause: WaitCause;
  /** Of `activation`, `gradient` and `receive`: the rank that is waited for; of `link`: the one at its other end. */
  rank?: number;
  seconds: number;
}

const causes: readonly WaitCause[] = [
  "activation",
  "gradient",
  "receive",
  "link",
  "gather",
  "reduction",
  "end",
];
const [activation, , receiver, link, gather, reduction, end] = [0, 1, 2, 3, 4, 5, 6] as const;

/**
 * Splits the time that each rank does not compute by cause. Where an action waits for several things, the one that
 * comes last counts, for all of the wait.
 */
export function waitsOf(
  schedule: CompiledSchedule,
  times: FlatTimes,
  clock: Clock,
  stepSeconds: number,
): Wait[][] {
  const { kind, rank, partner, positionsOfRank, transfers, output } = schedule;
  const { starts, ends } = clock;
  const ranks = positionsOfRank.length;
  return positionsOfRank.map((positions) => {
    // By cause x rank; the last three causes use rank 0.
    const seconds = new Float64Array(causes.length * ranks);
    const add = (cause: number, from: number, amount: number) => {
      if (amount > 0) seconds[cause * ranks + from] = seconds[cause * ranks + from]! + amount;
    };
    /** Until `made` for the maker's sake, then for the way. */
    const split = (cause: number, from: number, since: number, made: number, until: number) => {
      const turn = Math.min(Math.max(made, since), until);
      add(cause, from, turn - since);
      add(link, from, until - turn);
    };
    let free = 0;
    for (const i of positions) {
      const other = partner[i]!;
      if (kind[i]! > lastComputeKind) {
        if (other === -1) continue;
        const isSend = kind[i] === kindCodes.send;
        const cause = isSend ? receiver : activation + transfers.gradient[output[i]!]!;
        split(cause, rank[other]!, free, starts[other]!, ends[i]!);
        free = ends[i]!;
        continue;
      }
      if (starts[i]! > free) {
        const last = other === -1 ? i : latest(schedule, times, clock, i, other);
        explain(schedule, times, clock, last, free, starts[i]!, add, split);
      }
      free = ends[i]!;
    }
    add(end, 0, stepSeconds - free);
    const waits: Wait[] = [];
    seconds.forEach((amount, at) => {
      const cause = Math.floor(at / ranks);
      if (amount > 0) {
        waits.push({
          cause: causes[cause]!,
          ...(cause <= link ? { rank: at % ranks } : {}),
          seconds: amount,
        });
      }
    });
    return waits.sort((a, b) => b.seconds - a.seconds);
  });
}

function arrivalOf(schedule: CompiledSchedule, times: FlatTimes, clock: Clock, i: number): number {
  const t = schedule.transfer[i]!;
  if (t === -1) return 0;
  if (!schedule.plain || times.network) return clock.arrivals[t]!;
  return (
    clock.ends[schedule.input[i]!]! +
    times.delaySeconds[2 * schedule.boundary[i]! + schedule.transfers.gradient[t]!]!
  );
}

function collectiveEndOf({ collective }: CompiledSchedule, { collectiveEnds }: Clock, i: number): number {
  return collective[i] === -1 ? 0 : collectiveEnds[collective[i]!]!;
}

/** The half of an overlapped pair that waits longer. */
function latest(schedule: CompiledSchedule, times: FlatTimes, clock: Clock, i: number, j: number): number {
  const [one, two] = [i, j].map((each) =>
    Math.max(arrivalOf(schedule, times, clock, each), collectiveEndOf(schedule, clock, each)),
  );
  return two! > one! ? j : i;
}

function explain(
  schedule: CompiledSchedule,
  times: FlatTimes,
  clock: Clock,
  i: number,
  since: number,
  until: number,
  add: (cause: number, from: number, amount: number) => void,
  split: (cause: number, from: number, since: number, made: number, until: number) => void,
): void {
  const { collective, collectives, transfer, transfers, input, rank } = schedule;
  if (collectiveEndOf(schedule, clock, i) > arrivalOf(schedule, times, clock, i)) {
    add(collectives.reduces[collective[i]!] ? reduction : gather, 0, until - since);
    return;
  }
  const from = input[i]!;
  const t = transfer[i]!;
  split(activation + transfers.gradient[t]!, rank[from]!, since, clock.ends[from]!, until);
}
