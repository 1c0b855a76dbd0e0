import type { LayeredGraph } from "../../models/layered.js";
import { allCuts, narrowCuts, nodesOf, posetOf } from "./linearise.js";
import type { InterSolution, InterStage } from "./solution.js";
import { type InterModelOptions, StageModel, type StageShape } from "./stageModel.js";

export interface InterOptions extends InterModelOptions {
  /** Cuts that are searched at most; a graph with more is searched over its best ones, which is then named. */
  cutLimit?: number;
  /** Partial plans that are kept at most; beyond it the answer is feasible, with a gap. */
  labelLimit?: number;
  signal?: AbortSignal;
}

/** A partial plan: the stages from a cut to the end, on the devices from a place in the line. */
interface Label {
  replicas: number;
  /** Sum of L. */
  sum: number;
  /** `step`: max (ceil(m / d) - 1) L; `steady`: max L / d + G / m. */
  worst: number;
  /** max G; 0 for `steady`, where it is part of `worst`. */
  sync: number;
  stage?: { cut: number; device: number; shape: StageShape; seconds: number; memoryBytes: number };
  next?: Label;
}

/**
 * The best plan in mpopt's own cost model (see `stageModel.ts`) over contiguous stages: every chain of nested
 * cuts, every run of devices, replicas, tensor degrees, recomputation on or off in each stage, devices left
 * unused at both ends of the line.
 *
 * Method: partial plans grow from the last stage to the first. At each cut and place only those that no other
 * beats in all of replicas, sum, worst and synchronisation are kept, and only those whose bound is below the
 * best plan known; a first pass that keeps few of them provides that plan. Ties go to the smaller sum of stage
 * times, then to fewer devices.
 */
export function solveInter(graph: LayeredGraph, options: InterOptions): InterSolution {
  const cpu = process.cpuUsage();
  const poset = posetOf(graph);
  const { cutLimit = 2000, labelLimit = 2_000_000 } = options;
  const every = allCuts(poset, cutLimit);
  const bytes = graph.nodes.map((_, node) =>
    graph.edges.reduce((most, edge) => (edge.from === node ? Math.max(most, edge.bytes) : most), 0),
  );
  const model = new StageModel(graph, poset, every ?? narrowCuts(poset, bytes, cutLimit), options);
  const restriction = every
    ? "contiguous stages on runs of neighbouring devices"
    : `contiguous stages between ${model.cuts - 1} of the graph's cuts, on runs of neighbouring devices`;
  const search = new LabelSearch(model, options);
  const first = search.run(3, Number.POSITIVE_INFINITY, labelLimit);
  const exact = search.run(Number.POSITIVE_INFINITY, first.value, labelLimit);
  const best = exact.label ?? first.label;
  const used = process.cpuUsage(cpu);
  const common = { unit: "seconds" as const, cpuSeconds: (used.user + used.system) / 1e6, restriction };
  if (!best) {
    const infinite = Number.POSITIVE_INFINITY;
    return {
      ...common,
      status: exact.complete ? "infeasible" : "feasible",
      objective: infinite,
      bound: exact.complete ? infinite : search.bound(),
      gap: exact.complete ? 0 : infinite,
      stages: [],
      reason: search.tightest(),
    };
  }
  const objective = Math.min(exact.value, first.value);
  const bound = exact.complete ? objective : Math.min(objective, search.bound());
  return {
    ...common,
    status: exact.complete ? "optimal" : "feasible",
    objective,
    bound,
    gap: objective > 0 ? (objective - bound) / objective : 0,
    stages: stagesOf(model, best),
  };
}

function stagesOf(model: StageModel, label: Label): InterStage[] {
  const stages: InterStage[] = [];
  let from = 0;
  for (let each: Label | undefined = label; each?.stage; each = each.next) {
    const { device, shape, seconds, memoryBytes } = each.stage;
    const to = each.next?.stage ? each.next.stage.cut : model.cuts - 1;
    const inside = new Set(nodesOf(model.bits, from * model.words, model.words));
    const nodes = nodesOf(model.bits, to * model.words, model.words).filter((node) => !inside.has(node));
    const width = shape.replicas * shape.tensor;
    stages.push({
      nodes,
      replicas: shape.replicas,
      tensor: shape.tensor,
      recomputed: shape.recompute ? nodes : [],
      devices: Array.from({ length: width }, (_, i) => device + i),
      seconds,
      memoryBytes,
    });
    from = to;
  }
  return stages;
}

class LabelSearch {
  readonly #model: StageModel;
  readonly #options: InterOptions;
  readonly #devices: number;
  readonly #steady: boolean;
  /** By width: the ways to run a stage on so many devices. */
  readonly #shapes: StageShape[][] = [];
  /** Least memory over limit seen of a stage that did not fit, with where it was. */
  #closest = { excess: Number.POSITIVE_INFINITY, sentence: "" };

  constructor(model: StageModel, options: InterOptions) {
    this.#model = model;
    this.#options = options;
    this.#devices = options.machine.devices;
    this.#steady = options.objective === "steady";
    for (let width = 0; width <= this.#devices; width++) {
      const shapes: StageShape[] = [];
      for (const tensor of model.tensors) {
        const replicas = width / tensor;
        if (!Number.isInteger(replicas) || replicas < 1 || replicas > options.microBatches) continue;
        if (options.replicate === false && replicas > 1) continue;
        for (const recompute of model.recomputes) shapes.push({ tensor, replicas, recompute });
      }
      this.#shapes.push(shapes);
    }
  }

  /** The constraint that a plan missed by the least. */
  tightest(): string {
    return this.#closest.sentence || "No tensor-parallel degree of the graph fits the devices.";
  }

  /** No plan is better than this, whatever its stages. */
  bound(): number {
    const { seconds, deviceSeconds } = this.#model.least(this.#model.cuts - 1);
    const { microBatches } = this.#options;
    const spread = deviceSeconds / this.#devices;
    return this.#steady ? spread : Math.max(seconds, microBatches * spread);
  }

  /** @param keep labels kept at one cut and place; @param below plans at or above this value are dropped. */
  run(keep: number, below: number, limit: number): { label?: Label; value: number; complete: boolean } {
    const model = this.#model;
    const places = this.#devices + 1;
    const labels: Label[][] = new Array(model.cuts * places);
    const last = model.cuts - 1;
    for (let place = 1; place < places; place++) {
      labels[last * places + place] = [{ replicas: 0, sum: 0, worst: 0, sync: 0 }];
    }
    let best: Label | undefined;
    // A plan of the same value as the known one is found again, so that its labels are at hand.
    let value = below * (1 + 1e-12);
    let count = 0;
    let complete = true;
    for (let cut = last; cut > 0; cut--) {
      this.#options.signal?.throwIfAborted();
      for (let place = 1; place < places; place++) {
        const here = labels[cut * places + place];
        if (!here) continue;
        if (here.length > keep) {
          here.sort((a, b) => this.#value(a) - this.#value(b) || a.sum - b.sum);
          here.length = keep;
          complete = false;
        }
        for (let from = cut - 1; from >= 0; from--) {
          if (!model.nested(from, cut)) continue;
          for (let first = from === 0 ? 0 : 1; first < place; first++) {
            for (const shape of this.#shapes[place - first]!) {
              for (const label of here) {
                const grown = this.#grow(label, from, cut, first, shape);
                if (!grown || this.#bound(grown, from, first) >= value) continue;
                if (from === 0) {
                  const found = this.#value(grown);
                  if (found < value || (found === value && best && grown.sum < best.sum)) {
                    best = grown;
                    value = found;
                  }
                  continue;
                }
                const list = this.#listAt(labels, from * places + first);
                if (!this.#insert(list, grown)) continue;
                if (++count > limit) return { label: best, value: best ? value : below, complete: false };
              }
            }
          }
        }
        labels[cut * places + place] = [];
      }
    }
    return { label: best, value: best ? value : below, complete };
  }

  #value(label: Label): number {
    return this.#steady ? label.worst : label.sum + label.worst + label.sync;
  }

  /** A plan that ends in these stages costs at least this, with the nodes up to `cut` on `devices` devices. */
  #bound(label: Label, cut: number, devices: number): number {
    const { seconds, deviceSeconds } = this.#model.least(cut);
    if (cut === 0) return this.#value(label);
    if (devices === 0) return Number.POSITIVE_INFINITY;
    const spread = deviceSeconds / devices;
    if (this.#steady) return Math.max(label.worst, spread);
    // The slowest of the remaining stages has L + (ceil(m / d) - 1) L >= m L / d >= m x spread.
    const remaining = Math.max(seconds + label.worst, this.#options.microBatches * spread);
    return label.sum + remaining + label.sync;
  }

  #grow(label: Label, from: number, to: number, first: number, shape: StageShape): Label | undefined {
    const cost = this.#model.cost(from, to, first, shape, label.replicas);
    if (!cost) return undefined;
    const { microBatches } = this.#options;
    const { replicas, tensor } = shape;
    if (cost.memoryBytes > cost.limitBytes) {
      this.#remember(cost.memoryBytes, cost.limitBytes, first, replicas * tensor);
      return undefined;
    }
    const { latencySeconds, syncSeconds } = cost;
    const own = this.#steady
      ? latencySeconds / replicas + syncSeconds / microBatches
      : (Math.ceil(microBatches / replicas) - 1) * latencySeconds;
    const sync = this.#steady ? 0 : Math.max(label.sync, syncSeconds);
    return {
      replicas: label.replicas + replicas,
      sum: label.sum + latencySeconds,
      worst: Math.max(label.worst, own),
      sync,
      stage: { cut: from, device: first, shape, seconds: latencySeconds, memoryBytes: cost.memoryBytes },
      next: label,
    };
  }

  #remember(needed: number, limit: number, first: number, width: number): void {
    const excess = needed - limit;
    if (excess >= this.#closest.excess) return;
    const gib = (bytes: number) => `${(bytes / 2 ** 30).toPrecision(4)} GiB`;
    const devices = width === 1 ? `device ${first}` : `devices ${first} to ${first + width - 1}`;
    this.#closest = {
      excess,
      sentence: `Memory: a stage on ${devices} needs ${gib(needed)} of ${gib(limit)}.`,
    };
  }

  #listAt(labels: Label[][], at: number): Label[] {
    labels[at] ??= [];
    return labels[at];
  }

  /** Adds a label unless another one is as good in everything; drops those that it beats. */
  #insert(list: Label[], label: Label): boolean {
    const beats = (a: Label, b: Label) =>
      a.replicas <= b.replicas && a.sum <= b.sum && a.worst <= b.worst && a.sync <= b.sync;
    for (const other of list) if (beats(other, label)) return false;
    let kept = 0;
    for (const other of list) if (!beats(label, other)) list[kept++] = other;
    list.length = kept;
    list.push(label);
    return true;
  }
}
