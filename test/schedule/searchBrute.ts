import type { ScheduleTable } from "../../src/schedule/index.js";
import type { ScheduleProblem } from "../../src/schedule/search/problem.js";

interface Operation {
  rank: number;
  seconds: number;
  before: number;
  delay: number;
  /** Bytes taken at the start and given back at the end. */
  takes: number;
  gives: number;
}

function operationsOf(problem: ScheduleProblem): Operation[] {
  const { stages, microBatches, splitBackward, transferSeconds = [] } = problem;
  const list: Operation[] = [];
  const delay = (i: number) => (stages[i]!.rank === stages[i + 1]!.rank ? 0 : (transferSeconds[i] ?? 0));
  for (let k = 0; k < microBatches; k++) {
    let last = -1;
    stages.forEach(({ rank, forwardSeconds, activationBytes = 1 }, s) => {
      const seconds = forwardSeconds;
      last =
        list.push({
          rank,
          seconds,
          before: last,
          delay: s ? delay(s - 1) : 0,
          takes: activationBytes,
          gives: 0,
        }) - 1;
    });
    for (let s = stages.length - 1; s >= 0; s--) {
      const {
        rank,
        backwardInputSeconds,
        backwardWeightSeconds,
        activationBytes = 1,
        weightGradientBytes = 0,
      } = stages[s]!;
      const kept = splitBackward ? weightGradientBytes : 0;
      last =
        list.push({
          rank,
          seconds: backwardInputSeconds + (splitBackward ? 0 : backwardWeightSeconds),
          before: last,
          delay: s < stages.length - 1 ? delay(s) : 0,
          takes: 0,
          gives: activationBytes - kept,
        }) - 1;
      if (splitBackward) {
        list.push({ rank, seconds: backwardWeightSeconds, before: last, delay: 0, takes: 0, gives: kept });
      }
    }
  }
  return list;
}

/**
 * The least step time, by trying every way to start operations one after the other, micro-batches in any order
 * on any stage. States are kept apart by what is done and when ranks and results are ready; nothing else is
 * assumed.
 */
export function leastSeconds(problem: ScheduleProblem): number {
  const operations = operationsOf(problem);
  const ranks = problem.ranks ?? 1 + Math.max(...problem.stages.map(({ rank }) => rank));
  const limit = Array.from({ length: ranks }, (_, r) => (problem.memoryLimitBytes?.[r] ?? Infinity) + 1e-9);
  const ends = new Array<number>(operations.length).fill(-1);
  const free = new Array<number>(ranks).fill(0);
  const held = new Array<number>(ranks).fill(0);
  const left = new Array<number>(ranks).fill(0);
  for (const { rank, seconds } of operations) left[rank]! += seconds;
  let best = Infinity;
  const seen = new Set<string>();
  const visit = (placed: number, step: number) => {
    if (free.some((time, r) => time + left[r]! >= best)) return;
    if (placed === operations.length) {
      best = step;
      return;
    }
    const key = `${ends.join(" ")}`;
    if (seen.has(key)) return;
    seen.add(key);
    operations.forEach(({ rank, seconds, before, delay, takes, gives }, op) => {
      if (ends[op]! >= 0 || (before >= 0 && ends[before]! < 0) || held[rank]! + takes > limit[rank]!) return;
      const start = Math.max(free[rank]!, before >= 0 ? ends[before]! + delay : 0);
      const was = free[rank]!;
      const heldBefore = held[rank]!;
      ends[op] = start + seconds;
      free[rank] = start + seconds;
      left[rank]! -= seconds;
      held[rank] = heldBefore + takes - gives;
      visit(placed + 1, Math.max(step, ends[op]!));
      held[rank] = heldBefore;
      left[rank]! += seconds;
      free[rank] = was;
      ends[op] = -1;
    });
  };
  visit(0, 0);
  return best;
}

/**
 * Runs a table against the problem: the end of the step, and the most that each rank holds.
 * @throws Error for an action that repeats, comes too early on its rank, or waits in a circle.
 */
export function replay(problem: ScheduleProblem, table: ScheduleTable): { seconds: number; peak: number[] } {
  const { stages, microBatches, splitBackward, transferSeconds = [] } = problem;
  const ends = new Map<string, number>();
  const at = table.ranks.map(() => 0);
  const free = table.ranks.map(() => 0);
  const held = table.ranks.map(() => 0);
  const peak = table.ranks.map(() => 0);
  const delay = (i: number) => (stages[i]!.rank === stages[i + 1]!.rank ? 0 : (transferSeconds[i] ?? 0));
  let count = 0;
  for (let moved = true; moved; ) {
    moved = false;
    table.ranks.forEach((actions, r) => {
      for (; at[r]! < actions.length; at[r]!++) {
        const { kind, stage: s, microBatch: k } = actions[at[r]!]!;
        const stage = stages[s]!;
        if (stage.rank !== r) throw new Error(`stage ${s} on rank ${r}`);
        let needs: string | undefined;
        let wait = 0;
        let seconds: number;
        const { activationBytes = 1, weightGradientBytes = 0 } = stage;
        let change = activationBytes;
        if (kind === "forward") {
          seconds = stage.forwardSeconds;
          if (s > 0) [needs, wait] = [`forward ${s - 1} ${k}`, delay(s - 1)];
        } else if (kind === "backward-weight") {
          seconds = stage.backwardWeightSeconds;
          needs = `input ${s} ${k}`;
          change = -weightGradientBytes;
        } else {
          if ((kind === "backward-input") !== splitBackward) throw new Error(`unexpected ${kind}`);
          seconds = stage.backwardInputSeconds + (splitBackward ? 0 : stage.backwardWeightSeconds);
          if (s < stages.length - 1) [needs, wait] = [`input ${s + 1} ${k}`, delay(s)];
          else needs = `forward ${s} ${k}`;
          change = -activationBytes + (splitBackward ? weightGradientBytes : 0);
        }
        if (needs && !ends.has(needs)) return;
        const start = Math.max(free[r]!, needs ? ends.get(needs)! + wait : 0);
        const name = `${kind === "forward" ? kind : kind === "backward-weight" ? "weight" : "input"} ${s} ${k}`;
        if (ends.has(name)) throw new Error(`again ${name}`);
        ends.set(name, start + seconds);
        free[r] = start + seconds;
        held[r]! += change;
        peak[r] = Math.max(peak[r]!, held[r]!);
        count++;
        moved = true;
      }
    });
  }
  const expected = stages.length * microBatches * (splitBackward ? 3 : 2);
  if (count !== expected) throw new Error(`${count} of ${expected} actions ran`);
  return { seconds: Math.max(...free), peak };
}
