import type { RuntimeDescription } from "./runtime.js";

/**
 * Megatron-LM: `--context-parallel-size`, `--cp-comm-type`, `--expert-model-parallel-size`,
 * `--expert-tensor-parallel-size`, `--num-distributed-optimizer-instances`, `--recompute-num-layers` with
 * `--recompute-method block`, `--optimizer-cpu-offload`; 1F1B and its interleaved form.
 */
export const megatron: RuntimeDescription = {
  name: "megatron",
  software: "megatron",
  pipeline: true,
  sequenceParallel: [true, false],
  schedules: ["1f1b", "interleaved"],
  context: ["ring", "all-to-all"],
  experts: true,
  zero: [1, 0],
  hybrid: true,
  recompute: ["none", "selective", "full"],
  besideWholeLayers: ["none"],
  offload: ["none", "optimizer"],

  /** `validate_args` and `forward_backward_pipelining_with_interleaving`. */
  refusesSchedule(name, { ranks, chunks, microBatches }) {
    if (name !== "interleaved") return undefined;
    if (ranks < 2 || chunks < 2) return "Megatron-LM interleaves at least 2 chunks over at least 2 ranks";
    if (microBatches % ranks !== 0) {
      return `Megatron-LM interleaves a multiple of ${ranks} micro-batches, one a rank`;
    }
    return undefined;
  },

  /**
   * Transformer Engine passes no sliding windows around a ring and no latent attention all-to-all
   * (`attn_forward_func_with_cp` of transformer_engine/pytorch/attention).
   */
  exchanges(exchange, { slidingWindow, latent }, sequence) {
    if (exchange === "ring") return slidingWindow === undefined || slidingWindow >= sequence;
    return !latent;
  },

  /** Mixtures over tensor ranks want their tokens divided as well (`MoELayer.forward`). */
  splitsExperts: ({ sequenceParallel }) => sequenceParallel,

  /**
   * As many groups of ranks with the same experts are made as of the others with equal parameters
   * (`initialize_model_parallel`).
   */
  shards({ tensor, context, data, expert, expertTensor, shards }) {
    const copies = data * context;
    return ((tensor * copies) / (expert * expertTensor)) % (copies / shards) === 0;
  },

  /** That of Adam, and a distributed one. */
  offloads: ({ data, context, zero }, optimizer) =>
    optimizer === "adam" && (zero > 0 || data * context === 1),
};
