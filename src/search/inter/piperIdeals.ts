import type { LayeredGraph } from "../../models/layered.js";
import { allCuts, type Cuts, linearOrders, narrowCuts, posetOf } from "./linearise.js";

/** Sets of nodes closed under predecessors, where a sequence of stages may be cut, and which contains which. */
export interface IdealTable {
  /** 32-bit words of one set. */
  words: number;
  count: number;
  /** `count` sets; by size, then in the order found. The first is empty, the last holds every node. */
  bits: Uint32Array;
  /** For each set, where its proper supersets start in `upper`; one entry more than sets. */
  start: Int32Array;
  upper: Int32Array;
  /** Empty where every ideal is listed, else which ones are. */
  restriction: string;
}

/** Beyond these the tables outgrow memory and the time of a search; fewer sets are then looked at. */
const usualLimits = { ideals: 3000, pairs: 2_500_000 };

/** Every ideal of the graph; where they are too many, the cuts that leave the fewest bytes to be sent. */
export function idealTable(graph: LayeredGraph, limits = usualLimits): IdealTable {
  const poset = posetOf(graph);
  const all = allCuts(poset, limits.ideals);
  const whole = all && nested(all, poset.words, limits.pairs, "");
  if (whole) return whole;
  const bytes = new Float64Array(poset.count);
  for (const edge of graph.edges) bytes[edge.from] = Math.max(bytes[edge.from]!, edge.bytes);
  // Fewer than one cut a size and more is one linear order.
  for (let ideals = limits.ideals; ideals > poset.count; ideals = Math.floor(ideals / 2)) {
    const cuts = narrowCuts(poset, bytes, ideals);
    const table = nested(cuts, poset.words, limits.pairs, `stages between ${cuts.count} cuts`);
    if (table) return table;
  }
  const [order] = linearOrders(poset, bytes);
  const bits = new Uint32Array(poset.count * poset.words);
  order!.forEach((_, at) => {
    for (const node of order!.slice(0, at + 1)) bits[at * poset.words + (node >>> 5)]! |= 1 << (node & 31);
  });
  const prefixes = { count: poset.count, bits };
  return nested(prefixes, poset.words, Number.POSITIVE_INFINITY, "stages contiguous in one linear order")!;
}

/** Lists which sets contain which; undefined where more pairs than the limit do. */
function nested(cuts: Cuts, words: number, limit: number, restriction: string): IdealTable | undefined {
  const count = cuts.count + 1;
  const sized = Array.from({ length: cuts.count }, (_, index) => {
    const set = cuts.bits.subarray(index * words, (index + 1) * words);
    return { set, index, size: bitsIn(set) };
  });
  sized.sort((a, b) => a.size - b.size || a.index - b.index);
  const bits = new Uint32Array(count * words);
  sized.forEach(({ set }, i) => {
    bits.set(set, (i + 1) * words);
  });
  const sizes = [0, ...sized.map(({ size }) => size)];
  const start = new Int32Array(count + 1);
  let upper = new Int32Array(1024);
  let pairs = 0;
  for (let i = 0; i < count; i++) {
    start[i] = pairs;
    for (let j = i + 1; j < count; j++) {
      let inside = sizes[j]! > sizes[i]!;
      for (let w = 0; inside && w < words; w++) inside = (bits[i * words + w]! & ~bits[j * words + w]!) === 0;
      if (!inside) continue;
      if (pairs >= limit) return undefined;
      if (pairs === upper.length) {
        const larger = new Int32Array(2 * pairs);
        larger.set(upper);
        upper = larger;
      }
      upper[pairs++] = j;
    }
  }
  start[count] = pairs;
  return { words, count, bits, start, upper: upper.slice(0, pairs), restriction };
}

function bitsIn(set: Uint32Array): number {
  let sum = 0;
  for (let word of set) for (; word !== 0; word &= word - 1) sum++;
  return sum;
}
