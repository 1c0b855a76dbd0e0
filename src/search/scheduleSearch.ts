import type { Job, RunOptions } from "../contracts/index.js";
import { scheduleRefusal, searchedSchedule } from "../runtimes/index.js";
import type { Candidate } from "./candidate.js";
import type { CandidatePool } from "./candidatePool.js";
import { describeConfiguration } from "./candidates.js";
import type { CostModels } from "./configuration.js";
import { searchFlush } from "./oneForwardOneBackward.js";
import { excessBytes } from "./pricing.js";
import { balancedCut } from "./rankCuts.js";
import { describeChoice, mostChunks, type ScheduleChoice } from "./scheduleChoices.js";
import { improveCut, type ScheduledCut, searchActions } from "./scheduleFinalists.js";
import { costsUnder, type Option, ScheduleOptions } from "./scheduleOptions.js";
import { runSeconds, type ScheduleRun, ScheduleRuns } from "./scheduleRuns.js";
import type { StageCosts } from "./stageCosts.js";

/** The best plan over all schedules, and what the search knows about the others. */
export interface SchedulePlan {
  best: ScheduledCut;
  /** No plan of the candidates is faster under any schedule: see `scheduleBound`. */
  bound: number;
  /** Cuts that were timed, the best first. */
  visited: { candidate: Candidate; choice: ScheduleChoice; seconds: number }[];
}

interface Visited extends Option {
  run: ScheduleRun;
  costs: StageCosts;
  boundaries: number[];
  seconds: number;
}

/** Cuts that are timed, and actions of schedules that are made, before the search turns to the best so far. */
const mostVisits = 200;
const mostActions = 2e6;
/** Visited cuts that are improved and timed in full, so many of one schedule; those slower by more are left out. */
const mostFinalists = 6;
const finalistsOfSchedule = 2;
const finalistSlack = 0.06;
/** Candidates whose 1F1B plan is made exact: the search over schedules has its own bound, and needs one good plan. */
const mostFlushVisits = 24;
/** Shapes that are opened to schedules before the best of them are timed. */
const shapesAtOnce = 512;
/** Finalists that get an order of actions of their own. */
const searchedFinalists = 2;

/**
 * Searches configurations jointly with schedules. Stages are cut evenly within what the schedule holds in flight,
 * candidates are timed by the simulator in the order of an estimate, and the best are improved by moving layers and,
 * where the runtime takes any order, by searching one. The exact 1F1B plan is among them where 1F1B is open.
 * @param names schedules that are open to the job.
 * @param elapsed seconds since the search began; at the job's limit the search goes with what it has.
 * @returns undefined where nothing fits.
 */
export async function searchSchedules(
  pool: CandidatePool,
  names: readonly string[],
  models: CostModels,
  elapsed: () => number,
  options: RunOptions,
): Promise<SchedulePlan | undefined> {
  const { job } = models;
  const onlySearched = names.join() === searchedSchedule;
  const opened = new ScheduleOptions(pool, names);
  const runs = new ScheduleRuns();
  let best = await bestFlush(pool, names, models, runs, elapsed, options);
  const timed: ScheduledCut[] = best ? [best] : [];
  const known: SchedulePlan["visited"] = timed.map((cut) => ({
    candidate: cut.candidate,
    choice: { name: cut.name, chunks: 1 },
    seconds: cut.seconds,
  }));
  const shapes = opened.shapes();
  const inOrder: Visited[] = [];
  const leader = () =>
    Math.min(best?.seconds ?? Number.POSITIVE_INFINITY, inOrder[0]?.seconds ?? Number.POSITIVE_INFINITY);
  const budget = { visits: mostVisits };
  let next = 0;
  while (next < shapes.length && shapes[next]!.least < leader()) {
    if (leader() < Number.POSITIVE_INFINITY && elapsed() > job.limits.searchSeconds) break;
    for (const end = next + shapesAtOnce; next < Math.min(end, shapes.length); next++) {
      const { shape, least } = shapes[next]!;
      if (least >= leader()) break;
      options.signal?.throwIfAborted();
      opened.explore(shape, leader());
    }
    inOrder.push(...(await visit(opened.take(), leader(), budget, runs, models, elapsed, options)));
    inOrder.sort((a, b) => a.seconds - b.seconds);
  }
  /** What shapes that nobody looked at take at least. */
  const unseen = shapes[next]?.least ?? Number.POSITIVE_INFINITY;
  const finalists = finalistsOf(inOrder);
  for (const each of finalists) {
    options.signal?.throwIfAborted();
    const fastest = Math.min(best?.seconds ?? Number.POSITIVE_INFINITY, finalists[0]!.seconds);
    if (each.seconds > fastest * (1 + finalistSlack)) break;
    if (best && elapsed() > job.limits.searchSeconds) break;
    const cut = finish(each, runs);
    if (!cut) continue;
    each.seconds = cut.seconds;
    timed.push(cut);
    if (!best || cut.seconds < best.seconds) best = cut;
  }
  // What was visited fits by its short run; one that does not in full is rare, and then the next may.
  for (const each of inOrder) {
    if (best) break;
    if (finalists.includes(each)) continue;
    best = finish(each, runs);
    if (best) timed.push(best);
  }
  if (names.includes(searchedSchedule)) {
    let searched: ScheduledCut | undefined;
    timed.sort((a, b) => a.seconds - b.seconds);
    const order = differentLayouts(timed).slice(0, onlySearched ? timed.length : searchedFinalists);
    for (const cut of order) {
      if (elapsed() > job.limits.searchSeconds && best && (searched || !onlySearched)) break;
      const { layout, configuration } = cut.costs;
      const { pipeline: ranks, microBatches, recompute } = configuration;
      const counts = { ranks, chunks: layout.rankOfStage.length / ranks, microBatches, recompute };
      if (scheduleRefusal(job.runtime, searchedSchedule, counts) !== undefined) continue;
      const found = await searchActions(cut, onlySearched, options);
      if (found && found.seconds < (searched?.seconds ?? Number.POSITIVE_INFINITY)) searched = found;
    }
    if (onlySearched) best = searched;
    else if (searched && searched.seconds < best!.seconds) best = searched;
  }
  const visited = [...known, ...inOrder].sort((a, b) => a.seconds - b.seconds);
  if (!best) return undefined;
  const quick = elapsed() > job.limits.searchSeconds;
  return { best, bound: opened.bound(Math.min(best.seconds, unseen), quick, runs), visited };
}

/** The best 1F1B plan of the first candidates, with exact stages, timed by the simulator. */
async function bestFlush(
  pool: CandidatePool,
  names: readonly string[],
  { job }: CostModels,
  runs: ScheduleRuns,
  elapsed: () => number,
  options: RunOptions,
): Promise<ScheduledCut | undefined> {
  if (!names.includes("1f1b") || (job.pins.chunks ?? 1) !== 1) return undefined;
  const found = await searchFlush(pool, job, elapsed, options, mostFlushVisits);
  if (!found) return undefined;
  const { candidate, boundaries } = found;
  const run = runs.whole({ name: "1f1b", chunks: 1 }, candidate.configuration)!;
  const { costs } = candidate;
  const seconds = runSeconds(costs, boundaries, run);
  return { candidate, name: "1f1b", schedule: run.schedule, costs, boundaries, seconds };
}

/** Cuts and times options in the order of their estimates, until none that is left looks faster. */
async function visit(
  open: readonly Option[],
  start: number,
  budget: { visits: number },
  runs: ScheduleRuns,
  models: CostModels,
  elapsed: () => number,
  options: RunOptions,
): Promise<Visited[]> {
  const visited: Visited[] = [];
  let best = start;
  for (const option of open) {
    if (option.estimate >= best) break;
    options.signal?.throwIfAborted();
    const found = best < Number.POSITIVE_INFINITY;
    if (found && (budget.visits <= 0 || runs.actions >= mostActions)) break;
    if (found && elapsed() > models.job.limits.searchSeconds) break;
    if (--budget.visits % 8 === 0) await new Promise((resolve) => setImmediate(resolve));
    const { candidate, choice } = option;
    const { configuration } = candidate;
    const run = runs.short(choice, configuration);
    if (!run) continue;
    const costs = costsUnder(candidate, run, models);
    const boundaries = balancedCut(costs, run.schedule);
    if (!boundaries) continue;
    const seconds = runSeconds(costs, boundaries, run);
    visited.push({ ...option, run, costs, boundaries, seconds });
    if (seconds < best) {
      best = seconds;
      options.onProgress?.({
        message: `${seconds.toPrecision(4)} s a step: ${describeConfiguration(configuration)}, ${describeChoice(choice)}`,
        fraction: 0.8,
      });
    }
  }
  return visited;
}

/** The best visited cuts, not all of one schedule. */
function finalistsOf(inOrder: readonly Visited[]): Visited[] {
  const ofSchedule = new Map<string, number>();
  const result: Visited[] = [];
  for (const each of inOrder) {
    if (result.length >= mostFinalists) break;
    const { name } = each.choice;
    const before = ofSchedule.get(name) ?? 0;
    if (before >= finalistsOfSchedule) continue;
    ofSchedule.set(name, before + 1);
    result.push(each);
  }
  return result;
}

/** The first cut of each layout: orders that are searched for equal stages come out alike. */
function differentLayouts(cuts: readonly ScheduledCut[]): ScheduledCut[] {
  const seen = new Set<string>();
  return cuts.filter(({ costs }) => {
    const { pipeline, tensor, microBatch } = costs.configuration;
    const key = [pipeline, tensor, microBatch, ...costs.layout.rankOfStage].join();
    if (seen.has(key)) return false;
    seen.add(key);
    return true;
  });
}

/** Improves a visited cut and times it in full. */
function finish(each: Visited, runs: ScheduleRuns): ScheduledCut | undefined {
  const { candidate, choice, costs, run } = each;
  const whole = runs.whole(choice, candidate.configuration);
  if (!whole) return undefined;
  const { schedule } = whole;
  let boundaries = improveCut(costs, run, each.boundaries);
  let seconds = runSeconds(costs, boundaries, whole);
  const before = runSeconds(costs, each.boundaries, whole);
  if (before < seconds) [boundaries, seconds] = [each.boundaries, before];
  if (excessBytes(costs, boundaries, schedule.holdings) > 0) return undefined;
  return { candidate, name: choice.name, schedule, costs, boundaries, seconds };
}

/** What was searched, in words. */
export function schedulesSearched(names: readonly string[], job: Job): string {
  const { chunks } = job.pins;
  const each = chunks === undefined ? `up to ${mostChunks} chunks a rank` : `${chunks} chunks a rank`;
  const holds = names.includes(searchedSchedule) ? "every schedule and cut" : "these schedules and every cut";
  return [
    `schedules ${names.join(", ")} with ${each}, timed by the simulator`,
    "stages even within memory, then improved layer by layer: not every cut was tried",
    `the bound holds for ${holds}`,
  ].join("; ");
}
