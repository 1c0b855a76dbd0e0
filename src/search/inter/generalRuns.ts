import { Approximate } from "./generalApproximate.js";
import { Relaxation } from "./generalBound.js";
import { WorkBudget } from "./generalBudget.js";
import { type Completion, LabelSearch } from "./generalExact.js";
import { comesBefore, type Label, stagesOf } from "./generalLabel.js";
import type { InterStage } from "./solution.js";
import type { InterModelOptions, StageModel } from "./stageModel.js";

export interface InterOptions extends InterModelOptions {
  /** Cuts that are searched at most; a graph with more is searched over its best ones, which is then named. */
  cutLimit?: number;
  /** Partial plans that are kept at most; beyond it the answer is feasible, with a gap. */
  labelLimit?: number;
  /** Stages that are looked at, about; beyond it the answer is feasible, with a gap. 1e8 are a few seconds. */
  workLimit?: number;
  signal?: AbortSignal;
}

/** The best plan that was found over one model; no stages where there is none. */
export interface Found {
  value: number;
  bound: number;
  stages: InterStage[];
  /** The constraint that a plan missed by the least, where there is none. */
  reason?: string;
}

/** One stage a run. */
export function searchRuns(model: StageModel, options: InterOptions): Found & { label?: Label } {
  const { labelLimit = 1_000_000, workLimit = 1e8, signal, machine } = options;
  const approximateBudget = new WorkBudget(workLimit * 0.6, signal);
  const relaxation = new Relaxation(model, approximateBudget);
  const approximate = new Approximate(model, relaxation, approximateBudget);
  let near = approximate.run();
  const exactBudget = new WorkBudget(workLimit * 0.4, signal);
  const search = new LabelSearch(model, relaxation, exactBudget);
  const firstValue = near.value;
  const completion = near.label ? completionOf(model, relaxation, firstValue) : undefined;
  const worthwhile = !near.label || model.cuts * machine.devices <= maximalStates;
  const keep = Number.POSITIVE_INFINITY;
  const exact = worthwhile
    ? search.run({ keep, below: near.value, labelLimit, completion })
    : { value: near.value, complete: false };
  if (!exact.complete) near = approximate.refine(near);
  let label = exact.label && exact.value <= near.value ? exact.label : near.label;
  if (!label) {
    const bound = exact.complete ? Number.POSITIVE_INFINITY : near.bound;
    return { value: Number.POSITIVE_INFINITY, bound, stages: [], reason: search.tightest() };
  }
  const value = Math.min(exact.value, near.value);
  const bound = exact.complete ? value : Math.min(value, near.bound);
  if (worthwhile && bound === value) {
    const tieBudget = new WorkBudget(workLimit * 0.1, signal);
    const ties = new LabelSearch(model, relaxation, tieBudget);
    const tied = ties.run({
      keep,
      below: value,
      labelLimit,
      completion: value === firstValue && completion ? completion : completionOf(model, relaxation, value),
      ties: true,
    }).label;
    if (tied && comesBefore(tied, label)) label = tied;
  }
  return { value, bound, stages: stagesOf(model, label), label };
}

/** Cuts x devices beyond which the search over all partial plans does not end in seconds. */
const maximalStates = 200_000;

/** What stages before each cut need in every plan that costs no more than `value`. */
function completionOf(model: StageModel, relaxation: Relaxation, value: number): Completion {
  const most = value * (1 + 1e-9);
  if (model.options.objective === "steady") {
    const limits = { steady: most };
    return { limits, need: relaxation.potentials(limits, relaxation.later(limits), 0, 1).cost, sums: [] };
  }
  const { seconds } = model.least(model.cuts - 1);
  const limits = { repeat: most - seconds, sync: most - seconds };
  const later = relaxation.later(limits);
  const free = relaxation.potentials(limits, later, 1, 0);
  const sums = [{ price: 0, potentials: free }];
  const scale = (most - free.cost.at(-1)!) / relaxation.total;
  for (const price of [scale / 4, scale, scale * 4]) {
    if (price > 0) sums.push({ price, potentials: relaxation.potentials(limits, later, 1, price) });
  }
  return { limits, need: relaxation.potentials(limits, later, 0, 1).cost, sums };
}
