import type { RunOptions } from "../contracts/index.js";
import { searchedSchedule } from "../runtimes/index.js";
import { checkActions, type ScheduleProblem, searchSchedule, writeScheduleCsv } from "../schedule/index.js";
import type { Candidate } from "./candidate.js";
import { PreparedSchedule } from "./preparedSchedule.js";
import { excessBytes, passTimes, rankMemory } from "./pricing.js";
import { moveLayer } from "./rankCuts.js";
import { runSeconds, type ScheduleRun } from "./scheduleRuns.js";
import type { StageCosts } from "./stageCosts.js";

/** A cut under a schedule, with the seconds of its step. */
export interface ScheduledCut {
  candidate: Candidate;
  /** The schedule's name, and its actions where the name does not say them. */
  name: string;
  actions?: string[];
  schedule: PreparedSchedule;
  /** With the schedule's layout. */
  costs: StageCosts;
  boundaries: number[];
  seconds: number;
}

/** Cuts that one round of moves may time, counted in actions of the schedule. */
const moveActions = 4e6;

/**
 * Moves single layers between stages as long as the run gets faster and fits, those from busy ranks to idle ones first.
 */
export function improveCut(costs: StageCosts, run: ScheduleRun, start: readonly number[]): number[] {
  const { schedule } = run;
  const { rankOfStage } = costs.layout;
  const stages = rankOfStage.length;
  let boundaries = [...start];
  let seconds = runSeconds(costs, boundaries, run);
  let left = moveActions;
  for (let improved = true; improved && left > 0; ) {
    improved = false;
    const load = schedule.rankSeconds(passTimes(costs, boundaries));
    const moves: { from: number; to: number; gain: number }[] = [];
    for (let from = 0; from < stages; from++) {
      for (let to = 0; to < stages; to++) {
        const gain = load[rankOfStage[from]!]! - load[rankOfStage[to]!]!;
        if (from !== to) moves.push({ from, to, gain });
      }
    }
    moves.sort((a, b) => b.gain - a.gain);
    for (const { from, to } of moves) {
      if (left <= 0) break;
      const moved = moveLayer(boundaries, from, to);
      if (!moved) continue;
      left -= schedule.actions;
      const after = runSeconds(costs, moved, run);
      if (after >= seconds * (1 - 1e-9) || excessBytes(costs, moved, schedule.holdings) > 0) continue;
      boundaries = moved;
      seconds = after;
      improved = true;
      break;
    }
  }
  return boundaries;
}

/** Larger pipelines are not searched for an order of their own: it takes longer than it gains. */
const searchedOperations = 6000;
const searchWork = 2e7;
/** A searched order has to save this share of the step to be worth its list of actions. */
const worthwhile = 1e-3;

/**
 * Searches the order of actions for a cut, within the memory that its ranks have left for activations.
 * @param always take the searched order even where a named one is as fast.
 * @returns undefined where the pipeline is too large, or nothing worthwhile was found.
 */
export async function searchActions(
  cut: ScheduledCut,
  always: boolean,
  options: RunOptions,
): Promise<ScheduledCut | undefined> {
  const { costs, boundaries, schedule } = cut;
  const { layout, configuration } = costs;
  const { microBatches } = configuration;
  const stages = layout.rankOfStage.length;
  if (layout.copies > 1 || 3 * stages * microBatches > searchedOperations) return undefined;
  const problem = problemOf(costs, boundaries, schedule);
  if (!problem) return undefined;
  const found = await searchSchedule(problem, {
    workLimit: searchWork,
    starts: schedule.table.weightVersions ? [] : [schedule.table],
    ...(options.signal ? { signal: options.signal } : {}),
  });
  const table = { ...found.table, name: searchedSchedule };
  if (checkActions(table).length > 0) return undefined;
  const searched = new PreparedSchedule(table);
  if (excessBytes(costs, boundaries, searched.holdings) > 0) return undefined;
  const seconds = runSeconds(costs, boundaries, { schedule: searched, further: 0 });
  if (!always && seconds > cut.seconds * (1 - worthwhile)) return undefined;
  const actions = writeScheduleCsv(table).trimEnd().split("\n");
  return { ...cut, name: searchedSchedule, actions, schedule: searched, seconds };
}

/** The scheduler's problem; undefined where it cannot express the memory. */
function problemOf(
  costs: StageCosts,
  boundaries: readonly number[],
  schedule: PreparedSchedule,
): ScheduleProblem | undefined {
  const { layout, configuration, roomBytes } = costs;
  const times = passTimes(costs, boundaries);
  let splitBackward = true;
  const stages = layout.rankOfStage.map((rank, s) => {
    const { savedBytes, betweenBytes, logitsBytes, logitsGradientBytes } = costs.footprint(
      s,
      boundaries[s]!,
      boundaries[s + 1]!,
    );
    const activationBytes = savedBytes + logitsBytes - logitsGradientBytes;
    const weightGradientBytes = betweenBytes + logitsGradientBytes;
    // Recomputed activations would grow a backward, which the scheduler's memory cannot say.
    if (weightGradientBytes > activationBytes) splitBackward = false;
    return {
      rank,
      forwardSeconds: times.forward[s]!,
      backwardInputSeconds: Math.max(0, times.backward[s]! - times.backwardWeight[s]!),
      backwardWeightSeconds: times.backwardWeight[s]!,
      activationBytes,
      weightGradientBytes,
    };
  });
  const memoryLimitBytes = layout.stagesOfRank.map((_, rank) => {
    const terms = rankMemory(costs, boundaries, schedule.holdings, rank);
    const held = layout.stagesOfRank[rank]!.map((s) =>
      costs.footprint(s, boundaries[s]!, boundaries[s + 1]!),
    );
    const once = held.reduce(
      (most, each) => ({
        recomputed: Math.max(most.recomputed, each.recomputedBytes),
        gradient: Math.max(most.gradient, each.logitsGradientBytes),
        workspace: Math.max(most.workspace, each.workspaceBytes),
      }),
      { recomputed: 0, gradient: 0, workspace: 0 },
    );
    const fixed = terms.parameters + terms.gradients + terms.optimizer;
    return roomBytes - fixed - once.recomputed - once.gradient - once.workspace;
  });
  if (memoryLimitBytes.some((bytes) => bytes < 0)) return undefined;
  return {
    stages: splitBackward ? stages : stages.map((stage) => ({ ...stage, weightGradientBytes: 0 })),
    ranks: layout.ranks,
    microBatches: configuration.microBatches,
    memoryLimitBytes,
    splitBackward,
  };
}
