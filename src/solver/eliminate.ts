import type { Problem } from "./problem.js";

/** A table over some variables, the last of them counting fastest. */
interface Factor {
  variables: number[];
  values: Float64Array;
}

/** One eliminated variable: the best strategy for every combination of those that remain around it. */
interface Step {
  variable: number;
  around: number[];
  best: Int32Array;
}

/**
 * Solves a problem without memory limits by eliminating one node after the other, the one with the smallest table
 * first (Dechter, Bucket elimination, Artificial Intelligence 113, 1999): exact, and faster than any search as long as
 * no table grows, which layers of models keep small.
 * @param entries most entries that a table may have.
 * @returns undefined where a table would have more, or where memory is limited.
 */
export function eliminate(
  problem: Problem,
  entries = 100_000,
): { objective: number; assignment: number[] } | undefined {
  const { nodes, edges } = problem;
  if (nodes.some((node) => node.usages.some((usage) => usage !== 0))) return undefined;
  const sizes = nodes.map((node) => node.costs.length);
  const factorsOf: Set<Factor>[] = nodes.map(() => new Set());
  const put = (factor: Factor) => {
    for (const variable of factor.variables) factorsOf[variable]!.add(factor);
  };
  // A node without a choice is a constant, and its edges are costs of the other end.
  const own = nodes.map((node) => Float64Array.from(node.costs));
  for (const { from, to, costs } of edges) {
    if (from === to) return undefined;
    if (sizes[to] === 1) for (let p = 0; p < sizes[from]!; p++) own[from]![p]! += costs[p]!;
    else if (sizes[from] === 1) for (let q = 0; q < sizes[to]!; q++) own[to]![q]! += costs[q]!;
    else put({ variables: [from, to], values: Float64Array.from(costs) });
  }
  const left = new Set<number>();
  let objective = 0;
  own.forEach((values, i) => {
    if (sizes[i] === 1) objective += values[0]!;
    else {
      left.add(i);
      put({ variables: [i], values });
    }
  });
  const steps: Step[] = [];
  while (left.size > 0) {
    let variable = -1;
    let around: number[] = [];
    let least = Number.POSITIVE_INFINITY;
    for (const each of left) {
      const neighbours = new Set<number>();
      for (const factor of factorsOf[each]!) for (const v of factor.variables) neighbours.add(v);
      neighbours.delete(each);
      let size = sizes[each]!;
      for (const v of neighbours) size *= sizes[v]!;
      if (size >= least) continue;
      [variable, around, least] = [each, [...neighbours], size];
      if (neighbours.size <= 1) break;
    }
    if (least > entries) return undefined;
    const touching = [...factorsOf[variable]!];
    const { values, best } = minimise(variable, around, touching, sizes);
    for (const factor of touching) {
      for (const v of factor.variables) factorsOf[v]!.delete(factor);
    }
    left.delete(variable);
    steps.push({ variable, around, best });
    if (around.length === 0) objective += values[0]!;
    else put({ variables: around, values });
  }
  const assignment = new Array<number>(nodes.length).fill(0);
  for (const { variable, around, best } of steps.reverse()) {
    let at = 0;
    for (const v of around) at = at * sizes[v]! + assignment[v]!;
    assignment[variable] = best[at]!;
  }
  return { objective, assignment };
}

/** The least sum of factors over one variable, for every combination of the variables around it. */
function minimise(
  variable: number,
  around: readonly number[],
  factors: readonly Factor[],
  sizes: readonly number[],
): { values: Float64Array; best: Int32Array } {
  const count = around.reduce((product, v) => product * sizes[v]!, 1);
  const values = new Float64Array(count);
  const best = new Int32Array(count);
  const chosen = new Map<number, number>();
  for (let at = 0; at < count; at++) {
    let rest = at;
    for (let i = around.length - 1; i >= 0; i--) {
      const v = around[i]!;
      chosen.set(v, rest % sizes[v]!);
      rest = Math.floor(rest / sizes[v]!);
    }
    let least = Number.POSITIVE_INFINITY;
    for (let strategy = 0; strategy < sizes[variable]!; strategy++) {
      chosen.set(variable, strategy);
      let sum = 0;
      for (const factor of factors) {
        let index = 0;
        for (const v of factor.variables) index = index * sizes[v]! + chosen.get(v)!;
        sum += factor.values[index]!;
      }
      if (sum < least) {
        least = sum;
        best[at] = strategy;
      }
    }
    values[at] = least;
  }
  return { values, best };
}
