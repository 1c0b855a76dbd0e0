import { MpoptError } from "../contracts/index.js";
import { checkProblem, checkSolution } from "./check.js";
import { Run, runHighs, runKernel } from "./engines.js";
import { kernelPath } from "./pool.js";
import type { Problem, Solution, SolveLimits } from "./problem.js";

export { checkProblem, type Evaluation, evaluateAssignment } from "./check.js";
export { readIopddl } from "./iopddl.js";
export type { Problem, ProblemEdge, ProblemNode, Solution, SolveLimits } from "./problem.js";

export type Engine = "auto" | "highs" | "kernel";

/** Branch-and-bound nodes after which `auto` hands the reduced problem to HiGHS: seconds of search. */
const autoSearchNodes = 500_000;
/** Share of the time limit that `auto` leaves to the kernel while HiGHS can still follow. */
const autoKernelShare = 0.4;

/**
 * Solves a problem exactly, or as well as the limits allow; every answer carries a bound and is checked
 * against the problem before it is returned. `auto` starts with the kernel (reductions, Lagrangian bound,
 * elimination, branch and bound) and goes on with HiGHS on the reduced problem; without kernel.wasm it is
 * HiGHS alone.
 * @throws MpoptError E_FIELD for a malformed problem, E_CANCELLED when the signal aborts, E_SOLVER when an
 *   engine fails or its answer does not hold
 */
export async function solve(
  problem: Problem,
  limits: SolveLimits & { engine?: Engine } = {},
): Promise<Solution> {
  checkProblem(problem);
  const { seconds = Number.POSITIVE_INFINITY, gap = 1e-9, seed = 0, signal, onProgress } = limits;
  const run = new Run(problem, seconds, gap, seed, signal, onProgress);
  let engine: Engine = limits.engine ?? "auto";
  if (engine === "auto" && kernelPath() === undefined) engine = "highs";
  let answered: string = engine;
  if (problem.nodes.length === 0) {
    run.offer([]);
    run.objective = 0;
    run.bound = 0;
    run.status = "optimal";
  } else if (engine === "highs") {
    await runHighs(run);
  } else if (engine === "kernel") {
    await runKernel(run, { seconds, searchNodes: 0 });
  } else {
    answered = "kernel";
    const kernelLimits = { seconds: seconds * autoKernelShare, searchNodes: autoSearchNodes };
    const core = await runKernel(run, kernelLimits).catch((error) => {
      // The kernel's failure (memory, above all) is no answer; HiGHS still may have one.
      if (error instanceof MpoptError && error.code === "E_SOLVER") return undefined;
      throw error;
    });
    if (run.status === "open" && run.left() > 0) {
      answered = "kernel+highs";
      await runHighs(run, core);
    }
  }
  const solution = conclude(run, answered);
  checkSolution(problem, solution);
  return solution;
}

function conclude(run: Run, engine: string): Solution {
  const found = run.status === "optimal" || run.assignment.length > 0;
  const status =
    run.status === "infeasible"
      ? "infeasible"
      : run.status === "optimal"
        ? "optimal"
        : found
          ? "feasible"
          : "unknown";
  const objective = found ? run.objective : Number.POSITIVE_INFINITY;
  const bound = status === "infeasible" ? Number.POSITIVE_INFINITY : Math.min(run.bound, objective);
  return {
    status,
    objective,
    bound,
    gap: found
      ? (objective - bound) / Math.max(Math.abs(objective), Number.MIN_VALUE)
      : Number.POSITIVE_INFINITY,
    seconds: run.elapsed(),
    assignment: run.assignment,
    engine,
  };
}
