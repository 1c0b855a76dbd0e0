import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Engine, type Problem, type Solution, solve } from "../../src/solver/index.js";
import { kernelPath } from "../../src/solver/pool.js";
import { bruteForce } from "./bruteForce.js";
import { blocks, chain, smallProblem } from "./problems.js";

// Where the kernel is not built, `auto` is HiGHS and the kernel's own tests have nothing to run on.
const engines: Engine[] = kernelPath() === undefined ? ["highs"] : ["kernel", "highs", "auto"];

function expectOptimum(solution: Solution, best: number): void {
  expect(solution.status).toBe(best < Number.POSITIVE_INFINITY ? "optimal" : "infeasible");
  if (best === Number.POSITIVE_INFINITY) {
    expect(solution.assignment).toEqual([]);
    return;
  }
  expect(Math.abs(solution.objective - best)).toBeLessThanOrEqual(1e-8 * Math.max(1, best));
  expect(solution.bound).toBeLessThanOrEqual(best + 1e-8 * Math.max(1, best));
  expect(solution.gap).toBeLessThanOrEqual(1e-8);
}

/** The least cost of a chain without a limit, by dynamic programming. */
function chainOptimum(problem: Problem): number {
  let best = problem.nodes[0]!.costs;
  for (const { to, costs } of problem.edges) {
    const node = problem.nodes[to]!;
    const count = node.costs.length;
    best = node.costs.map((cost, q) => cost + Math.min(...best.map((b, p) => b + costs[p * count + q]!)));
  }
  return Math.min(...best);
}

describe.each(engines)("%s", (engine) => {
  test("equals enumeration on a thousand random problems", { timeout: 300_000 }, async () => {
    const statuses = { optimal: 0, infeasible: 0, feasible: 0, unknown: 0 };
    const property = fc.asyncProperty(smallProblem, async (problem) => {
      const solution = await solve(problem, { engine });
      statuses[solution.status]++;
      expectOptimum(solution, bruteForce(problem));
    });
    await fc.assert(property, { numRuns: 1000, seed: 7 });
    // The generator must reach both outcomes, often.
    expect(statuses.optimal).toBeGreaterThan(300);
    expect(statuses.infeasible).toBeGreaterThan(50);
  });

  test("solves a chain as dynamic programming does", async () => {
    for (const seed of [1, 2, 3]) {
      const problem = chain(seed, 60, 6);
      expectOptimum(await solve(problem, { engine }), chainOptimum(problem));
    }
  });

  test("has no cost for no nodes", async () => {
    const solution = await solve({ nodes: [], edges: [] }, { engine });
    expect(solution).toMatchObject({ status: "optimal", objective: 0, bound: 0, assignment: [] });
  });
});

describe.skipIf(kernelPath() === undefined)("kernel against HiGHS", () => {
  test.each([
    ["chain", chain(11, 24, 5, 0.4)],
    ["tight chain", chain(12, 24, 4, 0.35)],
    ["blocks", blocks(13, 3, 5)],
    ["blocks with memory", blocks(14, 3, 4, 0.4)],
    ["two components", join(blocks(15, 2, 4, 0.4), chain(16, 12, 4))],
  ])("agree on %s", { timeout: 120_000 }, async (_name, problem) => {
    const highs = await solve(problem, { engine: "highs", seconds: 60 });
    const auto = await solve(problem, { engine: "auto", seconds: 60 });
    const kernel = await solve(problem, { engine: "kernel", seconds: 3 });
    expect(highs.status).toBe("optimal");
    expect(auto.status).toBe("optimal");
    expect(auto.objective).toBeCloseTo(highs.objective, 3);
    // The kernel alone may run out of time on memory; its bound must hold all the same.
    expect(kernel.bound).toBeLessThanOrEqual(highs.objective * (1 + 1e-8));
    expect(kernel.objective).toBeGreaterThanOrEqual(highs.objective * (1 - 1e-8));
  });
});

/** Both problems side by side, in time as well. */
function join(first: Problem, second: Problem): Problem {
  const shift = first.nodes.length;
  const edges = second.edges.map((edge) => ({ ...edge, from: edge.from + shift, to: edge.to + shift }));
  return {
    nodes: [...first.nodes, ...second.nodes],
    edges: [...first.edges, ...edges],
    usageLimit: first.usageLimit === undefined ? undefined : 2 * first.usageLimit,
  };
}
