import { type ScheduleTable, stageLinks } from "../schedule/index.js";

/** Where a plan's stages live. Stages are numbered in the order of the forward pass. */
export interface StageLayout {
  ranks: number;
  /** Pipeline rank of each stage; of its first copy where a bidirectional schedule holds two. */
  rankOfStage: readonly number[];
  /** Stages that each rank holds, copies included, in the order of the schedule's own stages. */
  stagesOfRank: readonly (readonly number[])[];
  /** How many ranks hold a stage: 2 under bidirectional schedules. */
  copies: number;
}

const layouts = new Map<number, StageLayout>();

/** One stage a rank; one object for each number of ranks. */
export function onePerRank(ranks: number): StageLayout {
  const layout = layouts.get(ranks) ?? makeOnePerRank(ranks);
  layouts.set(ranks, layout);
  return layout;
}

function makeOnePerRank(ranks: number): StageLayout {
  const stages = Array.from({ length: ranks }, (_, i) => i);
  return { ranks, rankOfStage: stages, stagesOfRank: stages.map((stage) => [stage]), copies: 1 };
}

/** The layout that a schedule's table spells out. */
export function layoutOfTable(table: ScheduleTable): StageLayout {
  const { rank } = stageLinks(table);
  const layersOf = table.layersOf ?? Array.from({ length: table.stages }, (_, stage) => stage);
  const stages = 1 + Math.max(...layersOf);
  const stagesOfRank: number[][] = table.ranks.map(() => []);
  const rankOfStage = new Array<number>(stages).fill(-1);
  layersOf.forEach((stage, t) => {
    stagesOfRank[rank[t]!]!.push(stage);
    if (rankOfStage[stage] === -1) rankOfStage[stage] = rank[t]!;
  });
  return { ranks: table.ranks.length, rankOfStage, stagesOfRank, copies: layersOf.length / stages };
}
