import type { MemoryEntry } from "../contracts/index.js";
import type { Holdings } from "./holdings.js";
import type { PassTimes, PreparedSchedule } from "./preparedSchedule.js";
import type { StageCosts } from "./stageCosts.js";
import type { UpdateSeconds } from "./updateCosts.js";

/**
 * Price of a cut under any schedule: the simulator's time of the pipeline, then what the rank with the longest update
 * adds once a step. Search, estimate and checker share it. Stage i holds block layers [boundaries[i],
 * boundaries[i + 1]).
 */

/** Seconds of one micro-batch on every stage of a cut. */
export function passTimes(costs: StageCosts, boundaries: readonly number[]): PassTimes {
  const stages = costs.layout.rankOfStage.length;
  const times = {
    forward: new Float64Array(stages),
    backward: new Float64Array(stages),
    backwardWeight: new Float64Array(stages),
  };
  for (let s = 0; s < stages; s++) {
    const { forward, backward, backwardWeight } = costs.passes(s, boundaries[s]!, boundaries[s + 1]!);
    times.forward[s] = forward;
    times.backward[s] = backward;
    times.backwardWeight[s] = backwardWeight;
  }
  return times;
}

/**
 * What one rank adds once a step, or as often as the schedule updates. Its reduction hides behind the backward of the last micro-batch on its stages; where
 * backwards are split, behind their weight halves, which make the gradients.
 */
export function rankUpdate(
  costs: StageCosts,
  boundaries: readonly number[],
  times: PassTimes,
  { split, updates }: PreparedSchedule,
  rank: number,
): UpdateSeconds {
  const { stagesOfRank, rankOfStage, copies, ranks } = costs.layout;
  const parameters = { dense: 0, expert: 0 };
  let hiding = 0;
  let other = 0;
  for (const s of stagesOfRank[rank]!) {
    const [start, end] = [boundaries[s]!, boundaries[s + 1]!];
    const own = costs.parameters(s, start, end);
    parameters.dense += own.dense;
    parameters.expert += own.expert;
    hiding += split ? times.backwardWeight[s]! : times.backward[s]!;
    other += costs.weightSeconds(s, start, end);
    // The second copy of a stage is on the mirrored rank.
    if (copies > 1) other += costs.update.copySeconds(own, rankOfStage[s]!, ranks - 1 - rankOfStage[s]!);
  }
  const { gradientSynchronisation, optimizer } = costs.update.seconds(parameters, hiding, other);
  return {
    gradientSynchronisation: updates * gradientSynchronisation,
    optimizer: updates * optimizer,
  };
}

/** The longest update of all ranks. */
export function longestUpdate(
  costs: StageCosts,
  boundaries: readonly number[],
  times: PassTimes,
  schedule: PreparedSchedule,
): UpdateSeconds {
  let longest: UpdateSeconds = { gradientSynchronisation: 0, optimizer: 0 };
  for (let rank = 0; rank < costs.layout.ranks; rank++) {
    const update = rankUpdate(costs, boundaries, times, schedule, rank);
    if (updateSeconds(update) > updateSeconds(longest)) longest = update;
  }
  return longest;
}

function updateSeconds({ gradientSynchronisation, optimizer }: UpdateSeconds): number {
  return gradientSynchronisation + optimizer;
}

/**
 * Memory of one device of a rank at its fullest moment, by term.
 * @param boundaries of all stages, or what gives the range of one.
 */
export function rankMemory(
  costs: StageCosts,
  boundaries: readonly number[] | ((stage: number) => [number, number]),
  holdings: Holdings,
  rank: number,
): MemoryEntry["terms"] {
  const held = costs.layout.stagesOfRank[rank]!.map((s) => {
    const [start, end] =
      typeof boundaries === "function" ? boundaries(s) : [boundaries[s]!, boundaries[s + 1]!];
    return costs.footprint(s, start, end);
  });
  let activations = 0;
  let logits = 0;
  // While a backward of the head runs, its gradient is there beside the logits that wait.
  const gradient = held.reduce((most, each) => Math.max(most, each.logitsGradientBytes), 0);
  for (const holding of holdings.ofRank[rank]!) {
    let saved = 0;
    let waiting = gradient;
    for (let j = 0; j < held.length; j++) {
      const { savedBytes, betweenBytes, logitsBytes, logitsGradientBytes } = held[j]!;
      const [whole, between] = [holding[2 * j]!, holding[2 * j + 1]!];
      saved += whole * savedBytes + between * betweenBytes;
      waiting += whole * (logitsBytes - logitsGradientBytes) + between * logitsGradientBytes;
    }
    if (saved + waiting > activations + logits) {
      activations = saved;
      logits = waiting;
    }
  }
  const parameters = { dense: 0, expert: 0 };
  let versions = 0;
  let workspaceBytes = 0;
  let recomputedBytes = 0;
  for (const [j, each] of held.entries()) {
    const { dense, expert } = each.parameters;
    parameters.dense += dense;
    parameters.expert += expert;
    versions += (dense + expert) * holdings.weightVersions[rank]![j]!;
    workspaceBytes = Math.max(workspaceBytes, each.workspaceBytes);
    recomputedBytes = Math.max(recomputedBytes, each.recomputedBytes);
  }
  const terms = costs.terms({
    parameters,
    savedBytes: activations,
    inFlight: 1,
    recomputedBytes,
    logitsBytes: logits,
    // A forward and a backward side by side have a workspace each.
    workspaceBytes: workspaceBytes * (holdings.overlaps[rank] ? 2 : 1),
  });
  const once = parameters.dense + parameters.expert;
  if (versions > once) terms.parameters *= versions / once;
  return terms;
}

/** Bytes by which the fullest rank exceeds its limit; at most 0 where all fit. */
export function excessBytes(costs: StageCosts, boundaries: readonly number[], holdings: Holdings): number {
  let excess = Number.NEGATIVE_INFINITY;
  for (let rank = 0; rank < costs.layout.ranks; rank++) {
    const bytes = costs.reserved(rankMemory(costs, boundaries, holdings, rank));
    excess = Math.max(excess, bytes - costs.limitBytes);
  }
  return excess;
}
