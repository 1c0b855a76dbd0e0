import {
  bytesPerElement,
  type Cluster,
  type Device,
  type Job,
  type MemoryEntry,
} from "../contracts/index.js";

/** Bytes of one parameter in each of its copies. */
export interface StateBytes {
  parameter: number;
  gradient: number;
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
    optimizer: master + (job.optimizer === "adam" ? 2 * state : 0),
  };
}

/** What a device of a stage holds, before it is turned into bytes by term. */
export interface StageContents {
  parameters: number;
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

  /** @param optimizerShards ranks that share the optimizer state: the data-parallel degree under ZeRO-1. */
  terms(contents: StageContents, optimizerShards: number): MemoryEntry["terms"] {
    const { parameters } = contents;
    return {
      parameters: parameters * this.#state.parameter,
      gradients: parameters * this.#state.gradient,
      optimizer: (parameters * this.#state.optimizer) / optimizerShards,
      activations: contents.savedBytes * contents.inFlight + contents.recomputedBytes,
      logits: contents.logitsBytes,
      workspace: contents.workspaceBytes,
      context: this.#contextBytes,
    };
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
    return (this.allocatedBytes(terms) - terms.context) * this.#fragmentation + terms.context;
  }
}
