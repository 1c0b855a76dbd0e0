import type { InputColumn, RunRecord } from "./columns.js";
import { type ScoredPrediction, scoreable } from "./scoreable.js";
import { mean, quantile } from "./statistics.js";

/** How the plan with the least predicted time does in one group of measured plans. */
export interface PlanChoice {
  /** Plans with a measured time. */
  plans: number;
  /** No plan had a prediction. */
  none: boolean;
  /** Measured time of the chosen plan over the best measured, less 1; the mean over tied predictions. */
  regret: number;
  /** The best plan was chosen. */
  exact: boolean;
  /** A plan that ran out of memory was chosen: it counts the worst plan's regret. */
  choseOutOfMemory: boolean;
  /** Kendall's tau-b between predicted and measured times. */
  tau: number;
  /** Mean regret over all plans. */
  randomRegret: number;
}

export interface ChoiceScore {
  groups: number;
  plans: number;
  meanRegret: number;
  maxRegret: number;
  exactBest: number;
  meanTau: number;
  noChoice: number;
  choseOutOfMemory: number;
  randomRegret: number;
}

const planColumns: readonly InputColumn[] = [
  "tp",
  "pp",
  "vp",
  "dp",
  "cp",
  "ep",
  "sp",
  "zero",
  "recompute",
  "micro_batch",
];

interface Plan {
  measured: number[];
  predicted: number[];
  /** Some row of the plan was called infeasible. */
  refused: boolean;
}

/** Relative distance within which predictions count as tied. */
const tie = 1e-9;

/**
 * Chooses among the plans of a group. Rows of one plan count as one, with the median of their times. A plan is on offer
 * when it has a predicted time and was not called infeasible; where none is, the worst plan counts.
 * @returns undefined for a group with fewer than 4 timed plans.
 */
export function chooseIn(
  records: readonly RunRecord[],
  predictions: ReadonlyMap<string, ScoredPrediction>,
): PlanChoice | undefined {
  const plans = new Map<string, Plan>();
  for (const record of records) {
    const { stepSeconds, ran } = scoreable(record);
    if (stepSeconds === undefined && ran !== false) continue;
    const { fields } = record;
    const key = [...planColumns.map((column) => fields.text(column)), fields.note("schedule")].join("|");
    const plan = plans.get(key) ?? { measured: [], predicted: [], refused: false };
    plans.set(key, plan);
    if (stepSeconds !== undefined) plan.measured.push(stepSeconds);
    const said = predictions.get(record.id);
    if (said?.feasible === false) plan.refused = true;
    else if (said?.stepSeconds !== undefined) plan.predicted.push(said.stepSeconds);
  }
  const all = [...plans.values()].map((plan) => ({
    measured: quantile(plan.measured, 0.5),
    predicted: plan.refused ? null : quantile(plan.predicted, 0.5),
  }));
  const timed = all.flatMap(({ measured }) => (measured === null ? [] : [measured]));
  if (timed.length < 4) return undefined;
  const best = Math.min(...timed);
  const worstRegret = Math.max(...timed) / best - 1;
  const randomRegret = mean(timed.map((seconds) => seconds / best - 1))!;
  const offers = all.flatMap(({ measured, predicted }) =>
    predicted === null ? [] : [{ measured, predicted }],
  );
  const common = { plans: timed.length, randomRegret };
  if (offers.length === 0) {
    return { ...common, none: true, regret: worstRegret, exact: false, choseOutOfMemory: false, tau: 0 };
  }
  const least = Math.min(...offers.map(({ predicted }) => predicted));
  const chosen = offers.filter(({ predicted }) => predicted <= least * (1 + tie));
  const regrets = chosen.map(({ measured }) => (measured === null ? worstRegret : measured / best - 1));
  const both = offers.flatMap(({ measured, predicted }) =>
    measured === null ? [] : [[predicted, measured] as const],
  );
  return {
    ...common,
    none: false,
    regret: mean(regrets)!,
    exact: chosen.every(({ measured }) => measured !== null && measured <= best * (1 + tie)),
    choseOutOfMemory: chosen.some(({ measured }) => measured === null),
    tau: both.length > 1 ? kendallTau(both) : 0,
  };
}

/** The groups' choices together; null for no group. */
export function sumChoices(choices: readonly PlanChoice[]): ChoiceScore | null {
  if (choices.length === 0) return null;
  const count = (has: (choice: PlanChoice) => boolean) => choices.filter(has).length;
  return {
    groups: choices.length,
    plans: choices.reduce((sum, { plans }) => sum + plans, 0),
    meanRegret: mean(choices.map(({ regret }) => regret))!,
    maxRegret: Math.max(...choices.map(({ regret }) => regret)),
    exactBest: count(({ exact }) => exact),
    meanTau: mean(choices.map(({ tau }) => tau))!,
    noChoice: count(({ none }) => none),
    choseOutOfMemory: count(({ choseOutOfMemory }) => choseOutOfMemory),
    randomRegret: mean(choices.map(({ randomRegret }) => randomRegret))!,
  };
}

/** Kendall's tau-b of pairs: agreement of two orders, corrected for ties; 0 where one side has no order. */
export function kendallTau(pairs: readonly (readonly [number, number])[]): number {
  let agreement = 0;
  let tiedFirst = 0;
  let tiedSecond = 0;
  let all = 0;
  for (let i = 0; i < pairs.length; i++) {
    for (let j = 0; j < i; j++) {
      const first = Math.sign(pairs[i]![0] - pairs[j]![0]);
      const second = Math.sign(pairs[i]![1] - pairs[j]![1]);
      all++;
      if (first === 0) tiedFirst++;
      if (second === 0) tiedSecond++;
      agreement += first * second;
    }
  }
  const scale = Math.sqrt((all - tiedFirst) * (all - tiedSecond));
  return scale > 0 ? agreement / scale : 0;
}
