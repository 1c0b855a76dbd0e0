import { MpoptError, type Plan } from "../contracts/index.js";
import {
  compileSchedule,
  memoryOfPlan,
  type ScheduleProblem,
  type ScheduleSearch,
  scheduleOfPlan,
  searchSchedule,
  stageLinks,
  timesOfPlan,
} from "../schedule/index.js";
import type { Context } from "./context.js";
import type { SimulateInputs } from "./simulateInputs.js";

/** What a search takes from the command's context. */
export type SearchContext = Pick<Context, "seed" | "signal" | "progress">;

/** The search ends after this many wall-clock seconds unless told otherwise. */
const defaultSearchSeconds = 10;

/** Searches a schedule for the plan's stages in what the ranks' memory limits leave for activations. */
export async function searchForPlan(
  plan: Plan,
  given: SimulateInputs,
  context: SearchContext,
): Promise<ScheduleSearch> {
  const { table, peakMicroBatches } = compileSchedule(scheduleOfPlan(plan));
  if (table.layersOf) throw misfit(plan, "every layer on one rank for a search");
  const times = timesOfPlan(plan);
  const memory = memoryOfPlan(plan, table, peakMicroBatches);
  const { rank } = stageLinks(table);
  const room = memory && table.ranks.map(() => 0);
  for (const { pipelineRank: r, limitBytes } of memory ? plan.estimate.memory : []) {
    const held = memory!.stages.filter((_, s) => rank[s] === r);
    const fixed = held.reduce(
      (sum, each) => sum + each.parameterBytes + (each.gradientBytes ?? 0) + (each.optimizerBytes ?? 0),
      0,
    );
    const workspace = Math.max(0, ...held.map((each) => each.forwardWorkspaceBytes ?? 0));
    const { contextBytes = 0, fragmentation = 1 } = memory!;
    room![r] = Math.max(0, (limitBytes - contextBytes) / fragmentation - fixed - workspace);
  }
  const stages = Array.from(rank, (r, s) => {
    const activationBytes = memory?.stages[s]?.activationBytes ?? 0;
    return {
      rank: r,
      forwardSeconds: times.forwardSeconds[s]!,
      backwardInputSeconds: times.backwardInputSeconds[s]!,
      backwardWeightSeconds: times.backwardWeightSeconds[s]!,
      activationBytes,
      // The plan does not say what the weight half alone needs, so that it keeps all.
      weightGradientBytes: activationBytes,
    };
  });
  return runSearch(
    {
      stages,
      ranks: table.ranks.length,
      microBatches: table.microBatches,
      splitBackward: times.backwardWeightSeconds.some((seconds) => seconds > 0),
      ...(room ? { memoryLimitBytes: room } : {}),
    },
    given,
    context,
  );
}

/** Searches a schedule for the stages that the options describe. */
export async function searchAlone(given: SimulateInputs, context: SearchContext): Promise<ScheduleSearch> {
  const { ranks, microBatches, chunks = 1, placement = "loop", inFlight } = given;
  const { transfer = 0, times = [[1, 1, 1]] } = given;
  const count = ranks! * chunks;
  if (times.length !== 1 && times.length !== count) throw wrongGroups(times.length, count);
  const stages = Array.from({ length: count }, (_, s) => {
    const [forwardSeconds, backwardInputSeconds, backwardWeightSeconds] = times[times.length === 1 ? 0 : s]!;
    const turn = Math.floor(s / ranks!);
    const rank = placement === "v" && turn % 2 === 1 ? ranks! - 1 - (s % ranks!) : s % ranks!;
    // Micro-batches count as in flight until their weight half, as everywhere here.
    return {
      rank,
      forwardSeconds,
      backwardInputSeconds,
      backwardWeightSeconds,
      activationBytes: 1,
      weightGradientBytes: 1,
    };
  });
  return runSearch(
    {
      stages,
      ranks: ranks!,
      microBatches: microBatches!,
      splitBackward: stages.some(({ backwardWeightSeconds }) => backwardWeightSeconds > 0),
      transferSeconds: new Array<number>(count - 1).fill(transfer),
      ...(inFlight === undefined ? {} : { memoryLimitBytes: new Array<number>(ranks!).fill(inFlight) }),
    },
    given,
    context,
  );
}

function runSearch(
  problem: ScheduleProblem,
  { timeLimit = defaultSearchSeconds }: SimulateInputs,
  { seed, signal, progress }: SearchContext,
): Promise<ScheduleSearch> {
  return searchSchedule(problem, { seed, signal, onProgress: progress, seconds: timeLimit });
}

export const ranksOf = (plan: Plan) => 1 + plan.stages.reduce((most, { rank }) => Math.max(most, rank), 0);

/** The sentence for a plan whose stages do not suit a schedule. */
export function misfit(plan: Plan, expected: string): MpoptError {
  return new MpoptError(
    "E_USAGE",
    `Expected a plan with ${expected} but found ${plan.stages.length} stages on ${ranksOf(plan)} ranks.`,
  );
}

/** The sentence for --times with the wrong number of groups. */
export function wrongGroups(found: number, stages: number): MpoptError {
  return new MpoptError(
    "E_USAGE",
    `Expected one group of times, or ${stages}, one a stage, for --times but found ${found}.`,
  );
}
