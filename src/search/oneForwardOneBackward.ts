import type { Job, RunOptions } from "../contracts/index.js";
import type { Candidate } from "./candidate.js";
import type { CandidatePool } from "./candidatePool.js";
import { describeConfiguration } from "./candidates.js";
import type { StageCosts } from "./stageCosts.js";
import { cutStages, type StageProblem } from "./stages.js";

/** What `cutStages` asks, answered from stage costs. */
export function stageProblem(costs: StageCosts): StageProblem {
  const { pipeline, microBatches } = costs.configuration;
  return {
    layers: costs.layerCount,
    stages: pipeline,
    microBatches,
    leastSeconds: costs.wholeModel().seconds * (1 - 1e-12),
    seconds: (stage, start, end) => costs.passSeconds(stage, start, end),
    stepSeconds: (stage, start, end) => {
      const { gradientSynchronisation, optimizer } = costs.onceSeconds(stage, start, end);
      return gradientSynchronisation + optimizer;
    },
    fits: (stage, start, end) => costs.reservedBytes(stage, start, end) <= costs.limitBytes,
  };
}

/** No cut of the layers takes less than this under 1F1B: see `cutStages` for the objective. */
export function leastSeconds(costs: StageCosts): number {
  const { microBatches } = costs.configuration;
  const whole = costs.wholeModel();
  const sum = whole.seconds;
  const largest = Math.max(whole.paceSeconds, whole.largestLayerSeconds);
  return sum + (microBatches - 1) * largest + whole.leastOptimizerSeconds;
}

/** The best plan under 1F1B. */
export interface FlushPlan {
  candidate: Candidate;
  boundaries: number[];
  objective: number;
  /** No plan of the candidates is below. */
  bound: number;
}

/** Whether some cut fits under 1F1B: every stage takes as many layers as it can, and all are taken. */
export function fitsSomehow(costs: StageCosts): boolean {
  const { layerCount } = costs;
  const { pipeline } = costs.configuration;
  if (pipeline > layerCount + 2) return false;
  const fits = (stage: number, start: number, end: number) =>
    costs.reservedBytes(stage, start, end) <= costs.limitBytes;
  let start = 0;
  for (let stage = 0; stage < pipeline; stage++) {
    // Stages between the ends hold a layer at least, and so does every later one of them.
    const later = Math.max(0, pipeline - 2 - stage);
    const least = pipeline > 1 && (stage === 0 || stage === pipeline - 1) ? 0 : 1;
    let low = start + (pipeline === 1 ? layerCount : least);
    let high = layerCount - (stage === pipeline - 1 ? 0 : later);
    if (low > high || !fits(stage, start, low)) return false;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (fits(stage, start, middle)) low = middle;
      else high = middle - 1;
    }
    start = low;
  }
  return start === layerCount;
}

/**
 * The best 1F1B plan of a pool, by the closed form of `cutStages`. A time limit ends the search early with the best
 * answer so far and the least bound that is left.
 * @param elapsed seconds since the search began.
 * @param visits candidates after which the search ends early as well, once it has an answer.
 * @returns undefined where none fits.
 */
export async function searchFlush(
  pool: CandidatePool,
  job: Job,
  elapsed: () => number,
  options: RunOptions,
  visits = Number.POSITIVE_INFINITY,
): Promise<FlushPlan | undefined> {
  let best: Omit<FlushPlan, "bound"> | undefined;
  let bound: number | undefined;
  for (let visited = 1; ; visited++) {
    options.signal?.throwIfAborted();
    if (best && (visited > visits || elapsed() > job.limits.searchSeconds)) {
      bound = Math.min(best.objective, pool.leastBound);
      break;
    }
    const candidate = pool.next(best?.objective);
    if (!candidate) break;
    const cut = cutStages(stageProblem(candidate.costs), best?.objective);
    if (cut) {
      best = { candidate, boundaries: cut.boundaries, objective: cut.objective };
      options.onProgress?.({
        message: `${cut.objective.toPrecision(4)} s a step: ${describeConfiguration(candidate.configuration)}`,
        fraction: 0.8,
      });
    }
    if (visited % 16 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  return best && { ...best, bound: bound ?? best.objective };
}
