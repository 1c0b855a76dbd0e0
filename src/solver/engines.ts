import { MpoptError } from "../contracts/index.js";
import { evaluateAssignment } from "./check.js";
import { contract, coreOf, expand, flatten } from "./flat.js";
import { Milp, maximumColumns } from "./milp.js";
import { kernelPath, runTask } from "./pool.js";
import type { Problem } from "./problem.js";
import type { Core } from "./protocol.js";

/** What one solve knows so far, shared by the engines that work on it. */
export class Run {
  objective = Number.POSITIVE_INFINITY;
  bound = Number.NEGATIVE_INFINITY;
  assignment: number[] = [];
  status: "optimal" | "infeasible" | "open" = "open";
  readonly started = performance.now();

  constructor(
    readonly problem: Problem,
    readonly seconds: number,
    readonly gap: number,
    readonly seed: number,
    readonly signal: AbortSignal | undefined,
    private readonly onProgress:
      | ((p: { objective: number; bound: number; seconds: number }) => void)
      | undefined,
  ) {}

  elapsed(): number {
    return (performance.now() - this.started) / 1000;
  }

  left(): number {
    return this.seconds - this.elapsed();
  }

  report(objective = this.objective, bound = this.bound): void {
    this.onProgress?.({
      objective: Math.min(objective, this.objective),
      bound: Math.max(bound, this.bound),
      seconds: this.elapsed(),
    });
  }

  /** Takes an assignment where it is feasible and better. */
  offer(assignment: number[]): void {
    const { cost, feasible } = evaluateAssignment(this.problem, assignment);
    if (!feasible || cost >= this.objective) return;
    this.objective = cost;
    this.assignment = assignment;
    this.report();
  }

  /** Takes a proven bound; true where it closes the gap. */
  raise(bound: number): boolean {
    this.bound = Math.max(this.bound, bound);
    const closed = this.objective - this.bound <= this.gap * Math.abs(this.objective);
    if (closed && this.assignment.length > 0) this.status = "optimal";
    return this.status === "optimal";
  }
}

/** A stopped worker gets this long to hand over what it has before it is ended. */
const graceSeconds = 0.5;

/**
 * The kernel. Returns the reduced problem where it did not finish, for HiGHS to go on with.
 * @throws MpoptError E_SOLVER where the kernel is not built or fails
 */
export async function runKernel(
  run: Run,
  { seconds, searchNodes }: { seconds: number; searchNodes: number },
): Promise<Core | undefined> {
  const wasm = kernelPath();
  if (wasm === undefined) {
    throw new MpoptError("E_SOLVER", "Expected the solver kernel (kernel.wasm) but it was not built.", [
      "Run `npm run build` where @yowasp/clang is installed, or use the highs engine.",
    ]);
  }
  // Tables take time to fill: fewer where there is little of it.
  const tableEntries = Math.max(1 << 12, Math.min(1 << 24, Math.floor(Math.min(seconds, 1e6) * (1 << 21))));
  const reply = await runTask(
    {
      kernel: {
        ...flatten(run.problem),
        wasm,
        seconds,
        gap: run.gap,
        searchNodes,
        tableEntries,
        wantCore: true,
      },
    },
    {
      signal: run.signal,
      seconds: seconds + graceSeconds,
      onProgress: ({ objective, bound }) => run.report(objective, bound),
    },
  );
  if (!reply) return undefined;
  if (reply.status === "infeasible") {
    run.status = "infeasible";
    return undefined;
  }
  if (reply.assignment) {
    const assignment = Array.from(reply.assignment);
    const { cost, feasible, violation } = evaluateAssignment(run.problem, assignment);
    const agrees =
      Math.abs(cost - reply.objective) <= 1e-9 * Math.max(Math.abs(cost), Math.abs(reply.objective));
    if (!feasible || !agrees) {
      const why = violation ?? `Expected an objective of ${cost} but found ${reply.objective}.`;
      throw new MpoptError("E_SOLVER", `The kernel gave a wrong answer: ${why}`);
    }
    run.offer(assignment);
  }
  run.raise(reply.bound);
  if (reply.status === "optimal") run.status = "optimal";
  return reply.core;
}

/** Nonzeros up to which all memory rows go into the first program. */
const memoryNonzeros = 50_000;

/**
 * HiGHS on a reduced problem, or on the problem itself. Memory rows are added until the optimum of the
 * program respects all of them; every program is a relaxation, so its bound holds.
 */
export async function runHighs(run: Run, core: Core = coreOf(run.problem)): Promise<void> {
  const milp = new Milp(core, run.objective);
  if (milp.impossible) {
    run.status = "infeasible";
    return;
  }
  if (milp.columns > maximumColumns) {
    run.raise(trivialBound(run.problem));
    return;
  }
  milp.addAllSteps(memoryNonzeros);
  let relaxed: Int32Array | undefined;
  for (;;) {
    const seconds = run.left();
    if (seconds <= 0) break;
    const start = run.assignment.length > 0 ? contract(core, run.assignment) : relaxed;
    let bound = Number.NEGATIVE_INFINITY;
    const reply = await runTask(
      { milp: milp.task(Number.isFinite(seconds) ? seconds : 1e9, run.gap / 2, run.seed, start) },
      {
        signal: run.signal,
        seconds: seconds + graceSeconds,
        onProgress: (progress) => {
          if (progress.bound > -1e20) bound = Math.max(bound, milp.unscale(progress.bound));
          if (progress.solution) run.offer(expand(core, milp.read(progress.solution)));
          run.report(run.objective, bound);
        },
      },
    );
    if (reply?.status === "infeasible") {
      // Costs are not part of feasibility, and rows are only ever implied ones.
      if (run.assignment.length === 0) run.status = "infeasible";
      return;
    }
    if (reply && reply.bound > -1e20) bound = Math.max(bound, milp.unscale(reply.bound));
    if (reply?.solution) {
      relaxed = milp.read(reply.solution);
      run.offer(expand(core, relaxed));
    }
    if (run.raise(Math.min(bound, run.objective))) return;
    if (reply?.status !== "optimal") break;
    if (milp.cut(relaxed!) === 0) {
      // Nothing is broken, so the program's optimum is the problem's.
      run.status = run.assignment.length > 0 ? "optimal" : "open";
      return;
    }
  }
  run.raise(trivialBound(run.problem));
}

/** Sum of the least entry of everything: a bound that is always there. */
function trivialBound(problem: Problem): number {
  const least = (sum: number, { costs }: { costs: number[] }) =>
    sum + costs.reduce((low, cost) => Math.min(low, cost), Number.POSITIVE_INFINITY);
  return problem.edges.reduce(least, problem.nodes.reduce(least, 0));
}
