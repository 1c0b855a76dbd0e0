import type { StageLayout } from "./layout.js";
import type { PreparedSchedule } from "./preparedSchedule.js";
import { excessBytes, passTimes, rankMemory } from "./pricing.js";
import type { StageCosts } from "./stageCosts.js";

/**
 * Cuts of a chain of layers into the stages of a schedule whose ranks may hold several: ranks as even as their memory
 * allows. Boundary i is the first block layer of stage i.
 */

/** Stages between the first and the last hold a layer; those two may hold the embedding or the head alone. */
export function leastLayers(stage: number, stages: number): number {
  return stages > 1 && (stage === 0 || stage === stages - 1) ? 0 : 1;
}

/**
 * A cut with an even load on all ranks that fits the memory, for the given schedule's layout and holdings.
 * @returns undefined where none was found.
 */
export function balancedCut(costs: StageCosts, schedule: PreparedSchedule): number[] | undefined {
  const uniform = isUniform(costs);
  const fits = (boundaries: readonly number[]) => excessBytes(costs, boundaries, schedule.holdings) <= 0;
  if (uniform) {
    // What fits in the end had room all the way.
    const free = evenCounts(costs, schedule, uniform, false);
    const boundaries = free && boundariesOf(free);
    if (!boundaries || fits(boundaries)) return boundaries;
  }
  const counts = evenCounts(costs, schedule, uniform, true);
  if (!counts) return undefined;
  const boundaries = boundariesOf(counts);
  return uniform && fits(boundaries) ? boundaries : evenOut(costs, schedule, boundaries);
}

function boundariesOf(counts: readonly number[]): number[] {
  const boundaries = [0];
  for (const count of counts) boundaries.push(boundaries.at(-1)! + count);
  return boundaries;
}

/** Whether all block layers take the same time and memory. */
function isUniform(costs: StageCosts): boolean {
  const { layerCount } = costs;
  const first = costs.passSeconds(0, 0, Math.min(1, layerCount)) - costs.passSeconds(0, 0, 0);
  const bytes =
    costs.footprint(0, 0, Math.min(1, layerCount)).savedBytes - costs.footprint(0, 0, 0).savedBytes;
  for (let layer = 1; layer < layerCount; layer++) {
    const seconds = costs.passSeconds(0, 0, layer + 1) - costs.passSeconds(0, 0, layer);
    const saved = costs.footprint(0, 0, layer + 1).savedBytes - costs.footprint(0, 0, layer).savedBytes;
    if (Math.abs(seconds - first) > 1e-6 * first || Math.abs(saved - bytes) > 1e-6 * bytes) return false;
  }
  return true;
}

/**
 * Number of layers of each stage, layers taken as equal: one after the other goes to the stage whose ranks have the
 * least work and, where that is asked for, room left.
 */
function evenCounts(
  costs: StageCosts,
  schedule: PreparedSchedule,
  uniform: boolean,
  withRoom: boolean,
): number[] | undefined {
  const { layerCount: layers, layout } = costs;
  const stages = layout.rankOfStage.length;
  if (stages === 1) return [layers];
  const each = layers > 0 ? (costs.passSeconds(0, 0, layers) - costs.passSeconds(0, 0, 0)) / layers : 0;
  const counts = Array.from({ length: stages }, (_, stage) => leastLayers(stage, stages));
  let left = layers - counts.reduce((sum, count) => sum + count, 0);
  if (left < 0) return undefined;
  const ranksOf: { rank: number; share: number }[][] = counts.map(() => []);
  const load = new Float64Array(layout.ranks);
  schedule.work.forEach((own, rank) => {
    for (const { stage, share } of own) {
      ranksOf[stage]!.push({ rank, share });
      load[rank]! += share * (costs.passSeconds(stage, 0, 0) + counts[stage]! * each);
    }
  });
  const full = new Uint8Array(stages);
  for (; left > 0; left--) {
    for (;;) {
      const stage = emptiest(counts, full, ranksOf, load, each);
      if (stage < 0) return uniform ? undefined : spread(counts, left);
      counts[stage]!++;
      if (!withRoom || fitsEvenly(costs, schedule, counts, ranksOf[stage]!)) {
        for (const { rank, share } of ranksOf[stage]!) load[rank]! += share * each;
        break;
      }
      // What does not fit now will not fit later: nothing is taken away.
      counts[stage]!--;
      full[stage] = 1;
    }
  }
  return counts;
}

/** The stage whose ranks would have the least work with one layer more; then the one with fewest, then the last. */
function emptiest(
  counts: readonly number[],
  full: Uint8Array,
  ranksOf: readonly (readonly { rank: number; share: number }[])[],
  load: Float64Array,
  each: number,
): number {
  let best = -1;
  let bestLoad = Number.POSITIVE_INFINITY;
  for (let stage = 0; stage < counts.length; stage++) {
    if (full[stage]) continue;
    const after = ranksOf[stage]!.reduce(
      (most, { rank, share }) => Math.max(most, load[rank]! + share * each),
      0,
    );
    const difference = after - bestLoad;
    if (difference > 1e-9 * after) continue;
    if (difference > -1e-9 * after && counts[stage]! > counts[best]!) continue;
    best = stage;
    bestLoad = after;
  }
  return best;
}

/** Whether the ranks fit with so many equal layers on each stage. */
function fitsEvenly(
  costs: StageCosts,
  schedule: PreparedSchedule,
  counts: readonly number[],
  ranks: readonly { rank: number }[],
): boolean {
  const { layerCount } = costs;
  // Equal layers: any range of the right length stands for the stage's own.
  const boundariesOf = (stage: number): [number, number] => [layerCount - counts[stage]!, layerCount];
  return ranks.every(({ rank }) => {
    const terms = rankMemory(costs, boundariesOf, schedule.holdings, rank);
    return costs.reserved(terms) <= costs.limitBytes;
  });
}

/** Puts what is left onto the emptiest stages, for the repair to begin with. */
function spread(counts: number[], left: number): number[] {
  for (let i = 0; i < left; i++) counts[counts.indexOf(Math.min(...counts))]!++;
  return counts;
}

/** The boundaries after one layer has gone from stage `from` to stage `to`; undefined where `from` has none to give. */
export function moveLayer(boundaries: readonly number[], from: number, to: number): number[] | undefined {
  const stages = boundaries.length - 1;
  if (from === to || boundaries[from + 1]! - boundaries[from]! <= leastLayers(from, stages)) return undefined;
  const moved = [...boundaries];
  for (let i = from + 1; i <= to; i++) moved[i]!--;
  for (let i = to + 1; i <= from; i++) moved[i]!++;
  return moved;
}

/** Stages that may get a layer more: those of the ranks with the least work. */
const receivingRanks = 4;

function receiversOf({ stagesOfRank }: StageLayout, load: Float64Array): number[] {
  const ranks = Array.from(load, (_, rank) => rank).sort((a, b) => load[a]! - load[b]!);
  return ranks.slice(0, receivingRanks).flatMap((rank) => stagesOfRank[rank]!);
}

/**
 * Moves layers between stages until all fit and no move makes the ranks more even, by the sum of their squared loads.
 * @returns undefined where they do not fit then.
 */
function evenOut(costs: StageCosts, schedule: PreparedSchedule, start: number[]): number[] | undefined {
  const { layout } = costs;
  const judge = (boundaries: readonly number[]) => {
    let excess = 0;
    let worst = 0;
    let worstBytes = Number.NEGATIVE_INFINITY;
    for (let rank = 0; rank < layout.ranks; rank++) {
      const over = costs.reserved(rankMemory(costs, boundaries, schedule.holdings, rank)) - costs.limitBytes;
      excess += Math.max(0, over);
      if (over > worstBytes) [worst, worstBytes] = [rank, over];
    }
    const load = schedule.rankSeconds(passTimes(costs, boundaries));
    const squares = load.reduce((sum, seconds) => sum + seconds * seconds, 0);
    const heavy = excess > 0 ? worst : load.indexOf(load.reduce((a, b) => Math.max(a, b), 0));
    return { excess, squares, heavy, receivers: receiversOf(layout, load) };
  };
  let boundaries = start;
  let value = judge(boundaries);
  for (let round = 0; round < 4 * costs.layerCount; round++) {
    let better: { boundaries: number[]; value: typeof value } | undefined;
    for (const from of layout.stagesOfRank[value.heavy]!) {
      for (const to of value.receivers) {
        const moved = moveLayer(boundaries, from, to);
        if (!moved) continue;
        const next = judge(moved);
        const than = better?.value ?? value;
        const less =
          next.excess < than.excess * (1 - 1e-12) ||
          (next.excess <= than.excess && next.squares < than.squares * (1 - 1e-12));
        if (less) better = { boundaries: moved, value: next };
      }
    }
    if (!better) break;
    ({ boundaries, value } = better);
  }
  return value.excess <= 0 ? boundaries : undefined;
}
