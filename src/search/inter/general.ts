import type { LayeredGraph } from "../../models/layered.js";
import { searchChunks } from "./chunks.js";
import { type InterOptions, searchRuns } from "./generalRuns.js";
import { allCuts, type Cuts, linearOrders, narrowCuts, type Poset, posetOf } from "./linearise.js";
import type { InterSolution } from "./solution.js";
import { StageModel } from "./stageModel.js";

export type { InterOptions };

/**
 * The best plan in mpopt's own cost model (see `stageModel.ts`): every chain of nested cuts, every run of
 * devices, replicas, tensor degrees, recomputation on or off in each stage, devices left unused at both ends of
 * the line, and up to `chunks` stages on each run.
 *
 * Method: a relaxation without places gives a bound, and guides a beam search to a plan (`generalBound.ts`,
 * `generalBeam.ts`); both take time that does not depend on the number of devices. A search over all partial
 * plans (`generalExact.ts`) then closes the gap where the work limit allows it, and a second one chooses among
 * plans of the same value: the smaller sum of stage times, then less traffic, then less memory on the fullest
 * device. Several chunks a run are searched from there (`chunks.ts`).
 */
export function solveInter(graph: LayeredGraph, options: InterOptions): InterSolution {
  const cpu = process.cpuUsage();
  options.signal?.throwIfAborted();
  const poset = posetOf(graph);
  const { cutLimit = 2000, chunks = 1 } = options;
  const every = allCuts(poset, cutLimit);
  const bytes = new Float64Array(graph.nodes.length);
  for (const edge of graph.edges) bytes[edge.from] = Math.max(bytes[edge.from]!, edge.bytes);
  const model = new StageModel(graph, poset, every ?? someCuts(poset, bytes, cutLimit), options);
  const found = chunks > 1 ? searchChunks(model, options) : searchRuns(model, options);
  const used = process.cpuUsage(cpu);
  const cuts = every ? "" : ` between ${model.cuts - 1} of the graph's cuts,`;
  const split = options.machine.domainOf !== undefined && model.tensors.some((tensor) => tensor > 1);
  const domains = split ? ", tensor-parallel groups inside fast links" : "";
  const common = {
    unit: "seconds" as const,
    cpuSeconds: (used.user + used.system) / 1e6,
    restriction:
      chunks > 1
        ? `stages of one chain of cuts,${cuts} up to ${chunks} on each run of neighbouring devices, runs in the order of their last stages${domains}`
        : `contiguous stages${cuts} on runs of neighbouring devices${domains}`,
  };
  const { value, bound, stages } = found;
  if (stages.length === 0) {
    const proven = bound === Number.POSITIVE_INFINITY;
    return {
      ...common,
      status: proven ? "infeasible" : "feasible",
      objective: Number.POSITIVE_INFINITY,
      bound,
      gap: proven ? 0 : Number.POSITIVE_INFINITY,
      stages,
      reason: found.reason,
    };
  }
  return {
    ...common,
    status: bound >= value ? "optimal" : "feasible",
    objective: value,
    bound,
    gap: value > 0 ? (value - bound) / value : 0,
    stages,
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
