import {
  bytesPerElement,
  type Cluster,
  type Device,
  type Job,
  type MemoryEntry,
  type Recompute,
  type Runtime,
  type Zero,
} from "../contracts/index.js";
import { describeRuntime } from "../runtimes/index.js";

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

/** What training software holds beside the tensors of a model, or in another way than others. */
export interface MemoryHabits {
  /**
   * Parameters are stored in the optimizer's type alone and cast whenever they are gathered, so that there is no other
   * master copy (PyTorch FSDP: MixedPrecision with parameters in f32).
   */
  storesMasters: boolean;
  /**
   * Products add weight gradients to their sums by themselves. What they hand to autograd in their place stays: one
   * tensor in the parameters' type for each shape of weight (Transformer Engine, `get_dummy_wgrad`, with Megatron-LM's
   * gradient accumulation fusion). Without it, the gradient of a weight is whole beside the sum that it is added to.
   */
  fusedWeightGradients: boolean;
  /**
   * Bytes a parameter that the update takes for itself: of the share that ZeRO leaves a device to update, and of all
   * that the device holds. They are no part of the state, but blocks that activations leave are too small for them, so
   * that the allocator holds both.
   */
  updateBytes: Readonly<{ share: number; whole: number }>;
  /** Bytes of the buckets that ZeRO copies gradients and parameters through. */
  bucketBytes: number;
  /**
   * What checkpointing keeps where only some layers are recomputed: all of the others, or in every layer its input,
   * attention's output and those of every second product, the first included (torchtitan, selective by operator).
   */
  keeps: "layers" | "products";
}

export const plainHabits: MemoryHabits = {
  storesMasters: false,
  fusedWeightGradients: false,
  updateBytes: { share: 0, whole: 0 },
  bucketBytes: 0,
  keeps: "layers",
};

/** What a runtime's software is known to do: Megatron-Core runs products with their gradient sums fused. */
export function habitsOf(runtime: Runtime): MemoryHabits {
  return describeRuntime(runtime).software === "megatron"
    ? { ...plainHabits, fusedWeightGradients: true }
    : plainHabits;
}

/** Whether layers of which some are recomputed stand for checkpointing by products, as their times are alike. */
export function keepsProducts(
  { keeps }: MemoryHabits,
  { recompute, recomputeLayers }: { recompute: Recompute; recomputeLayers: number },
): boolean {
  return keeps === "products" && recompute === "none" && recomputeLayers > 0;
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
  readonly habits: MemoryHabits;
  readonly #state: StateBytes;
  readonly #contextBytes: number;
  readonly #fragmentation: number;
  readonly limitBytes: number;

  /** @param habits those of the job's runtime by default. */
  constructor(cluster: Cluster, device: Device, job: Job, habits: MemoryHabits = habitsOf(job.runtime)) {
    const state = stateBytes(job);
    const stored = bytesPerElement[job.dtypes.optimizer];
    const hasMaster = habits.storesMasters && state.parameter < stored;
    this.habits = habits;
    this.#state = hasMaster ? { ...state, parameter: stored, optimizer: state.optimizer - stored } : state;
    this.#contextBytes = cluster.memoryOverheads.contextBytes.value + habits.bucketBytes;
    this.#fragmentation = cluster.memoryOverheads.fragmentation.value;
    this.limitBytes = device.memoryBytes.value * job.limits.memoryFraction;
  }

  /** Most bytes that a device may hand out beside the context, so that what is reserved stays within the limit. */
  get roomBytes(): number {
    return (this.limitBytes - this.#contextBytes) / this.#fragmentation;
  }

  /** Each ZeRO stage shards one term more: optimizer with its update, gradients, parameters. */
  terms(contents: StageContents, sharding: StateSharding): MemoryEntry["terms"] {
    const { dense, expert } = contents.parameters;
    const whole = dense + expert;
    const part = dense / sharding.shards + expert / sharding.expertShards;
    const { zero } = sharding;
    const updated = zero >= 1 ? part : whole;
    const { updateBytes } = this.habits;
    const update = updateBytes.share * updated + updateBytes.whole * whole;
    return {
      parameters: (zero >= 3 ? part : whole) * this.#state.parameter,
      gradients: (zero >= 2 ? part : whole) * this.#state.gradient + whole * this.#state.unsummed,
      optimizer: sharding.offloadOptimizer ? 0 : updated * this.#state.optimizer + update,
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
    const { share, whole } = this.habits.updateBytes;
    const each = (ranks: number) =>
      unsummed +
      (zero >= 3 ? parameter / ranks : parameter) +
      (zero >= 2 ? gradient / ranks : gradient) +
      (offloadOptimizer ? 0 : whole + (optimizer + share) / (zero >= 1 ? ranks : 1));
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
