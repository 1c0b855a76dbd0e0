import type { LayeredGraph, LayeredVariant } from "../../models/layered.js";
import { type Cuts, holds, nodesOf, type Poset } from "./linearise.js";
import { DeviceRuns, type Machine, ringSeconds, sendSeconds } from "./machine.js";

/**
 * mpopt's own cost model of inter-operator plans. Stage s holds the nodes between two nested cuts and a run of
 * d x t devices: d replicas that take micro-batches in turn, each of t devices that split every layer.
 *
 *   L_s  forward and backward of one micro-batch on the slowest device of the run, plus the activations sent
 *        onwards and the gradients sent back; everything alive at a cut passes it, once in each direction
 *   G_s  ring all-reduce of the stage's gradients over its replicas, less what hides behind the backward pass
 *   y_s  micro-batches in flight under 1F1B: min(ceil(m / d), ceil(replicas of this and later stages / d))
 *
 * Objectives: `steady`, the largest L_s / d + G_s / m (seconds a micro-batch; PipeDream, SOSP'19, section 3.1);
 * `step`, sum L_s + max (ceil(m / d) - 1) L_s + max G_s (fill, steady state and drain, then synchronisation).
 *
 * With `chunks`, a run of devices may hold several stages that do not follow each other, all of one shape but
 * for recomputation. Of a run g, T_g, G_g and the memory are sums over its stages, and M_g is the largest L of
 * one. `steady` is the largest T_g / d + G_g / m; `step` is the larger of sum L_s, the way of one micro-batch,
 * and sum M_g + max (ceil(m / d) T_g - M_g), plus max G_g: a run starts once the runs before it have passed on
 * one chunk, which for equal chunks is the bubble of interleaved 1F1B, (p - 1) / v rounds (Narayanan et al.,
 * SC'21, section 2.2). With one chunk a run it is the same as above. A stage counts all stages behind it as in
 * flight, whatever run they are on: for two chunks what interleaved 1F1B holds, for more an upper bound.
 */
export interface InterModelOptions {
  machine: Machine;
  microBatches: number;
  objective: "steady" | "step";
  /** Share of a stage's backward time that its gradient reduction can hide behind. */
  overlap?: number;
  /** False keeps one replica a stage. */
  replicate?: boolean;
  /** Tensor-parallel degrees that may be used; all that the graph has by default. */
  tensor?: readonly number[];
  /** False leaves recomputed variants out. */
  recompute?: boolean;
  /** Stages that one run of devices may hold; 1 by default. */
  chunks?: number;
}

/** Cost of one candidate stage without its transfers. */
export interface StageWork {
  workSeconds: number;
  syncSeconds: number;
  memoryBytes: number;
  /** What the smallest device of the run may hold. */
  limitBytes: number;
}

/** Cost of one candidate stage. */
export interface StageCost {
  latencySeconds: number;
  syncSeconds: number;
  memoryBytes: number;
  /** What the smallest device of the run may hold. */
  limitBytes: number;
}

/** How one stage is run. */
export interface StageShape {
  tensor: number;
  replicas: number;
  recompute: boolean;
}

/** Sums over every cut of what one tensor-parallel degree costs, recomputed or not. */
export interface StageVariant {
  tensor: number;
  recompute: boolean;
  forward: Float64Array;
  backward: Float64Array;
  parameters: Float64Array;
  activations: Float64Array;
  fixed: Float64Array;
  /** Nodes without this variant. */
  missing: Float64Array;
}

/**
 * Sums of every figure over every cut, so that any stage costs a few subtractions. Cut 0 is the empty one, the
 * last is the whole graph.
 */
export class StageModel {
  readonly cuts: number;
  readonly words: number;
  readonly bits: Uint32Array;
  readonly sizes: Int32Array;
  /** Bytes alive at each cut: made inside, read outside, each tensor once. */
  readonly liveBytes: Float64Array;
  readonly tensors: number[];
  readonly recomputes: boolean[];
  readonly options: InterModelOptions;
  /** Whether every smaller cut is part of every larger one. */
  readonly chain: boolean;
  readonly runs: DeviceRuns;
  readonly variants: readonly StageVariant[];
  /** What the heaviest node alone adds to the objective at least, on as many replicas as there may be. */
  readonly heaviestSeconds: number;
  /** Least parameter bytes of a device for each second of work, over nodes and variants. */
  readonly bytesPerWorkSecond: number;
  readonly #leastSeconds: Float64Array;
  readonly #leastDeviceSeconds: Float64Array;

  constructor(graph: LayeredGraph, poset: Poset, found: Cuts, options: InterModelOptions) {
    this.options = options;
    this.words = poset.words;
    this.runs = new DeviceRuns(options.machine);
    const sized = Array.from({ length: found.count }, (_, i) => {
      const at = i * poset.words;
      return { i, size: nodesOf(found.bits, at, poset.words).length };
    }).sort((a, b) => a.size - b.size || a.i - b.i);
    this.cuts = found.count + 1;
    this.bits = new Uint32Array(this.cuts * this.words);
    this.sizes = new Int32Array(this.cuts);
    sized.forEach(({ i, size }, k) => {
      this.bits.set(found.bits.subarray(i * this.words, (i + 1) * this.words), (k + 1) * this.words);
      this.sizes[k + 1] = size;
    });
    this.liveBytes = this.#live(graph, poset);
    const degrees = new Set(graph.nodes.flatMap((node) => node.variants.map((variant) => variant.tensor)));
    this.tensors = [...degrees]
      .filter((degree) => !options.tensor || options.tensor.includes(degree))
      .sort((a, b) => a - b);
    const recomputed = graph.nodes.some((node) => node.variants.some((variant) => variant.recompute));
    this.recomputes = recomputed && options.recompute !== false ? [false, true] : [false];
    this.chain = this.sizes.every((_, cut) => cut === 0 || this.nested(cut - 1, cut));
    this.variants = this.tensors.flatMap((tensor) =>
      this.recomputes.map((recompute) => this.#prepare(graph, tensor, recompute)),
    );
    const fastest = Math.min(...options.machine.slowdown);
    const least = (weight: (tensor: number) => number) => (node: number) =>
      Math.min(
        ...graph.nodes[node]!.variants.map(
          (variant) => fastest * weight(variant.tensor) * (variant.forwardSeconds + variant.backwardSeconds),
        ),
      );
    const nodes = graph.nodes.map((_, node) => node);
    const slowest = Math.max(...options.machine.slowdown);
    let heaviest = 0;
    let bytesPerWorkSecond = Number.POSITIVE_INFINITY;
    for (const { variants } of graph.nodes) {
      let least = Number.POSITIVE_INFINITY;
      for (const { tensor, forwardSeconds, backwardSeconds, parameterBytes } of variants) {
        const work = forwardSeconds + backwardSeconds;
        const replicas = this.mostReplicas(tensor, options.machine.devices);
        const rounds =
          options.objective === "steady" ? 1 / replicas : Math.ceil(options.microBatches / replicas);
        least = Math.min(least, replicas < 1 ? Number.POSITIVE_INFINITY : fastest * work * rounds);
        if (work > 0) bytesPerWorkSecond = Math.min(bytesPerWorkSecond, parameterBytes / (slowest * work));
      }
      heaviest = Math.max(heaviest, least);
    }
    this.heaviestSeconds = heaviest;
    this.bytesPerWorkSecond = Number.isFinite(bytesPerWorkSecond) ? bytesPerWorkSecond : 0;
    this.#leastSeconds = this.#sumOver(nodes.map(least(() => 1)));
    this.#leastDeviceSeconds = this.#sumOver(nodes.map(least((tensor) => tensor)));
  }

  /** Whether cut `inner` is a proper part of cut `outer`. */
  nested(inner: number, outer: number): boolean {
    if (this.sizes[inner]! >= this.sizes[outer]!) return false;
    if (this.chain) return true;
    for (let w = 0; w < this.words; w++) {
      if (this.bits[inner * this.words + w]! & ~this.bits[outer * this.words + w]!) return false;
    }
    return true;
  }

  /**
   * Cost of the nodes between two cuts on the devices from `first`, with `later` replicas in later stages;
   * undefined where some node lacks the variant, or where a tensor-parallel group leaves its fast links.
   */
  cost(from: number, to: number, first: number, shape: StageShape, later: number): StageCost | undefined {
    const work = this.work(from, to, first, shape, later);
    if (!work) return undefined;
    const { machine } = this.options;
    const behind = first + shape.replicas * shape.tensor;
    let latencySeconds = work.workSeconds;
    if (to < this.cuts - 1) latencySeconds += sendSeconds(machine, this.liveBytes[to]!, behind - 1, behind);
    if (from > 0) latencySeconds += sendSeconds(machine, this.liveBytes[from]!, first, first - 1);
    const { syncSeconds, memoryBytes, limitBytes } = work;
    return { latencySeconds, syncSeconds, memoryBytes, limitBytes };
  }

  /** As `cost`, without the transfers to its neighbours. */
  work(from: number, to: number, first: number, shape: StageShape, later: number): StageWork | undefined {
    const sums = this.#sums(shape);
    if (!sums || sums.missing[to]! > sums.missing[from]!) return undefined;
    const { microBatches, overlap = 0 } = this.options;
    const { replicas, tensor } = shape;
    if (!this.runs.inDomains(first, replicas, tensor)) return undefined;
    const { slowdown, link, memoryBytes } = this.runs.run(first, replicas, tensor);
    const backward = slowdown * (sums.backward[to]! - sums.backward[from]!);
    const ring = ringSeconds(sums.parameters[to]! - sums.parameters[from]!, replicas, link);
    const inFlight = Math.min(Math.ceil(microBatches / replicas), Math.ceil((later + replicas) / replicas));
    return {
      workSeconds: slowdown * (sums.forward[to]! - sums.forward[from]!) + backward,
      syncSeconds: Math.max(0, ring - overlap * backward),
      memoryBytes:
        sums.fixed[to]! - sums.fixed[from]! + inFlight * (sums.activations[to]! - sums.activations[from]!),
      limitBytes: memoryBytes,
    };
  }

  /**
   * Bytes that a step sends for a stage: activations onwards and gradients back at its end, where there is one
   * more stage, and the reduction of its gradients, 2 (d - 1) times those of a device in each of the t rings.
   * @param to the cut where the stage ends; undefined for the last stage.
   */
  traffic(from: number, to: number | undefined, shape: StageShape): number {
    const { tensor, replicas } = shape;
    const { parameters } = this.#sums(shape)!;
    const end = to ?? this.cuts - 1;
    const passed = to === undefined ? 0 : 2 * this.options.microBatches * this.liveBytes[to]!;
    return passed + 2 * (replicas - 1) * tensor * (parameters[end]! - parameters[from]!);
  }

  /** Nodes of the stage between two cuts. */
  nodesBetween(from: number, to: number): number[] {
    const inside = new Set(nodesOf(this.bits, from * this.words, this.words));
    return nodesOf(this.bits, to * this.words, this.words).filter((node) => !inside.has(node));
  }

  /** Sums of a shape's degree and recomputation; undefined for a degree that the graph does not have. */
  #sums({ tensor, recompute }: StageShape): StageVariant | undefined {
    return this.variants[this.tensors.indexOf(tensor) * this.recomputes.length + (recompute ? 1 : 0)];
  }

  /** Replicas that a stage may have at most on so many devices. */
  mostReplicas(tensor: number, devices: number): number {
    const { replicate, microBatches } = this.options;
    const most = Math.min(microBatches, Math.floor(devices / tensor));
    return replicate === false ? Math.min(1, most) : most;
  }

  /** Sums over the nodes of a cut that no plan goes below: seconds, and seconds x devices. */
  least(cut: number): { seconds: number; deviceSeconds: number } {
    return { seconds: this.#leastSeconds[cut]!, deviceSeconds: this.#leastDeviceSeconds[cut]! };
  }

  #sumOver(values: readonly number[]): Float64Array {
    const sums = new Float64Array(this.cuts);
    for (let cut = 0; cut < this.cuts; cut++) {
      const at = cut * this.words;
      let sum = 0;
      for (let w = 0; w < this.words; w++) {
        for (let rest = this.bits[at + w]!; rest !== 0; rest &= rest - 1) {
          sum += values[w * 32 + 31 - Math.clz32(rest & -rest)]!;
        }
      }
      sums[cut] = sum;
    }
    return sums;
  }

  #prepare(graph: LayeredGraph, tensor: number, recompute: boolean): StageVariant {
    const variants = graph.nodes.map((node) => {
      const ofDegree = node.variants.filter((variant) => variant.tensor === tensor);
      // A layer that has nothing to recompute runs as it is in a recomputed stage.
      return (
        ofDegree.find((variant) => variant.recompute === recompute) ?? (recompute ? ofDegree[0] : undefined)
      );
    });
    const sum = (figure: (variant: LayeredVariant) => number) =>
      this.#sumOver(variants.map((variant) => (variant ? figure(variant) : 0)));
    return {
      tensor,
      recompute,
      forward: sum((variant) => variant.forwardSeconds),
      backward: sum((variant) => variant.backwardSeconds),
      parameters: sum((variant) => variant.parameterBytes),
      activations: sum((variant) => variant.activationBytes),
      fixed: sum((variant) => variant.fixedBytes),
      missing: this.#sumOver(variants.map((variant) => (variant ? 0 : 1))),
    };
  }

  #live(graph: LayeredGraph, poset: Poset): Float64Array {
    const live = new Float64Array(this.cuts);
    const sent = new Float64Array(poset.count);
    for (let cut = 1; cut < this.cuts; cut++) {
      const at = cut * this.words;
      sent.fill(0);
      for (const { from, to, bytes } of graph.edges) {
        if (holds(this.bits, at, from) && !holds(this.bits, at, to))
          sent[from] = Math.max(sent[from]!, bytes);
      }
      live[cut] = sent.reduce((sum, bytes) => sum + bytes, 0);
    }
    return live;
  }
}
