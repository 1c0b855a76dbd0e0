import { allowedUsage } from "./check.js";
import type { Problem } from "./problem.js";
import type { Core, FlatProblem } from "./protocol.js";

/** The problem as flat arrays, for the kernel. */
export function flatten(problem: Problem): FlatProblem {
  const { nodes, edges } = problem;
  const counts = Int32Array.from(nodes, (node) => node.costs.length);
  const total = counts.reduce((sum, count) => sum + count, 0);
  const costs = new Float64Array(total);
  const usages = new Float64Array(total);
  const intervals = new Int32Array(2 * nodes.length);
  let at = 0;
  for (const [index, node] of nodes.entries()) {
    costs.set(node.costs, at);
    usages.set(node.usages, at);
    at += node.costs.length;
    intervals.set(node.interval ?? [0, 0], 2 * index);
  }
  const ends = new Int32Array(2 * edges.length);
  const tables = new Float64Array(edges.reduce((sum, edge) => sum + edge.costs.length, 0));
  at = 0;
  for (const [index, edge] of edges.entries()) {
    ends[2 * index] = edge.from;
    ends[2 * index + 1] = edge.to;
    tables.set(edge.costs, at);
    at += edge.costs.length;
  }
  // The kernel adds in another order than the evaluator, so it gets half of the evaluator's tolerance.
  const limit = problem.usageLimit ?? Number.POSITIVE_INFINITY;
  const usageLimit = allowedUsage(problem) === limit ? limit : limit * (1 + 5e-13);
  return { counts, costs, usages, intervals, ends, tables, usageLimit };
}

/**
 * The time steps that can bind: the maximal cliques of the live intervals, as times in ascending order. The
 * live set grows at each start, so it is maximal at the last start before an end.
 */
export function maximalTimeSteps(problem: Problem): number[] {
  const live = problem.nodes.flatMap(({ interval, usages }) =>
    interval && interval[0] < interval[1] && usages.some((usage) => usage > 0) ? [interval] : [],
  );
  const starts = live.map(([start]) => start).sort((x, y) => x - y);
  const ends = live.map(([, end]) => end).sort((x, y) => x - y);
  const steps: number[] = [];
  let next = 0;
  for (const end of ends) {
    const before = next;
    while (next < starts.length && starts[next]! < end) next++;
    if (next > before) steps.push(starts[next - 1]!);
  }
  return steps;
}

/** The problem itself in the form of a reduced one, for HiGHS without the kernel. */
export function coreOf(problem: Problem): Core {
  const { nodes, edges } = problem;
  const flat = flatten(problem);
  const costs = flat.costs.slice();
  const first = new Int32Array(nodes.length + 1);
  for (const [index, count] of flat.counts.entries()) first[index + 1] = first[index]! + count;
  const kept = edges.filter((edge) => edge.from !== edge.to);
  for (const edge of edges) {
    if (edge.from !== edge.to) continue;
    // A node agrees with itself: only the diagonal can be chosen.
    const count = flat.counts[edge.from]!;
    for (let p = 0; p < count; p++) costs[first[edge.from]! + p]! += edge.costs[p * count + p]!;
  }
  const steps = problem.usageLimit === undefined ? [] : maximalTimeSteps(problem);
  const position = (time: number) => {
    let [low, high] = [0, steps.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (steps[middle]! < time) low = middle + 1;
      else high = middle;
    }
    return low;
  };
  const uses: number[] = [];
  const usages: number[] = [];
  for (const [index, node] of nodes.entries()) {
    if (!node.interval) continue;
    const [lo, hi] = [position(node.interval[0]), position(node.interval[1])];
    if (lo >= hi || node.usages.every((usage) => usage === 0)) continue;
    uses.push(index, lo, hi);
    for (const usage of node.usages) usages.push(usage);
  }
  const tables = new Float64Array(kept.reduce((sum, edge) => sum + edge.costs.length, 0));
  let at = 0;
  for (const edge of kept) {
    tables.set(edge.costs, at);
    at += edge.costs.length;
  }
  return {
    constant: 0,
    counts: flat.counts,
    costs,
    ends: Int32Array.from(kept.flatMap((edge) => [edge.from, edge.to])),
    tables,
    uses: Int32Array.from(uses),
    usages: Float64Array.from(usages),
    limits: new Float64Array(steps.length).fill(flat.usageLimit),
    nodeVariables: Int32Array.from(nodes.keys()),
    nodeStrategies: Int32Array.from(nodes.flatMap((node) => [...node.costs.keys()])),
  };
}

/** The nodes' strategies for the variables' ones. */
export function expand(core: Core, chosen: ArrayLike<number>): number[] {
  const assignment: number[] = [];
  let at = 0;
  for (const variable of core.nodeVariables) {
    assignment.push(core.nodeStrategies[at + (variable < 0 ? 0 : chosen[variable]!)]!);
    at += variable < 0 ? 1 : core.counts[variable]!;
  }
  return assignment;
}

/** The variables' strategies that give the nodes' ones; undefined where there are none. */
export function contract(core: Core, assignment: ArrayLike<number>): Int32Array | undefined {
  const possible = Array.from(core.counts, (count) => new Uint8Array(count).fill(1));
  let at = 0;
  for (const [node, variable] of core.nodeVariables.entries()) {
    const count = variable < 0 ? 1 : core.counts[variable]!;
    if (variable >= 0) {
      for (let p = 0; p < count; p++) {
        if (core.nodeStrategies[at + p] !== assignment[node]) possible[variable]![p] = 0;
      }
    }
    at += count;
  }
  const chosen = Int32Array.from(possible, (options) => options.indexOf(1));
  return chosen.includes(-1) ? undefined : chosen;
}
