import type { Action, ScheduleTable } from "../../src/schedule/index.js";

/** Times of one action of every stage. A whole backward takes both halves. */
export interface UnitTimes {
  forward: number;
  backwardInput: number;
  backwardWeight: number;
  /** Of two overlapped actions; by default the sum of both. */
  overlapped?: number;
}

export interface RankTimes {
  start: number;
  end: number;
  busy: number;
  /** Most activations held at once: 1 from the forward to the backward, `betweenHalves` from half to half. */
  peak: number;
}

/**
 * Times of every rank with free transfers: the longest path through a graph of actions, found by raising the
 * starts until nothing changes. Slow and literal, and apart from the product's simulator.
 */
export function longestPath(table: ScheduleTable, times: UnitTimes, betweenHalves = 1): RankTimes[] {
  const { forward, backwardInput, backwardWeight } = times;
  const length = (kind: string) =>
    ({
      forward,
      backward: backwardInput + backwardWeight,
      "backward-input": backwardInput,
      "backward-weight": backwardWeight,
    })[kind] ?? 0;
  const neighbour = new Map<string, number>();
  for (const { stages } of table.routes ?? [{ stages: Array.from({ length: table.stages }, (_, s) => s) }]) {
    stages.forEach((stage, i) => {
      if (i > 0) {
        neighbour.set(`forward ${stage}`, stages[i - 1]!);
        neighbour.set(`gradient ${stages[i - 1]}`, stage);
      }
    });
  }
  const direction = (kind: string) => (kind === "forward" ? "forward" : "gradient");
  const passesOn = (kind: string) => kind !== "backward-weight" && kind !== "optimizer";
  const output = new Map<string, number>();
  // Overlapped actions start together and end together.
  const steps = table.ranks.map((actions) => {
    const list: { actions: Action[]; end: number; seconds: number }[] = [];
    for (let i = 0; i < actions.length; i++) {
      const pair = actions[i]!.overlapped ? [actions[i]!, actions[++i]!] : [actions[i]!];
      const sum = pair.reduce((total, { kind }) => total + length(kind), 0);
      list.push({ actions: pair, end: -1, seconds: pair.length === 2 ? (times.overlapped ?? sum) : sum });
    }
    return list;
  });
  for (let changed = true; changed; ) {
    changed = false;
    for (const list of steps) {
      let before = 0;
      for (const step of list) {
        let start = before;
        for (const { kind, stage, microBatch } of step.actions) {
          if (!passesOn(kind)) continue;
          const from = neighbour.get(`${direction(kind)} ${stage}`);
          if (from === undefined) continue;
          start = Math.max(start, output.get(`${direction(kind)} ${from} ${microBatch}`) ?? 0);
        }
        const end = start + step.seconds;
        if (end !== step.end) {
          changed = true;
          step.end = end;
          for (const { kind, stage, microBatch } of step.actions) {
            if (passesOn(kind)) output.set(`${direction(kind)} ${stage} ${microBatch}`, end);
          }
        }
        before = end;
      }
    }
  }
  return steps.map((list) => {
    let [held, peak] = [0, 0];
    for (const { actions } of list) {
      for (const { kind } of actions) {
        if (kind === "forward") held++;
        else if (kind === "backward") held--;
        else if (kind === "backward-input") held += betweenHalves - 1;
        else if (kind === "backward-weight") held -= betweenHalves;
        peak = Math.max(peak, held);
      }
    }
    const busy = list.reduce((sum, { seconds }) => sum + seconds, 0);
    const [first] = list;
    return { start: first!.end - first!.seconds, end: list.at(-1)!.end, busy, peak };
  });
}
