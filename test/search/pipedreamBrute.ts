import type { LayeredGraph } from "../../src/models/layered.js";
import type { PipedreamOptions } from "../../src/search/inter/pipedream.js";

/** A graph with the figures of each node: seconds, parameter bytes, activation bytes. */
export function layeredGraph(
  figures: [seconds: number, parameterBytes: number, activationBytes: number][],
  edges: [from: number, to: number][],
): LayeredGraph {
  return {
    name: "random",
    format: "pipedream",
    nodes: figures.map(([seconds, parameterBytes, activationBytes], i) => ({
      id: `n${i}`,
      name: `Layer ${i}`,
      variants: [
        {
          tensor: 1,
          recompute: false,
          forwardSeconds: seconds / 4,
          backwardSeconds: (3 * seconds) / 4,
          parameterBytes,
          activationBytes,
          fixedBytes: 2 * parameterBytes,
        },
      ],
    })),
    edges: edges.map(([from, to]) => ({ from, to, bytes: figures[from]![2] })),
    header: {},
    warnings: [],
  };
}

/** The least objective over every chain of down-sets and every number of replicas, without bounds; infinity where
 * none fits. Each range is looked at once per place. */
export function bruteForce(graph: LayeredGraph, options: PipedreamOptions): number {
  const { machines, bandwidths, straight, freeTransfers, memoryBytes, peerMemory = false } = options;
  const trueMemory = memoryBytes !== undefined && (options.trueMemory ?? !peerMemory);
  const count = graph.nodes.length;
  const all = (1 << count) - 1;
  const costs = graph.nodes.map(({ variants }) => variants[0]!);
  const has = (set: number, node: number) => ((set >> node) & 1) === 1;
  const ancestors = new Array<number>(count).fill(0);
  // Transitive closure by repetition.
  for (let round = 0; round < count; round++) {
    for (const { from, to } of graph.edges) ancestors[to]! |= ancestors[from]! | (1 << from);
  }
  const nodes = (set: number) => costs.map((_, i) => i).filter((i) => has(set, i));
  const total = (set: number, of: (node: number) => number) => nodes(set).reduce((s, i) => s + of(i), 0);
  const ideals = Array.from({ length: all + 1 }, (_, set) => set).filter((set) =>
    nodes(set).every((node) => (ancestors[node]! & ~set) === 0),
  );
  const output = (set: number) => {
    let sent = 0;
    for (const x of nodes(set)) {
      if (nodes(set).some((other) => has(ancestors[other]!, x))) continue;
      sent |= 1 << x;
      for (const { from, to } of graph.edges) {
        if (has(ancestors[x]!, from) && to !== x && !has(ancestors[x]!, to)) sent |= 1 << from;
      }
    }
    return total(sent, (i) => costs[i]!.activationBytes);
  };
  const sets = Array.from({ length: all + 1 }, (_, set) => set);
  const parameterBytes = sets.map((set) => total(set, (i) => costs[i]!.parameterBytes));
  const activationBytes = sets.map((set) => total(set, (i) => costs[i]!.activationBytes));
  const outputs = new Map(ideals.map((set) => [set, output(set)]));

  const ranges = new Map<string, number>();
  const best = (level: number, begin: number, end: number, copies: number, later: number): number => {
    const key = [level, begin, end, copies, later].join();
    const known = ranges.get(key);
    if (known !== undefined) return known;
    const value = least(level, begin, end, copies, later);
    ranges.set(key, value);
    return value;
  };
  const least = (level: number, begin: number, end: number, copies: number, later: number): number => {
    const range = end & ~begin;
    const weights = (set: number) => parameterBytes[set]!;
    const kept = (set: number) => parameterBytes[set]! + activationBytes[set]!;
    if (level < 0) {
      const peak = Math.ceil((copies + later) / copies) * kept(range) + weights(range);
      if (trueMemory && peak > memoryBytes) return Number.POSITIVE_INFINITY;
      return total(range, (i) => costs[i]!.forwardSeconds + costs[i]!.backwardSeconds);
    }
    const n = machines[level]!;
    const bandwidth = bandwidths[level]!;
    const inside = machines.slice(0, level).reduce((a, b) => a * b, 1);
    const tails = new Map<number, number>();
    const stages = (from: number, used: number): number => {
      const known = tails.get(from * (n + 1) + used);
      if (known !== undefined) return known;
      const value = shortest(from, used);
      tails.set(from * (n + 1) + used, value);
      return value;
    };
    const shortest = (from: number, used: number): number => {
      if (from === end) return used === n ? 0 : Number.POSITIVE_INFINITY;
      let lowest = Number.POSITIVE_INFINITY;
      for (const to of ideals) {
        if (to === from || (from & ~to) !== 0 || (to & ~end) !== 0) continue;
        for (let m = 1; m <= (straight ? 1 : n) && used + m <= n; m++) {
          const own = to & ~from;
          if (peerMemory && Math.ceil((n - used - m) / m) * kept(own) > memoryBytes!) continue;
          const first = from === begin;
          const reduce = (4 * (m - 1) * weights(own)) / (bandwidth * m);
          const x = best(level - 1, from, to, copies * m, later + copies * (n - used - m) * inside);
          let value = (x + reduce / (first && level > 0 ? machines[level - 1]! : 1)) / m;
          if (!first && !freeTransfers) {
            value = Math.max(value, (2 * outputs.get(from)!) / (bandwidth * m));
            if (to !== all) value = Math.max(value, (2 * outputs.get(to)!) / (bandwidth * m));
          }
          lowest = Math.min(lowest, Math.max(value, stages(to, used + m)));
        }
      }
      return lowest;
    };
    return stages(begin, 0);
  };
  return best(machines.length - 1, 0, all, 1, 0);
}
