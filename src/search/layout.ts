import { type ScheduleShape, type ScheduleTable, scheduleShape, stageLinks } from "../schedule/index.js";

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

/** One stage a rank. */
export function onePerRank(ranks: number): StageLayout {
  const stages = Array.from({ length: ranks }, (_, i) => i);
  return { ranks, rankOfStage: stages, stagesOfRank: stages.map((stage) => [stage]), copies: 1 };
}

/** The layout of a named schedule. */
export function layoutOfShape({ placement, rankOfStage }: ScheduleShape, ranks: number): StageLayout {
  const layersOf = rankOfStage.map((_, stage) => (placement === "bidirectional" ? stage % ranks : stage));
  return layoutFrom(ranks, rankOfStage, layersOf);
}

/** The layout that a schedule's table spells out. */
export function layoutOfTable(table: ScheduleTable): StageLayout {
  const layersOf = table.layersOf ?? Array.from({ length: table.stages }, (_, stage) => stage);
  return layoutFrom(table.ranks.length, [...stageLinks(table).rank], layersOf);
}

/** The layout of the schedule of that name, as `scheduleShape`. */
export function layoutOf(name: string, ranks: number, chunks: number): StageLayout {
  if (ranks === 1 && chunks === 1) return onePerRank(1);
  const bidirectional = scheduleShape(name, ranks).placement === "bidirectional";
  return layoutOfShape(scheduleShape(name, ranks, bidirectional ? undefined : chunks), ranks);
}

function layoutFrom(
  ranks: number,
  rankOfTableStage: readonly number[],
  layersOf: readonly number[],
): StageLayout {
  const stages = 1 + Math.max(...layersOf);
  const stagesOfRank: number[][] = Array.from({ length: ranks }, () => []);
  rankOfTableStage.forEach((rank, t) => {
    stagesOfRank[rank]!.push(layersOf[t]!);
  });
  const rankOfStage = Array.from({ length: stages }, (_, s) => rankOfTableStage[layersOf.indexOf(s)]!);
  return { ranks, rankOfStage, stagesOfRank, copies: layersOf.length / stages };
}
