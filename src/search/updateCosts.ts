import { stateBytes } from "../cost/memory.js";
import type { Configuration, CostModels } from "./configuration.js";

/** Seconds that a rank adds once a step. */
export interface UpdateSeconds {
  /** Exposed part of the reduction of gradients. */
  gradientSynchronisation: number;
  optimizer: number;
}

/** Cost of what a rank does with its gradients after its last backward. */
export class UpdateCosts {
  readonly #configuration: Configuration;
  readonly #models: CostModels;
  readonly #cache = new Map<number, { synchronisation: number; optimizer: number }>();

  constructor(configuration: Configuration, models: CostModels) {
    this.#configuration = configuration;
    this.#models = models;
  }

  /**
   * Update of a rank with so many parameters.
   * @param hidingSeconds backward work of one micro-batch that the reduction may run beside.
   * @param otherSeconds of reductions over other axes, which nothing hides.
   */
  seconds(parameters: number, hidingSeconds: number, otherSeconds: number): UpdateSeconds {
    // Equal stages ask often.
    let known = this.#cache.get(parameters);
    if (!known) {
      known = { synchronisation: this.#synchronisation(parameters), optimizer: this.optimizer(parameters) };
      this.#cache.set(parameters, known);
    }
    return {
      gradientSynchronisation: this.#exposed(known.synchronisation, hidingSeconds) + otherSeconds,
      optimizer: known.optimizer,
    };
  }

  /** Sum of the gradients of two pipeline ranks that hold copies of the same layers. */
  copySeconds(parameters: number, rank: number, otherRank: number): number {
    const { tensor, data } = this.#configuration;
    const { communication, job } = this.#models;
    const stride = tensor * data * Math.abs(rank - otherRank);
    if (stride === 0) return 0;
    return communication.collectiveSeconds("allReduce", parameters * stateBytes(job).gradient, {
      size: 2,
      stride,
    });
  }

  /** The update reads and writes every state once: it is bound by memory bandwidth. */
  optimizer(parameters: number): number {
    const { data, zero } = this.#configuration;
    const { compute, job } = this.#models;
    const state = stateBytes(job);
    const bytes = parameters * (state.gradient + state.parameter + 2 * state.optimizer);
    const work = {
      kind: "optimizer",
      name: job.optimizer,
      dtype: job.dtypes.optimizer,
      flops: 0,
      bytes: bytes / (zero === 1 ? data : 1),
    } as const;
    return compute.callSeconds(work, "forward") ?? compute.seconds(work);
  }

  /** Seconds of the reduction over data-parallel ranks. */
  #synchronisation(parameters: number): number {
    const { data, tensor, zero } = this.#configuration;
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
  #exposed(seconds: number, hidingSeconds: number): number {
    const share = this.#models.cluster.overlap.gradientReduction.value;
    const hidden = Math.min(seconds * share, hidingSeconds);
    return seconds - hidden;
  }
}
