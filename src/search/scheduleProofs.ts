import type { HeldParameters } from "../cost/memory.js";
import type { Holding } from "./holdings.js";
import type { PreparedSchedule } from "./preparedSchedule.js";
import { leastLayers } from "./rankCuts.js";
import { type ChainPasses, leastUpdateSeconds } from "./scheduleBounds.js";
import type { StageCosts } from "./stageCosts.js";

/** Steps of a bisection: the result is exact to 2^-40 of where it starts. */
const bisections = 40;
/** Room for rounding where a quotient of sums should be whole. */
const rounding = 1e-9;

/**
 * No cut runs a step under the schedule in less; Infinity where no cut fits. It counts blocks, each as the least one:
 *
 * - Memory caps the blocks of a rank, by what the schedule holds in flight there.
 * - Some rank has at least the load at which ranks, so capped, have room for all blocks; it works that m times.
 * - With one stage a rank, rank r waits for one forward of all stages before it, works m times, and where backwards are
 *   whole all stages before it have one more backward behind its last: T >= Σ_{j<r} (f_j + b_j) + m (f_r + b_r), and
 *   without the b_j where they are split. T is too small if all ranks, filled one after the other as far as that
 *   allows, have not taken all blocks. Filling a rank less never helps: one block less there lets those behind it take
 *   at most one more in all.
 * @param costs with the schedule's layout, every stage on one rank.
 * @param memory whether the memory of these costs limits the cut.
 */
export function cutBound(
  costs: StageCosts,
  passes: ChainPasses,
  schedule: PreparedSchedule,
  memory = true,
): number {
  const { layout, configuration } = costs;
  const { microBatches: rounds } = configuration;
  const { leastBlock, blocks } = passes;
  const fixed = layout.stagesOfRank.map((stages) =>
    stages.reduce((sum, stage) => sum + costs.passSeconds(stage, 0, 0), 0),
  );
  const caps = layout.stagesOfRank.map((_, rank) =>
    memory ? mostBlocks(costs, passes, schedule, rank) : blocks,
  );
  if (caps.some((cap) => cap < 0) || caps.reduce((sum, cap) => sum + cap, 0) < blocks) {
    return Number.POSITIVE_INFINITY;
  }
  if (leastBlock.pass <= 0) return leastUpdateSeconds(costs);
  const take = (rank: number, load: number) =>
    Math.max(0, Math.min(caps[rank]!, Math.floor((load - fixed[rank]!) / leastBlock.pass + rounding)));
  const roomFor = (load: number) => {
    if (fixed.some((seconds) => seconds > load * (1 + rounding))) return false;
    return fixed.reduce((sum, _, rank) => sum + take(rank, load), 0) >= blocks;
  };
  const most = fixed.reduce((sum, seconds) => sum + seconds, 0) + blocks * leastBlock.pass;
  const load = least(roomFor, most);
  let seconds = rounds * load;
  if (layout.rankOfStage.length === layout.ranks) {
    const ahead = schedule.split ? leastBlock.forward : leastBlock.pass;
    const fixedAhead = fixed.map((all, stage) => (schedule.split ? costs.passes(stage, 0, 0).forward : all));
    const fills = (step: number) => {
      let before = 0;
      let taken = 0;
      for (let rank = 0; rank < layout.ranks; rank++) {
        const count = take(rank, (step - before) / rounds);
        taken += count;
        before += fixedAhead[rank]! + count * ahead;
      }
      return taken >= blocks;
    };
    seconds = Math.max(seconds, least(fills, (rounds + layout.ranks) * most));
  }
  return seconds + leastUpdateSeconds(costs);
}

/** The least value in (0, high] that holds, from below, where all above it hold too. */
function least(holds: (value: number) => boolean, high: number): number {
  let low = 0;
  let known = high;
  for (let i = 0; i < bisections; i++) {
    const middle = (low + known) / 2;
    if (holds(middle)) known = middle;
    else low = middle;
  }
  return low;
}

/** Blocks that fit on a rank at every moment of the schedule, each as small as the least; -1 where its ends do not. */
function mostBlocks(
  costs: StageCosts,
  { leastBlock }: ChainPasses,
  schedule: PreparedSchedule,
  rank: number,
): number {
  const stages = costs.layout.rankOfStage.length;
  const held = costs.layout.stagesOfRank[rank]!;
  const versions = schedule.holdings.weightVersions[rank]!;
  const bytesOf = (parameters: HeldParameters, weightVersions: number) => {
    const terms = costs.stateTerms(parameters);
    return terms.parameters * weightVersions + terms.gradients + terms.optimizer;
  };
  const ends = held.map((stage) => costs.footprint(stage, 0, 0));
  const atLeast = held.map((stage) => leastLayers(stage, stages));
  const endBytes = ends.map(({ parameters }, j) => bytesOf(parameters, versions[j]!));
  const leastHeld = { dense: leastBlock.parameters, expert: leastBlock.expertParameters };
  const blockBytes = held.map((_, j) => bytesOf(leastHeld, versions[j]!));
  const fewest = atLeast.reduce((sum, count) => sum + count, 0);
  let most = Number.POSITIVE_INFINITY;
  for (const holding of schedule.holdings.ofRank[rank]!) {
    let free = costs.roomBytes;
    let cheapest = Number.POSITIVE_INFINITY;
    for (let j = 0; j < held.length; j++) {
      const [whole, between] = momentOf(holding, j);
      const each = blockBytes[j]! + whole * leastBlock.savedBytes + between * leastBlock.betweenBytes;
      free -= endBytes[j]! + whole * ends[j]!.savedBytes + between * ends[j]!.betweenBytes;
      free -= atLeast[j]! * each;
      cheapest = Math.min(cheapest, each);
    }
    if (free < -rounding * costs.roomBytes) return -1;
    if (cheapest > 0) most = Math.min(most, fewest + Math.floor(Math.max(0, free) / cheapest + rounding));
  }
  return most;
}

function momentOf(holding: Holding, stage: number): [whole: number, between: number] {
  return [holding[2 * stage]!, holding[2 * stage + 1]!];
}
