import { MpoptError } from "../contracts/index.js";
import type { Problem, Solution } from "./problem.js";

export interface Evaluation {
  /** Sum of the chosen costs; Infinity where a forbidden choice was made. */
  cost: number;
  feasible: boolean;
  /** The first thing that is wrong, one sentence. */
  violation?: string;
}

/**
 * What the limit allows at a step: sums of fractional usages are rounded, so they get a relative 1e-12; sums
 * of whole numbers are exact and get nothing.
 */
export function allowedUsage(problem: Problem): number {
  const limit = problem.usageLimit ?? Number.POSITIVE_INFINITY;
  const whole = problem.nodes.every((node) => node.usages.every(Number.isInteger));
  return whole || limit === Number.POSITIVE_INFINITY ? limit : limit * (1 + 1e-12);
}

/**
 * Cost and feasibility of an assignment, from the problem alone and by the definition: it shares no code
 * with the engines.
 */
export function evaluateAssignment(problem: Problem, assignment: readonly number[]): Evaluation {
  const { nodes, edges } = problem;
  if (assignment.length !== nodes.length) {
    return {
      cost: Number.POSITIVE_INFINITY,
      feasible: false,
      violation: `Expected one strategy for each of the ${nodes.length} nodes but found ${assignment.length}.`,
    };
  }
  let cost = 0;
  const changes = new Map<number, number>();
  for (const [index, node] of nodes.entries()) {
    const strategy = assignment[index]!;
    const chosen = node.costs[strategy];
    if (chosen === undefined) {
      return {
        cost: Number.POSITIVE_INFINITY,
        feasible: false,
        violation: `Expected a strategy below ${node.costs.length} for node ${index} but found ${strategy}.`,
      };
    }
    cost += chosen;
    if (!node.interval) continue;
    const [start, end] = node.interval;
    if (start >= end) continue;
    const usage = node.usages[strategy]!;
    changes.set(start, (changes.get(start) ?? 0) + usage);
    changes.set(end, (changes.get(end) ?? 0) - usage);
  }
  for (const edge of edges) {
    const width = nodes[edge.to]!.costs.length;
    cost += edge.costs[assignment[edge.from]! * width + assignment[edge.to]!]!;
  }
  if (!(cost < Number.POSITIVE_INFINITY)) {
    return { cost, feasible: false, violation: "Expected a finite cost but a forbidden choice was made." };
  }
  const allowed = allowedUsage(problem);
  let usage = 0;
  for (const [time, change] of [...changes].sort((x, y) => x[0] - y[0])) {
    usage += change;
    if (usage > allowed) {
      const violation = `Expected a usage of at most ${problem.usageLimit} at time ${time} but found ${usage}.`;
      return { cost, feasible: false, violation };
    }
  }
  return { cost, feasible: true };
}

/**
 * Rejects a problem that is not well-formed.
 * @throws MpoptError E_FIELD
 */
export function checkProblem(problem: Problem): void {
  const fail = (expected: string, where: string, found: unknown): never => {
    throw new MpoptError("E_FIELD", `Expected ${expected} for ${where} but found ${found}.`);
  };
  const { nodes, edges, usageLimit } = problem;
  if (usageLimit !== undefined && !(usageLimit >= 0)) {
    fail("a number of at least 0", "the usage limit", usageLimit);
  }
  for (const [index, node] of nodes.entries()) {
    const name = `node ${index}`;
    const count = node.costs.length;
    if (count === 0) fail("at least one strategy", name, "none");
    if (node.usages.length !== count) fail(`${count} usages`, name, node.usages.length);
    for (const [p, cost] of node.costs.entries()) {
      if (!(cost > Number.NEGATIVE_INFINITY)) fail("a number or Infinity", `cost ${p} of ${name}`, cost);
    }
    for (const [p, usage] of node.usages.entries()) {
      if (!(usage >= 0 && usage < Number.POSITIVE_INFINITY)) {
        fail("a finite number of at least 0", `usage ${p} of ${name}`, usage);
      }
    }
    if (!node.interval) continue;
    const [start, end] = node.interval;
    const whole = [start, end].every((time) => Number.isInteger(time) && time >= 0 && time <= 0x7fffffff);
    if (!whole || start > end) {
      fail("an interval of whole time steps, start before end", name, `[${start}, ${end}]`);
    }
  }
  for (const [index, edge] of edges.entries()) {
    const name = `edge ${index}`;
    for (const end of [edge.from, edge.to]) {
      if (nodes[end] === undefined) fail(`a node below ${nodes.length}`, name, end);
    }
    const [rows, columns] = [nodes[edge.from]!.costs.length, nodes[edge.to]!.costs.length];
    if (edge.costs.length !== rows * columns) {
      fail(`${rows * columns} costs (${rows} x ${columns})`, name, edge.costs.length);
    }
    for (const [entry, cost] of edge.costs.entries()) {
      if (!(cost > Number.NEGATIVE_INFINITY)) fail("a number or Infinity", `cost ${entry} of ${name}`, cost);
    }
  }
}

/**
 * The last look at every answer before it leaves the solver.
 * @throws MpoptError E_SOLVER where the answer does not hold
 */
export function checkSolution(problem: Problem, solution: Solution): void {
  const fail = (what: string): never => {
    throw new MpoptError("E_SOLVER", `The ${solution.engine} engine gave a wrong answer: ${what}`, [
      "This is a bug in mpopt. Please report it with the problem.",
    ]);
  };
  const { status, objective, bound, assignment } = solution;
  if (status === "optimal" || status === "feasible") {
    const { cost, feasible, violation } = evaluateAssignment(problem, assignment);
    if (!feasible) fail(violation!);
    if (!(Math.abs(cost - objective) <= 1e-9 * Math.max(Math.abs(cost), Number.MIN_VALUE))) {
      fail(`Expected an objective of ${cost} but found ${objective}.`);
    }
    if (!(bound <= objective)) fail(`Expected a bound of at most ${objective} but found ${bound}.`);
  } else if (assignment.length > 0 || objective !== Number.POSITIVE_INFINITY) {
    fail(`Expected no assignment with status ${status}.`);
  }
}
