import { type ChoiceScore, chooseIn, type PlanChoice, sumChoices } from "./choice.js";
import type { RunRecord } from "./columns.js";
import { prefixOf } from "./kinds.js";
import { type ScoredPrediction, scoreable } from "./scoreable.js";
import { mean, quantile } from "./statistics.js";

/** Errors predicted / measured - 1 of the rows that have both. */
export interface ErrorScore {
  /** Rows with a prediction, of those that can be scored. */
  n: number;
  total: number;
  coverage: number | null;
  /** Mean, median, 90th percentile and largest absolute error. */
  mape: number | null;
  medianApe: number | null;
  p90Ape: number | null;
  maxApe: number | null;
  /** Mean signed error. */
  bias: number | null;
  /** Share of rows within 10 %. */
  within10: number | null;
}

export interface FeasibilityScore {
  ranSaidRan: number;
  /** False alarms. */
  ranSaidOutOfMemory: number;
  /** Missed. */
  outOfMemorySaidRan: number;
  outOfMemorySaidOutOfMemory: number;
  notSaid: number;
}

export interface GroupScore {
  rows: number;
  time: ErrorScore;
  memory: ErrorScore;
  feasibility: FeasibilityScore;
  choice: ChoiceScore | null;
}

export interface Score {
  /** By the prefix of the ids, in their order. */
  groups: Record<string, GroupScore>;
  overall: GroupScore;
  /** Plain means of the groups' figures, so that a large group does not hide the others. */
  meanOfGroups: { timeMape: number | null; memoryMape: number | null; regret: number | null };
}

/** @param pairs [predicted, measured]. */
function errorScore(pairs: readonly (readonly [number, number])[], total: number): ErrorScore {
  const errors = pairs.map(([predicted, measured]) => predicted / measured - 1);
  const sizes = errors.map(Math.abs);
  return {
    n: pairs.length,
    total,
    coverage: total > 0 ? pairs.length / total : null,
    mape: mean(sizes),
    medianApe: quantile(sizes, 0.5),
    p90Ape: quantile(sizes, 0.9),
    maxApe: sizes.length > 0 ? Math.max(...sizes) : null,
    bias: mean(errors),
    within10: mean(sizes.map((size) => (size <= 0.1 + 1e-12 ? 1 : 0))),
  };
}

type ById = ReadonlyMap<string, ScoredPrediction>;

function groupScore(
  records: readonly RunRecord[],
  predictions: ById,
  choices: readonly PlanChoice[],
): GroupScore {
  const times: [number, number][] = [];
  const memories: [number, number][] = [];
  let timed = 0;
  let sized = 0;
  const feasibility: FeasibilityScore = {
    ranSaidRan: 0,
    ranSaidOutOfMemory: 0,
    outOfMemorySaidRan: 0,
    outOfMemorySaidOutOfMemory: 0,
    notSaid: 0,
  };
  for (const record of records) {
    const { stepSeconds, memoryGiB, ran } = scoreable(record);
    const said = predictions.get(record.id);
    if (stepSeconds !== undefined) {
      timed++;
      if (said?.stepSeconds !== undefined) times.push([said.stepSeconds, stepSeconds]);
    }
    if (memoryGiB !== undefined) {
      sized++;
      if (said?.memoryGiB !== undefined) memories.push([said.memoryGiB, memoryGiB]);
    }
    if (ran === undefined) continue;
    if (said?.feasible === undefined) feasibility.notSaid++;
    else if (ran) feasibility[said.feasible ? "ranSaidRan" : "ranSaidOutOfMemory"]++;
    else feasibility[said.feasible ? "outOfMemorySaidRan" : "outOfMemorySaidOutOfMemory"]++;
  }
  return {
    rows: records.length,
    time: errorScore(times, timed),
    memory: errorScore(memories, sized),
    feasibility,
    choice: sumChoices(choices),
  };
}

/**
 * Scores predictions of runs against what was measured of them: errors of time and memory, feasibility, and how well
 * the plan with the least predicted time does among those that were measured (`choice.ts`).
 */
export function score(records: readonly RunRecord[], list: readonly ScoredPrediction[]): Score {
  const predictions: ById = new Map(list.map((each) => [each.id, each]));
  const byPrefix = new Map<string, RunRecord[]>();
  const byChoice = new Map<string, RunRecord[]>();
  const add = (map: Map<string, RunRecord[]>, key: string, record: RunRecord) => {
    const known = map.get(key);
    if (known) known.push(record);
    else map.set(key, [record]);
  };
  for (const record of records) {
    add(byPrefix, prefixOf(record.id), record);
    if (record.measured.choiceGroup) add(byChoice, record.measured.choiceGroup, record);
  }
  const choices: { prefix: string; choice: PlanChoice }[] = [];
  for (const members of byChoice.values()) {
    const choice = chooseIn(members, predictions);
    if (choice) choices.push({ prefix: prefixOf(members[0]!.id), choice });
  }
  const groups: Record<string, GroupScore> = {};
  for (const prefix of [...byPrefix.keys()].sort()) {
    const own = choices.filter((each) => each.prefix === prefix).map((each) => each.choice);
    groups[prefix] = groupScore(byPrefix.get(prefix)!, predictions, own);
  }
  const parts = Object.values(groups);
  const present = (values: (number | null | undefined)[]) =>
    mean(values.filter((value): value is number => typeof value === "number"));
  return {
    groups,
    overall: groupScore(
      records,
      predictions,
      choices.map((each) => each.choice),
    ),
    meanOfGroups: {
      timeMape: present(parts.map((each) => each.time.mape)),
      memoryMape: present(parts.map((each) => each.memory.mape)),
      regret: present(parts.map((each) => each.choice?.meanRegret)),
    },
  };
}
