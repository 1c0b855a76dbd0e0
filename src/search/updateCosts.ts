import { type HeldParameters, stateBytes } from "../cost/memory.js";
import { describeRuntime } from "../runtimes/index.js";
import type { Configuration, CostModels } from "./configuration.js";
import { type Groups, groupsOf } from "./groups.js";

/** Seconds that a rank adds once a step. */
export interface UpdateSeconds {
  /** Exposed part of the reduction of gradients. */
  gradientSynchronisation: number;
  optimizer: number;
}

/**
 * Host bytes that an optimizer on the host moves a byte of state and second: eight devices share the memory of a
 * node with twelve channels of DDR5-4800, of which Adam on all cores reaches most (Ren et al., ZeRO-Offload, USENIX
 * ATC 2021, section 5, updates at memory bandwidth).
 */
const hostUpdateBytesPerSecond = 30e9;

/** Between device and host where the cluster does not say: PCIe 4.0 x16, 85 % of its rate. */
export const assumedHostBytesPerSecond = 27e9;

/** Cost of what a rank does with its gradients after its last backward. */
export class UpdateCosts {
  readonly #configuration: Configuration;
  readonly #models: CostModels;
  readonly #groups: Groups;
  readonly #cache = new Map<string, { synchronisation: number; optimizer: number }>();

  constructor(configuration: Configuration, models: CostModels, groups = groupsOf(configuration)) {
    this.#configuration = configuration;
    this.#models = models;
    this.#groups = groups;
  }

  /**
   * Update of a rank with so many parameters.
   * @param hidingSeconds backward work of one micro-batch that the reduction may run beside.
   * @param otherSeconds of reductions over other axes, which nothing hides.
   */
  seconds(parameters: HeldParameters, hidingSeconds: number, otherSeconds: number): UpdateSeconds {
    // Equal stages ask often.
    const key = `${parameters.dense}/${parameters.expert}`;
    let known = this.#cache.get(key);
    if (!known) {
      known = { synchronisation: this.#synchronisation(parameters), optimizer: this.optimizer(parameters) };
      this.#cache.set(key, known);
    }
    return {
      gradientSynchronisation: this.#exposed(known.synchronisation, hidingSeconds) + otherSeconds,
      optimizer: known.optimizer,
    };
  }

  /** Sum of the gradients of two pipeline ranks that hold copies of the same layers. */
  copySeconds({ dense, expert }: HeldParameters, rank: number, otherRank: number): number {
    const { tensor, data, context } = this.#configuration;
    const { communication, job } = this.#models;
    const stride = tensor * context * data * Math.abs(rank - otherRank);
    if (stride === 0) return 0;
    return communication.collectiveSeconds("allReduce", (dense + expert) * stateBytes(job).gradient, {
      size: 2,
      stride,
    });
  }

  /**
   * The update reads and writes every state once: it is bound by memory bandwidth, that of the host and the link to
   * it where the state lives there. What the host does once a step comes with it.
   */
  optimizer({ dense, expert }: HeldParameters): number {
    const { zero, offload } = this.#configuration;
    const { compute, job, cluster } = this.#models;
    const step = cluster.stepSeconds?.value ?? 0;
    const state = stateBytes(job);
    const { shards, expertShards } = this.#groups;
    const parameters = zero >= 1 ? dense / shards.size + expert / expertShards.size : dense + expert;
    const bytes = parameters * (state.gradient + state.parameter + 2 * state.optimizer);
    if (offload === "optimizer" || offload === "both") {
      const link = compute.device.hostBytesPerSecond?.value ?? assumedHostBytesPerSecond;
      const moved = parameters * (state.gradient + state.parameter);
      return step + moved / link + bytes / hostUpdateBytesPerSecond;
    }
    const work = {
      kind: "optimizer",
      name: job.optimizer,
      dtype: job.dtypes.optimizer,
      flops: 0,
      bytes,
    } as const;
    return step + (compute.callSeconds(work, "forward") ?? compute.seconds(work));
  }

  /**
   * Seconds of the reduction over ranks with the same parameters, once a step. Sharded gradients that were reduced
   * with every micro-batch are only summed over the replicas of their shards.
   */
  #synchronisation({ dense, expert }: HeldParameters): number {
    const { data, replicas, shards, expertData, expertReplicas, expertShards } = this.#groups;
    return (
      this.#reduction(dense, data, shards, replicas) +
      this.#reduction(expert, expertData, expertShards, expertReplicas)
    );
  }

  #reduction(
    parameters: number,
    all: Groups["data"],
    shards: Groups["data"],
    replicas: Groups["data"],
  ): number {
    const { zero, microBatches } = this.#configuration;
    if (parameters === 0 || all.size === 1) return 0;
    const { communication, job } = this.#models;
    const state = stateBytes(job);
    const bytes = parameters * state.gradient;
    if (zero === 0) return communication.collectiveSeconds("allReduce", bytes, all);
    const between = communication.collectiveSeconds("allReduce", bytes / shards.size, replicas);
    // What is gathered and scattered layer by layer is a layer's price.
    const byLayer = zero === 3 || (zero === 2 && describeRuntime(job.runtime).software === "pytorch");
    const everyMicroBatch = byLayer || (zero === 2 && microBatches > 1);
    const scatter = everyMicroBatch ? 0 : communication.collectiveSeconds("reduceScatter", bytes, shards);
    const gather = byLayer
      ? 0
      : communication.collectiveSeconds("allGather", parameters * state.parameter, shards);
    return scatter + between + gather;
  }

  /**
   * What stays visible of the reduction. Buckets are sent during the backward pass of the last micro-batch;
   * what does not fit into it, and the share that never overlaps, is exposed.
   */
  #exposed(seconds: number, hidingSeconds: number): number {
    const share = this.#models.cluster.overlap.gradientReduction.value;
    const hidden = Math.min(seconds * share, hidingSeconds);
    return seconds - hidden;
  }
}
