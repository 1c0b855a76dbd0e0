import type { MemoryEntry } from "../contracts/index.js";
import { inFlightMicroBatches, type StageContents, stateBytes } from "../cost/memory.js";
import type { Configuration, CostModels, LayerChain } from "./configuration.js";
import type { LayerCost } from "./intra.js";
import { type LayerSums, type layerFields, layerSums } from "./layerSums.js";
import { onePerRank, type StageLayout } from "./layout.js";
import { UpdateCosts, type UpdateSeconds } from "./updateCosts.js";

/** Seconds of one stage, by what they are spent on. */
export interface StageSeconds extends UpdateSeconds {
  compute: number;
  recompute: number;
  tensorCommunication: number;
  transfer: number;
  forward: number;
  backward: number;
  /** Part of `backward` that makes gradients of parameters. */
  backwardWeight: number;
}

/** Seconds that embedding and head add to the stage that holds them. */
interface EndSeconds {
  forward: number;
  backward: number;
  backwardWeight: number;
  communication: number;
  /** Once a step. */
  weights: number;
  /** Forward and backward. */
  pass: number;
}

/** What one stage keeps on a device. */
export interface StageFootprint extends StageContents {
  /**
   * Those between the halves of a backward: weight gradients need all that was saved, recomputation included (M_W of
   * Qi et al., ICLR 2024, table 1, is nearly M_B).
   */
  betweenBytes: number;
  /** Bytes of the gradient of one micro-batch's logits, which `logitsBytes` counts too. */
  logitsGradientBytes: number;
}

/**
 * Cost of any contiguous range of block layers as any stage of a layout, in constant time through prefix sums. It is
 * the one place that turns layer costs into stage costs: search, estimate and checker use it.
 */
export class StageCosts {
  readonly configuration: Configuration;
  readonly update: UpdateCosts;
  readonly layout: StageLayout;
  readonly layerCount: number;
  readonly #chain: LayerChain;
  readonly #prefix: LayerSums;
  readonly #models: CostModels;
  /** Parameters a device that embedding and head share when they sit on one stage. */
  readonly #tiedParameters: number;
  /** Exposed seconds of a transfer between stages i and i + 1, either way. */
  readonly #transferSeconds: Float64Array;
  readonly #tiedSeconds: number;
  readonly #recomputedBytes: number;
  readonly #workspaceBytes: number;
  readonly #endCache: (EndSeconds | undefined)[] = [];

  /** @param layout by default one stage a rank. */
  constructor(
    configuration: Configuration,
    chain: LayerChain,
    models: CostModels,
    layout: StageLayout = onePerRank(configuration.pipeline),
  ) {
    this.configuration = configuration;
    this.layout = layout;
    this.update = new UpdateCosts(configuration, models);
    this.#chain = chain;
    this.#models = models;
    this.layerCount = chain.blocks.length;
    this.#prefix = layerSums(chain.blocks, configuration.recompute);
    const { tensor, data, recompute } = configuration;
    const { communication, cluster, job } = models;
    const { rankOfStage } = layout;
    const first = chain.blocks[0] ?? chain.embedding[0];
    const bytes = first?.outputBytes ?? 0;
    const exposed = 1 - cluster.overlap.pipelineTransfer.value;
    const byDistance = new Map([[0, 0]]);
    this.#transferSeconds = Float64Array.from(rankOfStage.slice(1), (rank, i) => {
      const distance = Math.abs(rank - rankOfStage[i]!);
      const known = byDistance.get(distance);
      if (known !== undefined) return known;
      const seconds = exposed * communication.transferSeconds(bytes, distance * tensor * data);
      byDistance.set(distance, seconds);
      return seconds;
    });
    this.#tiedParameters = chain.head.reduce((sum, layer) => sum + layer.tiedParameters, 0);
    const tiedBytes = this.#tiedParameters * stateBytes(job).gradient;
    const between = Math.abs(rankOfStage.at(-1)! - rankOfStage[0]!);
    this.#tiedSeconds =
      between > 0
        ? communication.collectiveSeconds("allReduce", tiedBytes, {
            size: 2,
            stride: tensor * data * between,
          })
        : 0;
    this.#recomputedBytes = Math.max(
      0,
      ...chain.blocks.map((block) => block.savedBytes.none - block.savedBytes[recompute]),
    );
    this.#workspaceBytes = Math.max(0, ...chain.blocks.map((block) => block.workspaceBytes));
  }

  /** Seconds of one micro-batch, forward and backward with transfers: `seconds` in one number. */
  passSeconds(stage: number, start: number, end: number): number {
    const { forward, backward, recompute } = this.#prefix;
    const blocks =
      forward[end]! -
      forward[start]! +
      (backward[end]! - backward[start]!) +
      (recompute[end]! - recompute[start]!);
    return blocks + this.#endSeconds(stage).pass + this.#transfers(stage);
  }

  /** Seconds of one micro-batch with transfers, by direction. */
  passes(
    stage: number,
    start: number,
    end: number,
  ): Pick<StageSeconds, "forward" | "backward" | "backwardWeight"> {
    const { forward, backward, backwardWeight, recompute } = this.#prefix;
    const ends = this.#endSeconds(stage);
    const repeated = recompute[end]! - recompute[start]!;
    return {
      forward: forward[end]! - forward[start]! + ends.forward + (this.#transferSeconds[stage] ?? 0),
      backward:
        backward[end]! -
        backward[start]! +
        repeated +
        ends.backward +
        (this.#transferSeconds[stage - 1] ?? 0),
      backwardWeight: backwardWeight[end]! - backwardWeight[start]! + ends.backwardWeight,
    };
  }

  /** Seconds of stage `stage` when it holds the block layers [start, end). */
  seconds(stage: number, start: number, end: number): StageSeconds {
    const sum = (field: (typeof layerFields)[number]) =>
      this.#prefix[field][end]! - this.#prefix[field][start]!;
    const ends = this.#endSeconds(stage);
    const repeated = sum("recompute");
    const repeatedCommunication = sum("recomputeCommunication");
    const communication = sum("communication") + repeatedCommunication + ends.communication;
    const recompute = repeated - repeatedCommunication;
    const forward = sum("forward") + ends.forward;
    const backward = sum("backward") + repeated + ends.backward;
    return {
      compute: forward + backward - communication - recompute,
      recompute,
      tensorCommunication: communication,
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
    const { weights } = this.#prefix;
    return weights[end]! - weights[start]! + this.#endSeconds(stage).weights;
  }

  /** Parameters that one device of the stage holds. */
  parameters(stage: number, start: number, end: number): number {
    let parameters = this.#prefix.parameters[end]! - this.#prefix.parameters[start]!;
    for (const extra of this.#ends(stage)) parameters += extra.parameters;
    // Two stages are two modules with a copy each, even on one rank.
    if (this.layout.rankOfStage.length === 1) parameters -= this.#tiedParameters;
    return parameters;
  }

  /** What one device of the stage keeps. */
  footprint(stage: number, start: number, end: number, inFlight = 1): StageFootprint {
    const { saved, savedWhole } = this.#prefix;
    const footprint = {
      parameters: this.parameters(stage, start, end),
      savedBytes: saved[end]! - saved[start]!,
      inFlight,
      betweenBytes: savedWhole[end]! - savedWhole[start]!,
      logitsBytes: 0,
      logitsGradientBytes: 0,
      workspaceBytes: end > start ? this.#workspaceBytes : 0,
      recomputedBytes: end > start ? this.#recomputedBytes : 0,
    };
    for (const extra of this.#ends(stage)) {
      footprint.savedBytes += extra.savedBytes.none;
      footprint.betweenBytes += extra.savedBytes.none;
      footprint.logitsBytes += extra.logitsBytes;
      footprint.logitsGradientBytes += extra.logitsGradientBytes;
      footprint.workspaceBytes = Math.max(footprint.workspaceBytes, extra.workspaceBytes);
    }
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
    const { data, zero } = this.configuration;
    return this.#models.memory.terms(held, zero === 1 ? data : 1);
  }

  /** What the allocator reserves for a device's terms. */
  reserved(terms: MemoryEntry["terms"]): number {
    return this.#models.memory.reservedBytes(terms);
  }

  reservedBytes(stage: number, start: number, end: number): number {
    return this.#models.memory.reservedBytes(this.memory(stage, start, end));
  }

  /** Sums over the model that no way of cutting it can avoid. */
  wholeModel(): {
    seconds: number;
    largestLayerSeconds: number;
    leastOptimizerSeconds: number;
    leastStageBytes: number;
  } {
    const { pipeline } = this.configuration;
    const chain = this.#chain;
    let seconds = 2 * (pipeline - 1) * this.transferSeconds;
    let parameters = -(pipeline === 1 ? this.#tiedParameters : 0);
    let largestLayerSeconds = 0;
    const { recompute } = this.configuration;
    const add = (layer: LayerCost, repeated: number) => {
      const own =
        layer.forwardSeconds +
        layer.forwardCommunicationSeconds +
        layer.backwardSeconds +
        layer.backwardCommunicationSeconds +
        repeated;
      seconds += own;
      largestLayerSeconds = Math.max(largestLayerSeconds, own);
      parameters += layer.parameters;
    };
    for (const layer of chain.embedding) add(layer, 0);
    for (const layer of chain.blocks) add(layer, layer.recomputeSeconds[recompute]);
    for (const layer of chain.head) add(layer, 0);
    const share = this.#models.memory.terms(
      {
        parameters: parameters / pipeline,
        savedBytes: 0,
        inFlight: 0,
        recomputedBytes: 0,
        logitsBytes: 0,
        workspaceBytes: 0,
      },
      this.configuration.zero === 1 ? this.configuration.data : 1,
    );
    return {
      seconds,
      largestLayerSeconds,
      leastOptimizerSeconds: this.update.optimizer(parameters / pipeline),
      leastStageBytes: this.#models.memory.allocatedBytes(share),
    };
  }

  /** Exposed seconds of a transfer between neighbouring ranks, one way. */
  get transferSeconds(): number {
    return this.#transferSeconds[0] ?? 0;
  }

  /** Parameters of all stages together on one device of each; embedding and head have a copy each. */
  get wholeParameters(): number {
    const { embedding, blocks, head } = this.#chain;
    const all = [...embedding, ...blocks, ...head].reduce((sum, layer) => sum + layer.parameters, 0);
    return this.layout.rankOfStage.length === 1 ? all - this.#tiedParameters : all;
  }

  /** Most bytes that a device may hand out beside the context. */
  get roomBytes(): number {
    return this.#models.memory.roomBytes;
  }

  get limitBytes(): number {
    return this.#models.memory.limitBytes;
  }

  #ends(stage: number): LayerCost[] {
    const embedding = stage === 0 ? this.#chain.embedding : [];
    return stage === this.layout.rankOfStage.length - 1 ? [...embedding, ...this.#chain.head] : embedding;
  }

  /** What embedding and head add to a stage; middle stages share one empty answer. */
  #endSeconds(stage: number): EndSeconds {
    const last = this.layout.rankOfStage.length - 1;
    const place = stage === 0 ? 0 : stage === last ? 2 : 1;
    const known = this.#endCache[place];
    if (known) return known;
    const sum: EndSeconds = {
      forward: 0,
      backward: 0,
      backwardWeight: 0,
      communication: 0,
      weights: 0,
      pass: 0,
    };
    for (const extra of this.#ends(stage)) {
      sum.forward += extra.forwardSeconds + extra.forwardCommunicationSeconds;
      sum.backward += extra.backwardSeconds + extra.backwardCommunicationSeconds;
      sum.backwardWeight += extra.backwardWeightSeconds;
      sum.communication += extra.forwardCommunicationSeconds + extra.backwardCommunicationSeconds;
      sum.weights += extra.weightGradientSeconds;
    }
    if (last > 0 && place !== 1) sum.weights += this.#tiedSeconds;
    sum.pass = sum.forward + sum.backward;
    this.#endCache[place] = sum;
    return sum;
  }

  #transfers(stage: number): number {
    return (this.#transferSeconds[stage] ?? 0) + (this.#transferSeconds[stage - 1] ?? 0);
  }
}
