import type { RunOptions } from "../../contracts/index.js";
import type { ScheduleTable } from "../actions.js";
import { flattenSchedule, type ScheduleProblem } from "./problem.js";
import { SearchRun } from "./run.js";
import { namedStarts } from "./starts.js";
import { ordersOfTable, tableOfOrders } from "./tables.js";

export interface ScheduleSearchOptions extends RunOptions {
  /** Default 0. */
  seed?: number;
  /** Relative gap at which the search ends. Default 0.001. */
  gap?: number;
  /**
   * Steps of work after which the search ends; 1e8 take about a second. Equal inputs with an equal limit give
   * equal answers as long as no time limit cuts them short. Default 4e8.
   */
  workLimit?: number;
  /** Wall-clock limit. Default: none. */
  seconds?: number;
  /**
   * Schedules of the same stages, ranks and micro-batches to start from, beside the named ones. The answer is no
   * slower than any of them that fits the memory.
   */
  starts?: readonly ScheduleTable[];
}

export interface ScheduleSearch {
  /** `optimal` where the bound proves it to a relative 1e-9. */
  status: "optimal" | "feasible";
  table: ScheduleTable;
  /** From the first forward's start to the last action's end. */
  stepSeconds: number;
  /** No schedule of this placement and memory is faster. */
  bound: number;
  /** (stepSeconds - bound) / bound; 0 for a step of no time. */
  gap: number;
  cpuSeconds: number;
  /** Steps of work that the search took. */
  work: number;
}

/**
 * Searches the fastest schedule with a flush for stages of unequal times within each rank's memory, with a
 * proven bound: list schedules, a tabu search over the ranks' orders, and windows that refute step times.
 * A rank may hold any stages. Activations count from a forward's start to its backward's end. The named
 * schedules of the same placement are among the starts.
 * @throws MpoptError E_USAGE for a problem or a start whose lists do not fit; E_INFEASIBLE where a rank's memory does not
 * hold one micro-batch; the signal's reason where it aborts.
 */
export async function searchSchedule(
  problem: ScheduleProblem,
  options: ScheduleSearchOptions = {},
): Promise<ScheduleSearch> {
  const cpu = process.cpuUsage();
  const flat = flattenSchedule(problem);
  const run = new SearchRun(flat, options);
  for (const table of [...namedStarts(problem), ...(options.starts ?? [])])
    run.offer(ordersOfTable(flat, table));
  const { orders, seconds, bound } = await run.run();
  const used = process.cpuUsage(cpu);
  const gap = bound > 0 ? Math.max(0, (seconds - bound) / bound) : 0;
  return {
    status: gap <= 1e-9 ? "optimal" : "feasible",
    table: tableOfOrders(flat, orders, "searched"),
    stepSeconds: seconds,
    bound: Math.min(bound, seconds),
    gap,
    cpuSeconds: (used.user + used.system) / 1e6,
    work: run.work,
  };
}
