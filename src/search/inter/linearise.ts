import { type LayeredGraph, neighbours, topologicalOrder } from "../../models/layered.js";

/**
 * Cuts of a DAG. A cut is a down-set (ideal): nodes with all their ancestors. Stages are differences of nested
 * cuts. Sets of nodes are bit sets: `words` words of 32 bits a set, one set after the other in one array.
 */

/** A graph's nodes with the order between them. */
export interface Poset {
  count: number;
  words: number;
  /** Direct predecessors and successors, each once. */
  before: number[][];
  after: number[][];
  /** A topological order, and the place of each node in it. */
  order: number[];
  position: Int32Array;
  /** Bit sets of all ancestors of each node, the node itself not among them. */
  ancestors: Uint32Array;
}

/** Distinct non-empty cuts, by size. */
export interface Cuts {
  count: number;
  bits: Uint32Array;
}

/** The order of an acyclic graph. */
export function posetOf(graph: LayeredGraph): Poset {
  const count = graph.nodes.length;
  const words = (count + 31) >>> 5;
  const { before, after } = neighbours(graph);
  const order = topologicalOrder(graph)!;
  const position = new Int32Array(count);
  const ancestors = new Uint32Array(count * words);
  order.forEach((node, place) => {
    position[node] = place;
    for (const from of before[node]!) {
      for (let w = 0; w < words; w++) ancestors[node * words + w]! |= ancestors[from * words + w]!;
      ancestors[node * words + (from >>> 5)]! |= 1 << (from & 31);
    }
  });
  return { count, words, before, after, order, position, ancestors };
}

/** Whether a bit set that starts at `at` holds a node. */
export function holds(bits: Uint32Array, at: number, node: number): boolean {
  return ((bits[at + (node >>> 5)]! >>> (node & 31)) & 1) === 1;
}

/** Nodes of one cut, ascending. */
export function nodesOf(bits: Uint32Array, at: number, words: number): number[] {
  const nodes: number[] = [];
  for (let w = 0; w < words; w++) {
    for (let rest = bits[at + w]!; rest !== 0; rest &= rest - 1) {
      nodes.push(w * 32 + 31 - Math.clz32(rest & -rest));
    }
  }
  return nodes;
}

function add(bits: Uint32Array, at: number, node: number): void {
  bits[at + (node >>> 5)]! |= 1 << (node & 31);
}

/** A string for each set, the same for equal ones. */
function keyOf(bits: Uint32Array): string {
  return String.fromCharCode(...new Uint16Array(bits.buffer, bits.byteOffset, bits.length * 2));
}

/** A growing list of bit sets. */
class SetList {
  count = 0;
  bits: Uint32Array;
  constructor(readonly words: number) {
    this.bits = new Uint32Array(words * 256);
  }
  /** Appends a copy of the set at `at` in `from`; the index of the copy. */
  push(from: Uint32Array, at: number): number {
    const end = (this.count + 1) * this.words;
    if (end > this.bits.length) {
      const wider = new Uint32Array(this.bits.length * 2);
      wider.set(this.bits);
      this.bits = wider;
    }
    const start = this.count * this.words;
    for (let w = 0; w < this.words; w++) this.bits[start + w] = from[at + w]!;
    return this.count++;
  }
}

/**
 * Every non-empty cut, or undefined where there are more than `limit`.
 *
 * Each cut is reached once, without a table of those seen: from the cut that lacks the maximal node which comes
 * last in the topological order.
 */
export function allCuts(poset: Poset, limit: number): Cuts | undefined {
  const { words, order, position, ancestors } = poset;
  const cuts = new SetList(words);
  // Maximal nodes of each cut; cut 0 is empty and left out at the end.
  const tops = new SetList(words);
  const cut = new Uint32Array(words);
  const top = new Uint32Array(words);
  cuts.push(cut, 0);
  tops.push(top, 0);
  for (let from = 0; from < cuts.count; from++) {
    for (const node of order) {
      const own = node * words;
      const start = from * words;
      if (holds(cuts.bits, start, node)) continue;
      let ready = true;
      for (let w = 0; ready && w < words; w++) ready = (ancestors[own + w]! & ~cuts.bits[start + w]!) === 0;
      if (!ready) continue;
      let last = -1;
      for (let w = 0; w < words; w++) {
        const left = tops.bits[start + w]! & ~ancestors[own + w]!;
        top[w] = left;
        cut[w] = cuts.bits[start + w]!;
        for (let rest = left; rest !== 0; rest &= rest - 1) {
          last = Math.max(last, position[w * 32 + 31 - Math.clz32(rest & -rest)]!);
        }
      }
      if (last > position[node]!) continue;
      if (cuts.count > limit) return undefined;
      add(top, 0, node);
      add(cut, 0, node);
      cuts.push(cut, 0);
      tops.push(top, 0);
    }
  }
  return { count: cuts.count - 1, bits: cuts.bits.subarray(words) };
}

/**
 * The cuts that grow from one source: the source with its ancestors, and from each cut those with one successor
 * of a node of the cut more, and all its ancestors. Other sources join when they are needed. PipeDream searches
 * exactly these, from the first source of the file. Undefined where there are more than `limit`.
 */
export function cutsFrom(poset: Poset, source: number, limit: number): Cuts | undefined {
  const { count, words, after, ancestors } = poset;
  const cuts = new SetList(words);
  const seen = new Set<string>();
  const cut = new Uint32Array(words);
  const keep = (): boolean => {
    const key = keyOf(cut);
    if (seen.has(key)) return true;
    if (cuts.count === limit) return false;
    seen.add(key);
    cuts.push(cut, 0);
    return true;
  };
  cut.set(ancestors.subarray(source * words, (source + 1) * words));
  add(cut, 0, source);
  if (!keep()) return undefined;
  for (let from = 0; from < cuts.count; from++) {
    for (const node of nodesOf(cuts.bits, from * words, words)) {
      for (const next of after[node]!) {
        if (holds(cuts.bits, from * words, next)) continue;
        for (let w = 0; w < words; w++) cut[w] = cuts.bits[from * words + w]! | ancestors[next * words + w]!;
        add(cut, 0, next);
        if (!keep()) return undefined;
      }
    }
  }
  // A part that the source does not reach joins at the end.
  for (let node = 0; node < count; node++) add(cut, 0, node);
  return keep() ? { count: cuts.count, bits: cuts.bits } : undefined;
}

/** The given cuts, and all that differ from one of them by at most `steps` nodes, at most `limit` in all. */
export function cutsAround(poset: Poset, given: Cuts, steps: number, limit: number): Cuts {
  const { count, words, before, after } = poset;
  const cuts = new SetList(words);
  const seen = new Set<string>();
  const cut = new Uint32Array(words);
  const keep = (): void => {
    const key = keyOf(cut);
    if (cuts.count === limit || seen.has(key) || cut.every((word) => word === 0)) return;
    seen.add(key);
    cuts.push(cut, 0);
  };
  for (let i = 0; i < given.count; i++) {
    cut.set(given.bits.subarray(i * words, (i + 1) * words));
    keep();
  }
  let from = 0;
  for (let step = 0; step < steps; step++) {
    for (const end = cuts.count; from < end; from++) {
      const at = from * words;
      for (let node = 0; node < count; node++) {
        const inside = holds(cuts.bits, at, node);
        const movable = inside
          ? after[node]!.every((next) => !holds(cuts.bits, at, next))
          : before[node]!.every((other) => holds(cuts.bits, at, other));
        if (!movable) continue;
        cut.set(cuts.bits.subarray(at, at + words));
        cut[node >>> 5]! ^= 1 << (node & 31);
        keep();
      }
    }
  }
  return { count: cuts.count, bits: cuts.bits };
}

/**
 * Topological orders to cut where all cuts are too many: by index, depth first (a branch is finished before the
 * next one starts), and least live (the next node is the one that leaves the fewest bytes to be sent).
 * @param bytes size of each node's output.
 */
export function linearOrders(poset: Poset, bytes: ArrayLike<number>): number[][] {
  const { count, before, after, order, position } = poset;
  const walk = (choose: (ready: number[], done: Uint8Array) => number): number[] => {
    const waiting = before.map((list) => list.length);
    const ready = order.filter((node) => waiting[node] === 0).reverse();
    const done = new Uint8Array(count);
    const result: number[] = [];
    while (ready.length > 0) {
      const [node] = ready.splice(choose(ready, done), 1) as [number];
      done[node] = 1;
      result.push(node);
      // The first successor ends up on top of the stack.
      for (const next of [...after[node]!].sort((a, b) => position[b]! - position[a]!)) {
        waiting[next]! -= 1;
        if (waiting[next] === 0) ready.push(next);
      }
    }
    return result;
  };
  const depthFirst = walk((ready) => ready.length - 1);
  const leastLive = walk((ready, done) => {
    let best = ready.length - 1;
    let least = Number.POSITIVE_INFINITY;
    // From the top of the stack: ties go to the branch in hand.
    for (let i = ready.length - 1; i >= 0; i--) {
      const node = ready[i]!;
      let change = after[node]!.length > 0 ? bytes[node]! : 0;
      for (const from of before[node]!) {
        if (after[from]!.every((other) => other === node || done[other] === 1)) change -= bytes[from]!;
      }
      if (change < least) {
        least = change;
        best = i;
      }
    }
    return best;
  });
  const orders = [order, depthFirst, leastLive];
  const keys = orders.map((list) => list.join());
  return orders.filter((_, i) => keys.indexOf(keys[i]!) === i);
}

/**
 * Some cuts of a graph that has too many: all prefixes of its linear orders, and of each size those that leave
 * the fewest bytes to be sent, up to `limit` in all.
 */
export function narrowCuts(poset: Poset, bytes: ArrayLike<number>, limit: number): Cuts {
  const { count, words, before, after } = poset;
  const cuts = new SetList(words);
  const seen = new Set<string>();
  const bySize: { at: number; live: number }[][] = Array.from({ length: count + 1 }, () => []);
  const keep = (bits: Uint32Array, size: number, live: number): void => {
    const key = keyOf(bits);
    if (seen.has(key)) return;
    seen.add(key);
    bySize[size]!.push({ at: cuts.push(bits, 0), live });
  };
  /** Live bytes once a node joins the cut. */
  const grown = (bits: Uint32Array, live: number, node: number): number => {
    let sum = after[node]!.length > 0 ? live + bytes[node]! : live;
    for (const from of before[node]!) {
      if (after[from]!.every((other) => other === node || holds(bits, 0, other))) sum -= bytes[from]!;
    }
    return sum;
  };
  for (const order of linearOrders(poset, bytes)) {
    const bits = new Uint32Array(words);
    let live = 0;
    order.forEach((node, place) => {
      live = grown(bits, live, node);
      add(bits, 0, node);
      keep(bits, place + 1, live);
    });
  }
  const width = Math.floor((limit - cuts.count) / count);
  if (width > 0) {
    const cut = new Uint32Array(words);
    let kept = [{ at: -1, live: 0 }];
    for (let size = 0; size < count; size++) {
      const found = new Map<string, { from: number; node: number; live: number }>();
      for (const { at, live } of kept) {
        for (let w = 0; w < words; w++) cut[w] = at < 0 ? 0 : cuts.bits[at * words + w]!;
        for (const node of poset.order) {
          if (holds(cut, 0, node) || before[node]!.some((from) => !holds(cut, 0, from))) continue;
          const bit = 1 << (node & 31);
          const next = grown(cut, live, node);
          cut[node >>> 5]! |= bit;
          const key = keyOf(cut);
          cut[node >>> 5]! &= ~bit;
          if (!seen.has(key) && !found.has(key)) found.set(key, { from: at, node, live: next });
        }
      }
      const best = [...found.values()].sort((a, b) => a.live - b.live).slice(0, width);
      for (const { from, node, live } of best) {
        for (let w = 0; w < words; w++) cut[w] = from < 0 ? 0 : cuts.bits[from * words + w]!;
        add(cut, 0, node);
        keep(cut, size + 1, live);
      }
      kept = bySize[size + 1]!;
    }
  }
  return { count: cuts.count, bits: cuts.bits };
}
