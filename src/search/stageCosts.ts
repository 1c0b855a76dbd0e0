import type { Cluster, Job, MemoryEntry, Recompute } from "../contracts/index.js";
import type { CommunicationModel } from "../cost/communication.js";
import type { ComputeModel } from "../cost/compute.js";
import { inFlightMicroBatches, type MemoryModel, stateBytes } from "../cost/memory.js";
import type { LayerCost } from "./intra.js";

/** Everything that a candidate fixes before its stages are cut. */
export interface Configuration {
  tensor: number;
  pipeline: number;
  data: number;
  microBatch: number;
  microBatches: number;
  sequenceParallel: boolean;
  recompute: Recompute;
  zero: 0 | 1;
}

/** Cost of the layers of a model under one configuration: the chain that stages are cut from. */
export interface LayerChain {
  embedding: LayerCost[];
  blocks: LayerCost[];
  head: LayerCost[];
}

/** Seconds of one stage, by what they are spent on. */
export interface StageSeconds {
  compute: number;
  recompute: number;
  tensorCommunication: number;
  transfer: number;
  forward: number;
  backward: number;
  /** Part of `backward` that makes gradients of parameters. */
  backwardWeight: number;
  /** Once a step, exposed. */
  gradientSynchronisation: number;
  optimizer: number;
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

const fields = [
  "forward",
  "backward",
  "backwardWeight",
  "communication",
  "recompute",
  "recomputeCommunication",
  "parameters",
  "saved",
  "weights",
] as const;

/**
 * Cost of any contiguous range of block layers as any stage, in constant time through prefix sums. It is the
 * one place that turns layer costs into stage costs: search, estimate and checker use it.
 */
export class StageCosts {
  readonly configuration: Configuration;
  readonly layerCount: number;
  readonly #chain: LayerChain;
  readonly #prefix: Record<(typeof fields)[number], Float64Array>;
  readonly #models: CostModels;
  /** Parameters a device that embedding and head share when they sit on one stage. */
  readonly #tiedParameters: number;
  readonly #transferSeconds: number;
  readonly #tiedSeconds: number;
  readonly #recomputedBytes: number;
  readonly #workspaceBytes: number;
  readonly #endCache: (EndSeconds | undefined)[] = [];
  readonly #parameterCache = new Map<number, { synchronisation: number; optimizer: number }>();

  constructor(configuration: Configuration, chain: LayerChain, models: CostModels) {
    this.configuration = configuration;
    this.#chain = chain;
    this.#models = models;
    this.layerCount = chain.blocks.length;
    this.#prefix = prefixSums(chain.blocks, configuration.recompute);
    const { tensor, data, pipeline, recompute } = configuration;
    const { communication, cluster, job } = models;
    const first = chain.blocks[0] ?? chain.embedding[0];
    const bytes = first?.outputBytes ?? 0;
    const exposed = 1 - cluster.overlap.pipelineTransfer.value;
    this.#transferSeconds = pipeline > 1 ? exposed * communication.transferSeconds(bytes, tensor * data) : 0;
    this.#tiedParameters = chain.head.reduce((sum, layer) => sum + layer.tiedParameters, 0);
    const tiedBytes = this.#tiedParameters * stateBytes(job).gradient;
    this.#tiedSeconds =
      pipeline > 1
        ? communication.collectiveSeconds("allReduce", tiedBytes, {
            size: 2,
            stride: tensor * data * (pipeline - 1),
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

  /** Seconds of stage `stage` when it holds the block layers [start, end). */
  seconds(stage: number, start: number, end: number): StageSeconds {
    const { pipeline } = this.configuration;
    const sum = (field: (typeof fields)[number]) => this.#prefix[field][end]! - this.#prefix[field][start]!;
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
      forward: forward + (stage < pipeline - 1 ? this.#transferSeconds : 0),
      backward: backward + (stage > 0 ? this.#transferSeconds : 0),
      backwardWeight: sum("backwardWeight") + ends.backwardWeight,
      ...this.onceSeconds(stage, start, end),
    };
  }

  /** What the stage adds once a step: exposed gradient synchronisation, and the optimizer. */
  onceSeconds(
    stage: number,
    start: number,
    end: number,
  ): Pick<StageSeconds, "gradientSynchronisation" | "optimizer"> {
    const { backward, recompute, weights } = this.#prefix;
    const backwardSeconds =
      backward[end]! -
      backward[start]! +
      (recompute[end]! - recompute[start]!) +
      this.#endSeconds(stage).backward +
      (stage > 0 ? this.#transferSeconds : 0);
    const ofParameters = this.#ofParameters(this.parameters(stage, start, end));
    return {
      gradientSynchronisation:
        this.#exposed(ofParameters.synchronisation, backwardSeconds) +
        (weights[end]! - weights[start]!) +
        this.#endSeconds(stage).weights,
      optimizer: ofParameters.optimizer,
    };
  }

  /** Parameters that one device of the stage holds. */
  parameters(stage: number, start: number, end: number): number {
    let parameters = this.#prefix.parameters[end]! - this.#prefix.parameters[start]!;
    for (const extra of this.#ends(stage)) parameters += extra.parameters;
    if (this.configuration.pipeline === 1) parameters -= this.#tiedParameters;
    return parameters;
  }

  /** Memory of one device of the stage, by term. */
  memory(stage: number, start: number, end: number): MemoryEntry["terms"] {
    const { pipeline, microBatches, data, zero } = this.configuration;
    const inFlight = inFlightMicroBatches(stage, pipeline, microBatches);
    let savedBytes = this.#prefix.saved[end]! - this.#prefix.saved[start]!;
    let logitsBytes = 0;
    let workspaceBytes = end > start ? this.#workspaceBytes : 0;
    for (const extra of this.#ends(stage)) {
      savedBytes += extra.savedBytes.none;
      logitsBytes += extra.logitsBytes;
      workspaceBytes = Math.max(workspaceBytes, extra.workspaceBytes);
    }
    return this.#models.memory.terms(
      {
        parameters: this.parameters(stage, start, end),
        savedBytes,
        inFlight,
        recomputedBytes: end > start ? this.#recomputedBytes : 0,
        logitsBytes,
        workspaceBytes,
      },
      zero === 1 ? data : 1,
    );
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
    let seconds = 2 * (pipeline - 1) * this.#transferSeconds;
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
      leastOptimizerSeconds: this.#optimizer(parameters / pipeline),
      leastStageBytes: this.#models.memory.allocatedBytes(share),
    };
  }

  get limitBytes(): number {
    return this.#models.memory.limitBytes;
  }

  #ends(stage: number): LayerCost[] {
    const { pipeline } = this.configuration;
    const embedding = stage === 0 ? this.#chain.embedding : [];
    return stage === pipeline - 1 ? [...embedding, ...this.#chain.head] : embedding;
  }

  /** What embedding and head add to a stage; middle stages share one empty answer. */
  #endSeconds(stage: number): EndSeconds {
    const { pipeline } = this.configuration;
    const place = stage === 0 ? 0 : stage === pipeline - 1 ? 2 : 1;
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
    if (pipeline > 1 && place !== 1) sum.weights += this.#tiedSeconds;
    sum.pass = sum.forward + sum.backward;
    this.#endCache[place] = sum;
    return sum;
  }

  #transfers(stage: number): number {
    const { pipeline } = this.configuration;
    return ((stage < pipeline - 1 ? 1 : 0) + (stage > 0 ? 1 : 0)) * this.#transferSeconds;
  }

  /** Synchronisation (before any overlap) and optimizer for so many parameters; equal stages ask often. */
  #ofParameters(parameters: number): { synchronisation: number; optimizer: number } {
    let known = this.#parameterCache.get(parameters);
    if (!known) {
      known = {
        synchronisation: this.#synchronisation(parameters),
        optimizer: this.#optimizer(parameters),
      };
      this.#parameterCache.set(parameters, known);
    }
    return known;
  }

  /** Seconds of the reduction over data-parallel ranks. */
  #synchronisation(parameters: number): number {
    const { data, tensor, zero } = this.configuration;
    if (data === 1) return 0;
    const { communication, job } = this.#models;
    const state = stateBytes(job);
    const group = { size: data, stride: tensor };
    if (zero === 0) return communication.collectiveSeconds("allReduce", parameters * state.gradient, group);
    return (
      communication.collectiveSeconds("reduceScatter", parameters * state.gradient, group) +
      communication.collectiveSeconds("allGather", parameters * state.parameter, group)
    );
  }

  /**
   * What stays visible of the reduction. Buckets are sent during the backward pass of the last micro-batch;
   * what does not fit into it, and the share that never overlaps, is exposed.
   */
  #exposed(seconds: number, backwardSeconds: number): number {
    const share = this.#models.cluster.overlap.gradientReduction.value;
    const hidden = Math.min(seconds * share, backwardSeconds);
    return seconds - hidden;
  }

  /** The update reads and writes every state once: it is bound by memory bandwidth. */
  #optimizer(parameters: number): number {
    const { data, zero } = this.configuration;
    const state = stateBytes(this.#models.job);
    const bytes = parameters * (state.gradient + state.parameter + 2 * state.optimizer);
    const { compute, job } = this.#models;
    const work = {
      kind: "optimizer",
      name: job.optimizer,
      dtype: job.dtypes.optimizer,
      flops: 0,
      bytes: bytes / (zero === 1 ? data : 1),
    } as const;
    return compute.callSeconds(work, "forward") ?? compute.seconds(work);
  }
}

/** The models that price a stage. */
export interface CostModels {
  cluster: Cluster;
  job: Job;
  compute: ComputeModel;
  communication: CommunicationModel;
  memory: MemoryModel;
}

function prefixSums(blocks: readonly LayerCost[], recompute: Recompute) {
  const sums = Object.fromEntries(
    fields.map((field) => [field, new Float64Array(blocks.length + 1)]),
  ) as Record<(typeof fields)[number], Float64Array>;
  blocks.forEach((block, i) => {
    const values = {
      forward: block.forwardSeconds + block.forwardCommunicationSeconds,
      backward: block.backwardSeconds + block.backwardCommunicationSeconds,
      backwardWeight: block.backwardWeightSeconds,
      communication: block.forwardCommunicationSeconds + block.backwardCommunicationSeconds,
      recompute: block.recomputeSeconds[recompute],
      recomputeCommunication: block.recomputeCommunicationSeconds[recompute],
      parameters: block.parameters,
      saved: block.savedBytes[recompute],
      weights: block.weightGradientSeconds,
    };
    for (const field of fields) sums[field][i + 1] = sums[field][i]! + values[field];
  });
  return sums;
}
