import {
  bytesPerElement,
  type Cluster,
  type Device,
  type Job,
  type MemoryEntry,
  type Zero,
} from "../contracts/index.js";

/** Bytes of one parameter in each of its copies. */
export interface StateBytes {
  parameter: number;
  gradient: number;
  /** Gradients of one micro-batch that stay beside their sums. */
  unsummed: number;
  /** Optimizer state: a master copy where parameters have less than 32 bits, and two moments for Adam. */
  optimizer: number;
}

/** Sizes by term as in ZeRO (Rajbhandari et al. 2020, section 3.1): 2 + 2 or 4 + 12 bytes in mixed precision. */
export function stateBytes(job: Job): StateBytes {
  const parameter = bytesPerElement[job.dtypes.parameters];
  const state = bytesPerElement[job.dtypes.optimizer];
  const master = parameter < state ? state : 0;
  return {
    parameter,
    gradient: bytesPerElement[job.dtypes.gradients],
    unsummed: job.dtypes.microBatchGradients ? bytesPerElement[job.dtypes.microBatchGradients] : 0,
    optimizer: master + (job.optimizer === "adam" ? 2 * state : 0),
  };
}

/** Parameters that one device holds before ZeRO shards them: those of experts are replicated over fewer ranks. */
export interface HeldParameters {
  dense: number;
  expert: number;
}

export const noParameters: HeldParameters = { dense: 0, expert: 0 };

/** How ZeRO divides the state of a device's parameters, and what leaves the device. */
export interface StateSharding {
  zero: Zero;
  /** Ranks that share one state, of parameters outside experts and in them. */
  shards: number;
  expertShards: number;
  offloadOptimizer: boolean;
}

/** What a device of a stage holds, before it is turned into bytes by term. */
export interface StageContents {
  parameters: HeldParameters;
  /** Activation bytes of one micro-batch, and how many are in flight. */
  savedBytes: number;
  inFlight: number;
  /** Activations that a layer's recomputation brings back, once. */
  recomputedBytes: number;
  logitsBytes: number;
  workspaceBytes: number;
}

/**
 * Micro-batches whose activations a stage holds at the peak of 1F1B (Narayanan et al. 2021, section 2.2.1):
 * those that have gone forward but not yet backward.
 */
export function inFlightMicroBatches(stage: number, stages: number, microBatches: number): number {
  return Math.min(stages - stage, microBatches);
}

/** Memory of one device by term. */
export class MemoryModel {
  readonly #state: StateBytes;
  readonly #contextBytes: number;
  readonly #fragmentation: number;
  readonly limitBytes: number;

  constructor(cluster: Cluster, device: Device, job: Job) {
    this.#state = stateBytes(job);
    this.#contextBytes = cluster.memoryOverheads.contextBytes.value;
    this.#fragmentation = cluster.memoryOverheads.fragmentation.value;
    this.limitBytes = device.memoryBytes.value * job.limits.memoryFraction;
  }

  /** Most bytes that a device may hand out beside the context, so that what is reserved stays within the limit. */
  get roomBytes(): number {
    return (this.limitBytes - this.#contextBytes) / this.#fragmentation;
  }

  /** Each ZeRO stage shards one term more: optimizer, gradients, parameters. */
  terms(contents: StageContents, sharding: StateSharding): MemoryEntry["terms"] {
    const { dense, expert } = contents.parameters;
    const whole = dense + expert;
    const part = dense / sharding.shards + expert / sharding.expertShards;
    const { zero } = sharding;
    return {
      parameters: (zero >= 3 ? part : whole) * this.#state.parameter,
      gradients: (zero >= 2 ? part : whole) * this.#state.gradient + whole * this.#state.unsummed,
      optimizer: sharding.offloadOptimizer ? 0 : (zero >= 1 ? part : whole) * this.#state.optimizer,
      activations: contents.savedBytes * contents.inFlight + contents.recomputedBytes,
      logits: contents.logitsBytes,
      workspace: contents.workspaceBytes,
      context: this.#contextBytes,
    };
  }

  /** Bytes of state, all terms together, for each parameter that a device holds before ZeRO shards it. */
  bytesEach(sharding: StateSharding): { dense: number; expert: number } {
    const { zero, shards, expertShards, offloadOptimizer } = sharding;
    const { parameter, gradient, unsummed, optimizer } = this.#state;
    const each = (ranks: number) =>
      unsummed +
      (zero >= 3 ? parameter / ranks : parameter) +
      (zero >= 2 ? gradient / ranks : gradient) +
      (offloadOptimizer ? 0 : zero >= 1 ? optimizer / ranks : optimizer);
    return { dense: each(shards), expert: each(expertShards) };
  }

  allocatedBytes(terms: MemoryEntry["terms"]): number {
    return (
      terms.parameters +
      terms.gradients +
      terms.optimizer +
      terms.activations +
      terms.logits +
      terms.workspace +
      terms.context
    );
  }

  /** What the allocator takes from the driver: fragmentation touches all but the context. */
  reservedBytes(terms: MemoryEntry["terms"]): number {
    return this.reservedOf(this.allocatedBytes(terms) - terms.context);
  }

  /** The same for so many bytes beside the context. */
  reservedOf(bytes: number): number {
    return bytes * this.#fragmentation + this.#contextBytes;
  }
}
