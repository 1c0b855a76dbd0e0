import type { MemoryEntry } from "../contracts/index.js";
import {
  type HeldParameters,
  inFlightMicroBatches,
  type StageContents,
  type StateSharding,
  stateBytes,
} from "../cost/memory.js";
import type { BlockSum } from "./blockSums.js";
import type { Configuration, CostModels, LayerChain } from "./configuration.js";
import { groupsOf } from "./groups.js";
import { onePerRank, type StageLayout } from "./layout.js";
import {
  type LayerField,
  layerFields,
  layerTerms,
  type PricedChain,
  type PricedLayer,
  priceChain,
} from "./pricedLayer.js";
import { type EndExtra, endExtra, withinCalls } from "./stageMoments.js";
import { UpdateCosts, type UpdateSeconds } from "./updateCosts.js";

/** Seconds of one stage, by what they are spent on. */
export type StageSeconds = UpdateSeconds &
  Record<(typeof layerTerms)[number], number> & {
    transfer: number;
    forward: number;
    backward: number;
    /** Part of `backward` that makes gradients of parameters. */
    backwardWeight: number;
  };

/** What one stage keeps on a device. */
export interface StageFootprint extends StageContents {
  /** Activation bytes of a micro-batch between the halves of its backward. */
  betweenBytes: number;
  /** Bytes of the gradient of one micro-batch's logits, which `logitsBytes` counts too. */
  logitsGradientBytes: number;
}

/** Sums of embedding and head on the stage that holds them; `weights` with those that are tied. */
type EndSums = Record<LayerField, number>;

/**
 * Cost of any contiguous range of block layers as any stage of a layout, in constant time through prefix sums. It is
 * the one place that turns layer costs into stage costs: search, estimate and checker use it.
 */
export class StageCosts {
  readonly configuration: Configuration;
  readonly update: UpdateCosts;
  readonly layout: StageLayout;
  readonly layerCount: number;
  readonly chain: PricedChain;
  readonly #sharding: StateSharding;
  readonly #models: CostModels;
  /** Exposed seconds of a transfer between stages i and i + 1, either way. */
  readonly #transferSeconds: Float64Array;
  readonly #tiedSeconds: number;
  #endCache: (EndSums | undefined)[] | undefined;
  #extraCache: (EndExtra | undefined)[] | undefined;
  /** Bytes of state that a device holds for each of its parameters. */
  readonly #bytesEach: { dense: number; expert: number };

  /** @param layout by default one stage a rank. */
  constructor(
    configuration: Configuration,
    chain: LayerChain,
    models: CostModels,
    layout: StageLayout = onePerRank(configuration.pipeline),
  ) {
    const groups = groupsOf(configuration);
    this.configuration = configuration;
    this.layout = layout;
    this.update = new UpdateCosts(configuration, models, groups);
    this.chain = priceChain(chain, configuration, models, groups);
    this.#models = models;
    this.layerCount = chain.pattern.length;
    const { zero, offload, tensor, data, context } = configuration;
    this.#sharding = {
      zero,
      shards: groups.shards.size,
      expertShards: groups.expertShards.size,
      offloadOptimizer: offload === "optimizer" || offload === "both",
    };
    const { communication, cluster, job } = models;
    const { rankOfStage } = layout;
    const { blocks, embedding, tiedParameters } = this.chain;
    this.#bytesEach = models.memory.bytesEach(this.#sharding);
    const bytes = (blocks[0] ?? embedding[0])?.outputBytes ?? 0;
    const exposed = 1 - cluster.overlap.pipelineTransfer.value;
    const width = tensor * context * data;
    this.#transferSeconds = new Float64Array(rankOfStage.length - 1);
    // Neighbouring stages are one or two distances apart, whatever the layout.
    let lastDistance = 0;
    let lastSeconds = 0;
    for (let i = 0; i + 1 < rankOfStage.length; i++) {
      const distance = Math.abs(rankOfStage[i + 1]! - rankOfStage[i]!);
      if (distance !== lastDistance) {
        lastDistance = distance;
        lastSeconds = distance === 0 ? 0 : exposed * communication.transferSeconds(bytes, distance * width);
      }
      this.#transferSeconds[i] = lastSeconds;
    }
    const between = Math.abs(rankOfStage.at(-1)! - rankOfStage[0]!);
    this.#tiedSeconds =
      between > 0 && tiedParameters > 0
        ? communication.collectiveSeconds("allReduce", tiedParameters * stateBytes(job).gradient, {
            size: 2,
            stride: width * between,
          })
        : 0;
  }

  /** Seconds of one micro-batch, forward and backward with transfers: `seconds` in one number. */
  passSeconds(stage: number, start: number, end: number): number {
    const { forward, backward } = this.chain.hot;
    const ends = this.#endSums(stage);
    const blocks =
      this.#part(forward[0], forward[1], start, end) + this.#part(backward[0], backward[1], start, end);
    return blocks + ends.forward + ends.backward + this.#transfers(stage);
  }

  /** Seconds of one micro-batch with transfers, by direction. */
  passes(
    stage: number,
    start: number,
    end: number,
  ): Pick<StageSeconds, "forward" | "backward" | "backwardWeight"> {
    const ends = this.#endSums(stage);
    const sum = (field: LayerField) => this.#range(field, start, end) + ends[field];
    return {
      forward: sum("forward") + (this.#transferSeconds[stage] ?? 0),
      backward: sum("backward") + (this.#transferSeconds[stage - 1] ?? 0),
      backwardWeight: sum("backwardWeight"),
    };
  }

  /** Seconds of stage `stage` when it holds the block layers [start, end). */
  seconds(stage: number, start: number, end: number): StageSeconds {
    const ends = this.#endSums(stage);
    const sum = (field: LayerField) => this.#range(field, start, end) + ends[field];
    const terms = Object.fromEntries(layerTerms.map((term) => [term, sum(term)])) as Record<
      (typeof layerTerms)[number],
      number
    >;
    return {
      ...terms,
      transfer: this.#transfers(stage),
      ...this.passes(stage, start, end),
      ...this.onceSeconds(stage, start, end),
    };
  }

  /** What the stage adds once a step: exposed gradient synchronisation, and the optimizer. */
  onceSeconds(stage: number, start: number, end: number): UpdateSeconds {
    const { backward: backwardSeconds } = this.passes(stage, start, end);
    const parameters = this.parameters(stage, start, end);
    return this.update.seconds(parameters, backwardSeconds, this.weightSeconds(stage, start, end));
  }

  /** Seconds once a step of weight gradients that are partial sums or tied. */
  weightSeconds(stage: number, start: number, end: number): number {
    return this.#range("weights", start, end) + this.#endSums(stage).weights;
  }

  /** Parameters that one device of the stage holds. */
  parameters(stage: number, start: number, end: number): HeldParameters {
    const ends = this.#endSums(stage);
    // Two stages are two modules with a copy each, even on one rank.
    const tied = this.layout.rankOfStage.length === 1 ? this.chain.tiedParameters : 0;
    return {
      dense: this.#range("parameters", start, end) + ends.parameters - tied,
      expert: this.#range("expertParameters", start, end) + ends.expertParameters,
    };
  }

  /** What one device of the stage keeps. */
  footprint(stage: number, start: number, end: number, inFlight = 1): StageFootprint {
    const ends = this.#endSums(stage);
    const footprint = {
      parameters: this.parameters(stage, start, end),
      savedBytes: this.#range("saved", start, end) + ends.saved,
      inFlight,
      betweenBytes: this.#range("between", start, end) + ends.between,
      logitsBytes: 0,
      logitsGradientBytes: 0,
      workspaceBytes: 0,
      recomputedBytes: 0,
    };
    const extra = this.#endExtra(stage);
    footprint.logitsBytes = extra.logitsBytes;
    footprint.logitsGradientBytes = extra.logitsGradientBytes;
    const within = withinCalls(extra, end > start, footprint.savedBytes);
    footprint.workspaceBytes = within.workspace;
    footprint.recomputedBytes = within.recomputed;
    return footprint;
  }

  /** Memory of one device of the stage under 1F1B with one stage a rank, by term. */
  memory(stage: number, start: number, end: number): MemoryEntry["terms"] {
    const { pipeline, microBatches } = this.configuration;
    const inFlight = inFlightMicroBatches(stage, pipeline, microBatches);
    return this.terms(this.footprint(stage, start, end, inFlight));
  }

  /** Memory by term of a device that holds so much. */
  terms(held: StageContents): MemoryEntry["terms"] {
    return this.#models.memory.terms(held, this.#sharding);
  }

  /** Memory by term of parameters alone, with gradients and optimizer. */
  stateTerms(parameters: HeldParameters): MemoryEntry["terms"] {
    return this.terms({
      parameters,
      savedBytes: 0,
      inFlight: 0,
      recomputedBytes: 0,
      logitsBytes: 0,
      workspaceBytes: 0,
    });
  }

  /** What the allocator reserves for a device's terms. */
  reserved(terms: MemoryEntry["terms"]): number {
    return this.#models.memory.reservedBytes(terms);
  }

  /** `reserved` of `memory`, in one number: searches ask for it most of all. */
  reservedBytes(stage: number, start: number, end: number): number {
    const { pipeline, microBatches } = this.configuration;
    const { saved, parameters, expertParameters } = this.chain.hot;
    const ends = this.#endSums(stage);
    const tied = this.layout.rankOfStage.length === 1 ? this.chain.tiedParameters : 0;
    const dense = this.#part(parameters[0], parameters[1], start, end) + ends.parameters - tied;
    const expert = this.#part(expertParameters[0], expertParameters[1], start, end) + ends.expertParameters;
    const activations = this.#part(saved[0], saved[1], start, end) + ends.saved;
    const extra = this.#endExtra(stage);
    const within = withinCalls(extra, end > start, activations);
    const bytes =
      dense * this.#bytesEach.dense +
      expert * this.#bytesEach.expert +
      activations * inFlightMicroBatches(stage, pipeline, microBatches) +
      extra.logitsBytes +
      within.workspace +
      within.recomputed;
    return this.#models.memory.reservedOf(bytes);
  }

  /**
   * Sums over the model that no way of cutting it can avoid. Of k blocks on a stage the first n are recomputed whole:
   * of all blocks at least min(n, L), of those on the fullest of p stages at least min(n, L / p).
   */
  wholeModel(): {
    seconds: number;
    largestLayerSeconds: number;
    /** Seconds of one micro-batch on some stage. */
    paceSeconds: number;
    leastOptimizerSeconds: number;
    leastStageBytes: number;
  } {
    const { pipeline, recomputeLayers } = this.configuration;
    const { embedding, pattern, blocks, whole, head } = this.chain;
    const { layerCount } = this;
    let seconds = 2 * (pipeline - 1) * this.transferSeconds;
    let largestLayerSeconds = 0;
    let leastBlock = Number.POSITIVE_INFINITY;
    let leastRepeat = Number.POSITIVE_INFINITY;
    const add = (layer: PricedLayer, count: number) => {
      const own = layer.forward + layer.backward;
      seconds += count * own;
      largestLayerSeconds = Math.max(largestLayerSeconds, own);
      return own;
    };
    for (const layer of embedding) add(layer, 1);
    for (const layer of head) add(layer, 1);
    for (const [kind, block] of blocks.entries()) {
      const own = add(block, pattern.counts[kind]![layerCount]!);
      leastBlock = Math.min(leastBlock, own);
      if (whole) leastRepeat = Math.min(leastRepeat, whole[kind]!.forward + whole[kind]!.backward - own);
    }
    let paceSeconds = 0;
    if (whole && layerCount > 0) {
      const each = layerCount / pipeline;
      seconds += Math.min(recomputeLayers, layerCount) * leastRepeat;
      paceSeconds = each * leastBlock + Math.min(recomputeLayers, each) * leastRepeat;
    }
    const { dense, expert } = this.wholeParameters;
    const share = { dense: dense / pipeline, expert: expert / pipeline };
    return {
      seconds,
      largestLayerSeconds,
      paceSeconds: Math.max(paceSeconds, seconds / pipeline),
      leastOptimizerSeconds: this.update.optimizer(share),
      leastStageBytes: this.#models.memory.allocatedBytes(this.stateTerms(share)),
    };
  }

  /** Exposed seconds of a transfer between neighbouring ranks, one way. */
  get transferSeconds(): number {
    return this.#transferSeconds[0] ?? 0;
  }

  /** Parameters of all stages together on one device of each; embedding and head have a copy each. */
  get wholeParameters(): HeldParameters {
    const { embedding, head } = this.chain;
    let dense = this.chain.sums.of("parameters").range(0, this.layerCount);
    let expert = this.chain.sums.of("expertParameters").range(0, this.layerCount);
    for (const list of [embedding, head]) {
      for (const layer of list) {
        dense += layer.parameters;
        expert += layer.expertParameters;
      }
    }
    return {
      dense: this.layout.rankOfStage.length === 1 ? dense - this.chain.tiedParameters : dense,
      expert,
    };
  }

  /** Most bytes that a device may hand out beside the context. */
  get roomBytes(): number {
    return this.#models.memory.roomBytes;
  }

  get limitBytes(): number {
    return this.#models.memory.limitBytes;
  }

  /** Sum of a field over the blocks [start, end) of one stage, the first of them recomputed whole. */
  #range(field: LayerField, start: number, end: number): number {
    return this.#part(this.chain.sums.of(field), this.chain.wholeSums?.of(field), start, end);
  }

  #part(sum: BlockSum, whole: BlockSum | undefined, start: number, end: number): number {
    if (!whole) return sum.range(start, end);
    const middle = Math.min(end, start + this.configuration.recomputeLayers);
    return whole.range(start, middle) + sum.range(middle, end);
  }

  #ends(stage: number): readonly PricedLayer[] {
    const embedding = stage === 0 ? this.chain.embedding : [];
    return stage === this.layout.rankOfStage.length - 1 ? [...embedding, ...this.chain.head] : embedding;
  }

  /** What embedding and head add to a stage; middle stages share one empty answer. */
  #endSums(stage: number): EndSums {
    const last = this.layout.rankOfStage.length - 1;
    const place = stage === 0 ? 0 : stage === last ? 2 : 1;
    this.#endCache ??= [];
    const known = this.#endCache[place];
    if (known) return known;
    const ends = this.#ends(stage);
    const sum = Object.fromEntries(
      layerFields.map((field) => [field, ends.reduce((all, extra) => all + extra[field], 0)]),
    ) as EndSums;
    if (last > 0 && place !== 1) sum.weights += this.#tiedSeconds;
    this.#endCache[place] = sum;
    return sum;
  }

  /** Bytes of embedding and head on a stage that do not add up over layers. */
  #endExtra(stage: number): EndExtra {
    const last = this.layout.rankOfStage.length - 1;
    const place = stage === 0 ? 0 : stage === last ? 2 : 1;
    this.#extraCache ??= [];
    this.#extraCache[place] ??= endExtra(
      stage === 0 ? this.chain.embedding : [],
      stage === last ? this.chain.head : [],
      this.chain.moments,
    );
    return this.#extraCache[place];
  }

  #transfers(stage: number): number {
    return (this.#transferSeconds[stage] ?? 0) + (this.#transferSeconds[stage - 1] ?? 0);
  }
}
