import type { LayeredGraph, LayeredVariant } from "../../models/layered.js";
import { type Cuts, holds, type Poset } from "./linearise.js";
import { type Machine, ringLink, ringSeconds, sendSeconds } from "./machine.js";

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
}

/** Cost of one candidate stage. */
export interface StageCost {
  latencySeconds: number;
  syncSeconds: number;
  memoryBytes: number;
  /** What the smallest device of the run may hold. */
  limitBytes: number;
}

/** A run of devices as one stage sees it. */
interface DeviceRun {
  slowdown: number;
  memoryBytes: number;
  link: { latency: number; bandwidth: number };
}

/** How one stage is run. */
export interface StageShape {
  tensor: number;
  replicas: number;
  recompute: boolean;
}

const figures = ["forward", "backward", "parameters", "activations", "fixed", "missing"] as const;
type Figure = (typeof figures)[number];

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
  readonly #runs = new Map<number, DeviceRun>();
  readonly #leastSeconds: Float64Array;
  readonly #leastDeviceSeconds: Float64Array;
  readonly #sums = new Map<string, Record<Figure, Float64Array>>();

  constructor(graph: LayeredGraph, poset: Poset, found: Cuts, options: InterModelOptions) {
    this.options = options;
    this.words = poset.words;
    const places = Array.from({ length: found.count }, (_, i) => i);
    const sizeOf = (i: number) => {
      let size = 0;
      for (let node = 0; node < poset.count; node++) if (holds(found.bits, i * poset.words, node)) size++;
      return size;
    };
    const sized = places.map((i) => ({ i, size: sizeOf(i) })).sort((a, b) => a.size - b.size || a.i - b.i);
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
    for (const tensor of this.tensors) {
      for (const recompute of this.recomputes) this.#prepare(graph, tensor, recompute);
    }
    const fastest = Math.min(...options.machine.slowdown);
    const least = (weight: (tensor: number) => number) => (node: number) =>
      Math.min(
        ...graph.nodes[node]!.variants.map(
          (variant) => fastest * weight(variant.tensor) * (variant.forwardSeconds + variant.backwardSeconds),
        ),
      );
    this.#leastSeconds = this.#sumOver(
      least(() => 1),
      poset.count,
    );
    this.#leastDeviceSeconds = this.#sumOver(
      least((tensor) => tensor),
      poset.count,
    );
  }

  /** Whether cut `inner` is a proper part of cut `outer`. */
  nested(inner: number, outer: number): boolean {
    if (this.sizes[inner]! >= this.sizes[outer]!) return false;
    for (let w = 0; w < this.words; w++) {
      if (this.bits[inner * this.words + w]! & ~this.bits[outer * this.words + w]!) return false;
    }
    return true;
  }

  /**
   * Cost of the nodes between two cuts on the devices from `first`, with `later` replicas in later stages;
   * undefined where some node lacks the variant.
   */
  cost(from: number, to: number, first: number, shape: StageShape, later: number): StageCost | undefined {
    const sums = this.#sums.get(`${shape.tensor}/${shape.recompute}`);
    if (!sums) return undefined;
    const range = (figure: Figure) => sums[figure][to]! - sums[figure][from]!;
    if (range("missing") > 0) return undefined;
    const { machine, microBatches, overlap = 0 } = this.options;
    const { replicas, tensor } = shape;
    const { slowdown, link, memoryBytes } = this.run(first, shape);
    const width = replicas * tensor;
    const backward = slowdown * range("backward");
    let latencySeconds = slowdown * range("forward") + backward;
    if (to < this.cuts - 1) {
      latencySeconds += sendSeconds(machine, this.liveBytes[to]!, first + width - 1, first + width);
    }
    if (from > 0) latencySeconds += sendSeconds(machine, this.liveBytes[from]!, first, first - 1);
    const ring = ringSeconds(range("parameters"), replicas, link);
    const inFlight = Math.min(Math.ceil(microBatches / replicas), Math.ceil((later + replicas) / replicas));
    return {
      latencySeconds,
      syncSeconds: Math.max(0, ring - overlap * backward),
      memoryBytes: range("fixed") + inFlight * range("activations"),
      limitBytes: memoryBytes,
    };
  }

  /** What a stage of this shape finds on the devices from `first`; asked again for every pair of cuts. */
  run(first: number, { replicas, tensor }: StageShape): DeviceRun {
    const { devices, slowdown, memoryBytes } = this.options.machine;
    const key = (first * (devices + 1) + replicas) * (devices + 1) + tensor;
    let known = this.#runs.get(key);
    if (!known) {
      const width = replicas * tensor;
      known = {
        slowdown: slowdown.subarray(first, first + width).reduce((most, each) => Math.max(most, each)),
        memoryBytes: memoryBytes
          .subarray(first, first + width)
          .reduce((least, each) => Math.min(least, each)),
        link: ringLink(this.options.machine, first, replicas, tensor),
      };
      this.#runs.set(key, known);
    }
    return known;
  }

  /** Sums over the nodes of a cut that no plan goes below: seconds, and seconds x devices. */
  least(cut: number): { seconds: number; deviceSeconds: number } {
    return { seconds: this.#leastSeconds[cut]!, deviceSeconds: this.#leastDeviceSeconds[cut]! };
  }

  #sumOver(value: (node: number) => number, nodes: number): Float64Array {
    const values = Float64Array.from({ length: nodes }, (_, node) => value(node));
    const sums = new Float64Array(this.cuts);
    for (let cut = 0; cut < this.cuts; cut++) {
      for (let node = 0; node < nodes; node++) {
        if (holds(this.bits, cut * this.words, node)) sums[cut]! += values[node]!;
      }
    }
    return sums;
  }

  #prepare(graph: LayeredGraph, tensor: number, recompute: boolean): void {
    const variants = graph.nodes.map((node) => {
      const ofDegree = node.variants.filter((variant) => variant.tensor === tensor);
      // A layer that has nothing to recompute runs as it is in a recomputed stage.
      return (
        ofDegree.find((variant) => variant.recompute === recompute) ?? (recompute ? ofDegree[0] : undefined)
      );
    });
    const sum = (figure: (variant: LayeredVariant) => number) =>
      this.#sumOver((node) => (variants[node] ? figure(variants[node]) : 0), variants.length);
    this.#sums.set(`${tensor}/${recompute}`, {
      forward: sum((variant) => variant.forwardSeconds),
      backward: sum((variant) => variant.backwardSeconds),
      parameters: sum((variant) => variant.parameterBytes),
      activations: sum((variant) => variant.activationBytes),
      fixed: sum((variant) => variant.fixedBytes),
      missing: this.#sumOver((node) => (variants[node] ? 0 : 1), variants.length),
    });
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
