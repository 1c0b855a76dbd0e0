import type { LayeredGraph, LayeredVariant } from "../../models/layered.js";
import { allCuts, type Cuts, cutsFrom, narrowCuts, type Poset, posetOf } from "./linearise.js";

/**
 * The cuts between which stages lie, with PipeDream's running sums. Cut 0 is empty, the last one holds every
 * node; they are sorted by seconds, so that a cut never comes before one that it contains.
 */
export interface CutTable {
  count: number;
  /** Seconds of the nodes up to each cut, forward and backward. */
  seconds: Float64Array;
  parameterBytes: Float64Array;
  activationBytes: Float64Array;
  /** Bytes that cross each cut in one direction. */
  outputBytes: Float64Array;
  /** `inside[j * count + i]` is 1 where cut i is a proper part of cut j; undefined where i < j says the same. */
  inside: Uint8Array | undefined;
  /** The same as lists: cut j holds `parts[partStarts[j]]` up to `parts[partStarts[j + 1] - 1]`, ascending. */
  parts: Int32Array | undefined;
  partStarts: Int32Array;
  /** Seconds and parameters of each node. */
  nodeSeconds: Float64Array;
  nodeParameterBytes: Float64Array;
  words: number;
  /** Bit set of each cut's nodes. */
  bits: Uint32Array;
  /** What a search over these cuts leaves out, in words; empty for nothing. */
  restriction: string;
}

/** Cuts that an exact search may have; beyond, some are chosen. */
export const defaultMaximumCuts = 2500;

/** Costs of a node as PipeDream sees them: one device, nothing recomputed. */
export function plainVariant(graph: LayeredGraph, node: number): LayeredVariant {
  const { variants } = graph.nodes[node]!;
  return variants.find(({ tensor, recompute }) => tensor === 1 && !recompute) ?? variants[0]!;
}

/**
 * All cuts of a graph, or a choice of them where there are more than `maximumCuts`: those that PipeDream
 * searches, or where they are too many as well, those of good linear orders.
 */
export function cutTable(graph: LayeredGraph, maximumCuts = defaultMaximumCuts): CutTable {
  const poset = posetOf(graph);
  const all = allCuts(poset, maximumCuts);
  if (all) return tableOf(graph, poset, all, "");
  const source = poset.before.findIndex((list) => list.length === 0);
  const grown = cutsFrom(poset, source, maximumCuts);
  if (grown) {
    const restriction = `the ${grown.count} cuts that grow from node ${graph.nodes[source]!.id}`;
    return tableOf(graph, poset, grown, restriction);
  }
  const bytes = graph.nodes.map((_, node) => plainVariant(graph, node).activationBytes);
  const narrow = narrowCuts(poset, bytes, maximumCuts);
  return tableOf(
    graph,
    poset,
    narrow,
    `${narrow.count} cuts: contiguous stages of up to three linear orders, the cuts of each size with the fewest ` +
      "bytes to send, and those a few nodes away from the plan's",
  );
}

/**
 * The running sums of given cuts, sorted.
 *
 * Bytes over a cut follow PipeDream (graph.py, augment_antichain): with M the cut's maximal nodes, the outputs of
 * M and of every ancestor p of some x in M that has a consumer other than x and its ancestors.
 */
export function tableOf(graph: LayeredGraph, poset: Poset, cuts: Cuts, restriction: string): CutTable {
  const { count: nodes, words, after, ancestors } = poset;
  const seconds = new Float64Array(nodes);
  const parameters = new Float64Array(nodes);
  const activations = new Float64Array(nodes);
  for (let node = 0; node < nodes; node++) {
    const variant = plainVariant(graph, node);
    seconds[node] = variant.forwardSeconds + variant.backwardSeconds;
    parameters[node] = variant.parameterBytes;
    activations[node] = variant.activationBytes;
  }

  // Sent with a cut once x is one of its maximal nodes: x, and the ancestors of x with another consumer.
  const sent = new Uint32Array(nodes * words);
  const has = (set: number, node: number) => (ancestors[set + (node >>> 5)]! >>> (node & 31)) & 1;
  for (let x = 0; x < nodes; x++) {
    sent[x * words + (x >>> 5)]! |= 1 << (x & 31);
    for (let p = 0; p < nodes; p++) {
      if (has(x * words, p) === 0) continue;
      for (const consumer of after[p]!) {
        if (consumer === x || has(x * words, consumer) === 1) continue;
        sent[x * words + (p >>> 5)]! |= 1 << (p & 31);
        break;
      }
    }
  }

  const count = cuts.count + 1;
  const sums = {
    seconds: new Float64Array(count),
    parameterBytes: new Float64Array(count),
    activationBytes: new Float64Array(count),
    outputBytes: new Float64Array(count),
  };
  const sizes = new Int32Array(count);
  const own = new Uint32Array(words);
  const out = new Uint32Array(words);
  for (let cut = 1; cut < count; cut++) {
    const at = (cut - 1) * words;
    own.fill(0);
    out.fill(0);
    for (let w = 0; w < words; w++) {
      for (let rest = cuts.bits[at + w]!; rest !== 0; rest &= rest - 1) {
        const node = w * 32 + 31 - Math.clz32(rest & -rest);
        sizes[cut]! += 1;
        sums.seconds[cut]! += seconds[node]!;
        sums.parameterBytes[cut]! += parameters[node]!;
        sums.activationBytes[cut]! += activations[node]!;
        let maximal = true;
        for (const next of after[node]!) {
          if (((cuts.bits[at + (next >>> 5)]! >>> (next & 31)) & 1) === 1) {
            maximal = false;
            break;
          }
        }
        if (maximal) for (let v = 0; v < words; v++) out[v]! |= sent[node * words + v]!;
      }
    }
    for (let w = 0; w < words; w++) {
      for (let rest = out[w]!; rest !== 0; rest &= rest - 1) {
        sums.outputBytes[cut]! += activations[w * 32 + 31 - Math.clz32(rest & -rest)]!;
      }
    }
  }

  // Sums run in the order of the nodes, so that rounding never makes a cut shorter than a part of it.
  const bits = new Uint32Array(count * words);
  bits.set(cuts.bits.subarray(0, cuts.count * words), words);
  const sorted = Array.from({ length: count }, (_, cut) => cut).sort(
    (a, b) =>
      sums.seconds[a]! - sums.seconds[b]! ||
      sizes[a]! - sizes[b]! ||
      sums.outputBytes[a]! - sums.outputBytes[b]! ||
      a - b,
  );
  const take = (values: Float64Array) => Float64Array.from(sorted, (cut) => values[cut]!);
  const table: CutTable = {
    count,
    seconds: take(sums.seconds),
    parameterBytes: take(sums.parameterBytes),
    activationBytes: take(sums.activationBytes),
    outputBytes: take(sums.outputBytes),
    inside: undefined,
    parts: undefined,
    partStarts: new Int32Array(0),
    nodeSeconds: seconds,
    nodeParameterBytes: parameters,
    words,
    bits: new Uint32Array(count * words),
    restriction,
  };
  sorted.forEach((cut, i) => {
    table.bits.set(bits.subarray(cut * words, (cut + 1) * words), i * words);
  });
  table.inside = insideMatrix(table);
  listParts(table);
  return table;
}

/** Which cut is a proper part of which; undefined for a chain. */
function insideMatrix({ count, words, bits }: CutTable): Uint8Array | undefined {
  const inside = new Uint8Array(count * count);
  let chain = true;
  for (let j = 1; j < count; j++) {
    for (let i = 0; i < j; i++) {
      let part = true;
      for (let w = 0; part && w < words; w++) part = (bits[i * words + w]! & ~bits[j * words + w]!) === 0;
      if (part) inside[j * count + i] = 1;
      else chain = false;
    }
  }
  return chain ? undefined : inside;
}

function listParts(table: CutTable): void {
  const { count, inside } = table;
  if (!inside) return;
  table.partStarts = new Int32Array(count + 1);
  for (let j = 0; j < count; j++) {
    let size = 0;
    for (let i = 0; i < j; i++) size += inside[j * count + i]!;
    table.partStarts[j + 1] = table.partStarts[j]! + size;
  }
  table.parts = new Int32Array(table.partStarts[count]!);
  for (let j = 0, next = 0; j < count; j++) {
    for (let i = 0; i < j; i++) if (inside[j * count + i] === 1) table.parts[next++] = i;
  }
}

/** The cuts at `chosen` alone, ascending; the first and the last one belong to every choice. */
export function chooseCuts(table: CutTable, chosen: number[]): CutTable {
  const { count, words, bits } = table;
  const size = chosen.length;
  const take = (values: Float64Array) => Float64Array.from(chosen, (cut) => values[cut]!);
  const part: CutTable = {
    ...table,
    count: size,
    seconds: take(table.seconds),
    parameterBytes: take(table.parameterBytes),
    activationBytes: take(table.activationBytes),
    outputBytes: take(table.outputBytes),
    bits: new Uint32Array(size * words),
  };
  chosen.forEach((cut, i) => {
    part.bits.set(bits.subarray(cut * words, (cut + 1) * words), i * words);
  });
  if (table.inside) {
    part.inside = new Uint8Array(size * size);
    for (let j = 0; j < size; j++) {
      for (let i = 0; i < size; i++) {
        part.inside[j * size + i] = table.inside[chosen[j]! * count + chosen[i]!]!;
      }
    }
    listParts(part);
  }
  return part;
}
