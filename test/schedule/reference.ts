import type { ScheduleTable } from "../../src/schedule/index.js";

/**
 * A slow, literal discrete-event simulation, written apart from the product: a clock, a queue of messages, and
 * ranks that look at the head of their list whenever something happens.
 */
export function referenceMakespan(
  table: ScheduleTable,
  forward: number[],
  backward: number[],
  transfer: number[] = [],
): { makespan: number; finished: boolean; peak: number[] } {
  const { stages } = table;
  const queue: { time: number; type: "arrive" | "free"; key: string; rank: number }[] = [];
  const arrived = new Set<string>();
  const next = table.ranks.map(() => 0);
  const busy = table.ranks.map(() => false);
  const held = table.ranks.map(() => 0);
  const peak = table.ranks.map(() => 0);
  const home = new Map<number, number>();
  table.ranks.forEach((list, rank) => {
    for (const action of list) home.set(action.stage, rank);
  });
  let now = 0;
  let makespan = 0;

  const wake = () => {
    table.ranks.forEach((list, rank) => {
      const action = list[next[rank]!];
      if (busy[rank] || !action) return;
      const { kind, stage, microBatch } = action;
      const source =
        kind === "forward" ? (stage > 0 ? stage - 1 : null) : stage < stages - 1 ? stage + 1 : null;
      if (source !== null && !arrived.has(`${kind} ${stage} ${microBatch}`)) return;
      busy[rank] = true;
      next[rank]!++;
      if (kind === "forward") held[rank]!++;
      peak[rank] = Math.max(peak[rank]!, held[rank]!);
      const end = now + (kind === "forward" ? forward[stage]! : backward[stage]!);
      makespan = Math.max(makespan, end);
      queue.push({ time: end, type: "free", key: kind, rank });
      const target = kind === "forward" ? stage + 1 : stage - 1;
      if (target >= 0 && target < stages) {
        const crosses = home.get(target) !== rank;
        const delay = crosses ? (transfer[Math.min(stage, target)] ?? 0) : 0;
        queue.push({ time: end + delay, type: "arrive", key: `${kind} ${target} ${microBatch}`, rank });
      }
    });
  };

  wake();
  while (queue.length) {
    queue.sort((a, b) => a.time - b.time);
    now = queue[0]!.time;
    while (queue.length && queue[0]!.time === now) {
      const event = queue.shift()!;
      if (event.type === "arrive") arrived.add(event.key);
      else {
        busy[event.rank] = false;
        if (event.key === "backward") held[event.rank]!--;
      }
    }
    wake();
  }
  return { makespan, finished: table.ranks.every((list, rank) => next[rank] === list.length), peak };
}
