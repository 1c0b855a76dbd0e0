import type { LayeredGraph } from "../../models/layered.js";
import { Approximate } from "./generalApproximate.js";
import { Relaxation } from "./generalBound.js";
import { WorkBudget } from "./generalBudget.js";
import { type Completion, LabelSearch } from "./generalExact.js";
import { stagesOf } from "./generalLabel.js";
import { allCuts, type Cuts, linearOrders, narrowCuts, type Poset, posetOf } from "./linearise.js";
import type { InterSolution } from "./solution.js";
import { type InterModelOptions, StageModel } from "./stageModel.js";

export interface InterOptions extends InterModelOptions {
  /** Cuts that are searched at most; a graph with more is searched over its best ones, which is then named. */
  cutLimit?: number;
  /** Partial plans that are kept at most; beyond it the answer is feasible, with a gap. */
  labelLimit?: number;
  /** Stages that are looked at, about; beyond it the answer is feasible, with a gap. 1e8 are a few seconds. */
  workLimit?: number;
  signal?: AbortSignal;
}

/**
 * The best plan in mpopt's own cost model (see `stageModel.ts`) over contiguous stages: every chain of nested
 * cuts, every run of devices, replicas, tensor degrees, recomputation on or off in each stage, devices left
 * unused at both ends of the line.
 *
 * Method: a relaxation without places gives a bound, and guides a beam search to a plan (`generalBound.ts`,
 * `generalBeam.ts`); both take time that does not depend on the number of devices. A search over all partial
 * plans (`generalExact.ts`) then closes the gap where the work limit allows it. Ties go to the smaller sum of
 * stage times, then to fewer devices.
 */
export function solveInter(graph: LayeredGraph, options: InterOptions): InterSolution {
  const cpu = process.cpuUsage();
  options.signal?.throwIfAborted();
  const poset = posetOf(graph);
  const { cutLimit = 2000, labelLimit = 1_000_000, workLimit = 1e8, signal } = options;
  const every = allCuts(poset, cutLimit);
  const bytes = new Float64Array(graph.nodes.length);
  for (const edge of graph.edges) bytes[edge.from] = Math.max(bytes[edge.from]!, edge.bytes);
  const model = new StageModel(graph, poset, every ?? someCuts(poset, bytes, cutLimit), options);
  const restriction = every
    ? "contiguous stages on runs of neighbouring devices"
    : `contiguous stages between ${model.cuts - 1} of the graph's cuts, on runs of neighbouring devices`;
  const approximateBudget = new WorkBudget(workLimit * 0.6, signal);
  const relaxation = new Relaxation(model, approximateBudget);
  const approximate = new Approximate(model, relaxation, approximateBudget);
  let near = approximate.run();
  const exactBudget = new WorkBudget(workLimit * 0.4, signal);
  const search = new LabelSearch(model, relaxation, exactBudget);
  const completion = near.label ? completionOf(model, relaxation, near.value) : undefined;
  const worthwhile = !near.label || model.cuts * options.machine.devices <= maximalStates;
  const exact = worthwhile
    ? search.run({ keep: Number.POSITIVE_INFINITY, below: near.value, labelLimit, completion })
    : { value: near.value, complete: false };
  if (!exact.complete) near = approximate.refine(near);
  const best = exact.label && exact.value <= near.value ? exact.label : near.label;
  const used = process.cpuUsage(cpu);
  const common = { unit: "seconds" as const, cpuSeconds: (used.user + used.system) / 1e6, restriction };
  if (!best) {
    const infinite = Number.POSITIVE_INFINITY;
    const proven = exact.complete || near.bound === infinite;
    return {
      ...common,
      status: proven ? "infeasible" : "feasible",
      objective: infinite,
      bound: proven ? infinite : near.bound,
      gap: proven ? 0 : infinite,
      stages: [],
      reason: search.tightest(),
    };
  }
  const objective = Math.min(exact.value, near.value);
  const bound = exact.complete ? objective : Math.min(objective, near.bound);
  return {
    ...common,
    status: bound >= objective ? "optimal" : "feasible",
    objective,
    bound,
    gap: objective > 0 ? (objective - bound) / objective : 0,
    stages: stagesOf(model, best),
  };
}

/** Cuts of a graph that has more than `limit`: of several orders, or of the best one where those are too many. */
function someCuts(poset: Poset, bytes: Float64Array, limit: number): Cuts {
  const orders = linearOrders(poset, bytes);
  if (orders.length * poset.count <= limit) return narrowCuts(poset, bytes, limit);
  const all = orders.map((order) => {
    const done = new Uint8Array(poset.count);
    const bits = new Uint32Array(poset.count * poset.words);
    let live = 0;
    let sum = 0;
    order.forEach((node, place) => {
      const at = place * poset.words;
      if (place > 0) bits.copyWithin(at, at - poset.words, at);
      bits[at + (node >>> 5)]! |= 1 << (node & 31);
      done[node] = 1;
      if (poset.after[node]!.length > 0) live += bytes[node]!;
      for (const from of poset.before[node]!) {
        if (poset.after[from]!.every((next) => done[next] === 1)) live -= bytes[from]!;
      }
      sum += live;
    });
    return { bits, sum };
  });
  const best = all.reduce((least, each) => (each.sum < least.sum ? each : least));
  return { count: poset.count, bits: best.bits };
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
