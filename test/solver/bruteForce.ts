import { evaluateAssignment, type Problem } from "../../src/solver/index.js";

/** The least cost by enumeration, Infinity where nothing is feasible. */
export function bruteForce(problem: Problem): number {
  const chosen = problem.nodes.map(() => 0);
  let best = Number.POSITIVE_INFINITY;
  for (;;) {
    const { cost, feasible } = evaluateAssignment(problem, chosen);
    if (feasible) best = Math.min(best, cost);
    let v = 0;
    while (v < chosen.length && ++chosen[v]! === problem.nodes[v]!.costs.length) chosen[v++] = 0;
    if (v === chosen.length) return best;
  }
}
