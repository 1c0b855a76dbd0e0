import type { FlatSchedule } from "./problem.js";

/**
 * Whether one machine could meet the windows of these chains' operations if it might interrupt them: it always
 * works on what must end first (Jackson's preemptive schedule; Carlier, EJOR 11, 1982, section 2).
 */
export function meetsDeadlines(
  flat: FlatSchedule,
  chains: ArrayLike<number>,
  earliest: Float64Array,
  latest: Float64Array,
  tolerance: number,
): boolean {
  const m = flat.microBatches;
  const operations: number[] = [];
  const left = new Map<number, number>();
  for (let i = 0; i < chains.length; i++) {
    for (let k = 0; k < m; k++) {
      operations.push(chains[i]! * m + k);
      left.set(chains[i]! * m + k, flat.seconds[chains[i]!]!);
    }
  }
  operations.sort((a, b) => earliest[a]! - earliest[b]!);
  // A heap of what is ready, by latest end.
  const heap: number[] = [];
  const less = (a: number, b: number) => latest[heap[a]!]! < latest[heap[b]!]!;
  const swap = (a: number, b: number) => {
    const kept = heap[a]!;
    heap[a] = heap[b]!;
    heap[b] = kept;
  };
  let now = 0;
  let next = 0;
  while (next < operations.length || heap.length) {
    if (!heap.length) now = Math.max(now, earliest[operations[next]!]!);
    while (next < operations.length && earliest[operations[next]!]! <= now) {
      let at = heap.push(operations[next++]!) - 1;
      for (; at > 0 && less(at, (at - 1) >> 1); at = (at - 1) >> 1) swap(at, (at - 1) >> 1);
    }
    const op = heap[0]!;
    const until = next < operations.length ? earliest[operations[next]!]! : Number.POSITIVE_INFINITY;
    const work = left.get(op)!;
    if (now + work > until) {
      left.set(op, work - (until - now));
      now = until;
      continue;
    }
    now += work;
    if (now > latest[op]! + tolerance) return false;
    const last = heap.pop()!;
    if (!heap.length) continue;
    heap[0] = last;
    for (let at = 0; ; ) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && less(child + 1, child)) child++;
      if (!less(child, at)) break;
      swap(child, at);
      at = child;
    }
  }
  return true;
}
