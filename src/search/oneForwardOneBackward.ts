import type { Job, RunOptions } from "../contracts/index.js";
import type { Candidate } from "./candidate.js";
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

/**
 * The best 1F1B plan of candidates in the order of their lower bounds, by the closed form of `cutStages`. A time limit
 * ends the search early with the best answer so far and the least bound that is left.
 * @param elapsed seconds since the search began.
 * @returns undefined where none fits.
 */
export async function searchFlush(
  candidates: readonly Candidate[],
  job: Job,
  elapsed: () => number,
  options: RunOptions,
): Promise<FlushPlan | undefined> {
  let best: Omit<FlushPlan, "bound"> | undefined;
  let bound: number | undefined;
  for (const [visited, candidate] of candidates.entries()) {
    options.signal?.throwIfAborted();
    if (best && candidate.lowerBound >= best.objective) break;
    if (elapsed() > job.limits.searchSeconds && best) {
      bound = Math.min(best.objective, candidate.lowerBound);
      break;
    }
    const cut = cutStages(stageProblem(candidate.costs), best?.objective);
    if (cut) {
      best = { candidate, boundaries: cut.boundaries, objective: cut.objective };
      options.onProgress?.({
        message: `${cut.objective.toPrecision(4)} s a step: ${describeConfiguration(candidate.configuration)}`,
        fraction: 0.7 + (0.3 * visited) / candidates.length,
      });
    }
    if (visited % 16 === 15) await new Promise((resolve) => setImmediate(resolve));
  }
  return best && { ...best, bound: bound ?? best.objective };
}
