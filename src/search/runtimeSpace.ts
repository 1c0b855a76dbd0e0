import type { ContextExchange, Job, Model, Offload, Recompute, Runtime, Zero } from "../contracts/index.js";
import type { Configuration } from "./configuration.js";

/** What a runtime executes beside degrees, micro-batches and schedules. */
export interface RuntimeSpace {
  context: readonly ContextExchange[];
  experts: boolean;
  zero: readonly Zero[];
  /** Sharding groups smaller than all data-parallel ranks. */
  hybrid: boolean;
  /** What the other layers of a stage may do where some are recomputed whole; empty where none may be. */
  besideWholeLayers: readonly Recompute[];
  offload: readonly Offload[];
}

/**
 * `torch` holds what `apply_plan.py` applies. Megatron-LM: `--context-parallel-size`, `--cp-comm-type`,
 * `--expert-model-parallel-size`, `--expert-tensor-parallel-size`, `--num-distributed-optimizer-instances`,
 * `--recompute-num-layers` with `--recompute-method block`, `--optimizer-cpu-offload`. What more these two share is
 * left out of `portable`, for launchers that have less.
 */
export const runtimeSpaces: Readonly<Record<Runtime, RuntimeSpace>> = {
  portable: {
    context: [],
    experts: false,
    zero: [1, 0],
    hybrid: false,
    besideWholeLayers: [],
    offload: ["none"],
  },
  torch: {
    context: [],
    experts: false,
    zero: [1, 0, 2, 3],
    hybrid: true,
    besideWholeLayers: ["none", "selective"],
    offload: ["none"],
  },
  megatron: {
    context: ["ring", "all-to-all"],
    experts: true,
    zero: [1, 0],
    hybrid: true,
    besideWholeLayers: ["none"],
    offload: ["none", "optimizer"],
  },
  any: {
    context: ["ring", "all-to-all"],
    experts: true,
    zero: [1, 0, 2, 3],
    hybrid: true,
    besideWholeLayers: ["none", "selective"],
    offload: ["none", "optimizer", "activations", "both"],
  },
};

/**
 * Whether context-parallel ranks can exchange a model's keys so. All-to-all gives every rank whole heads, of queries
 * and of keys. Under Megatron-LM, Transformer Engine passes no sliding windows around a ring and no latent attention
 * all-to-all (`attn_forward_func_with_cp` of transformer_engine/pytorch/attention).
 */
export function canExchange(
  exchange: ContextExchange,
  { tensor, context }: Pick<Configuration, "tensor" | "context">,
  { architecture }: Pick<Model, "architecture">,
  { runtime, sequence }: Pick<Job, "runtime" | "sequence">,
): boolean {
  if (!architecture) return true;
  const { heads, keyValueHeads, latent, slidingWindow } = architecture;
  if (exchange === "ring") {
    return runtime !== "megatron" || slidingWindow === undefined || slidingWindow >= sequence;
  }
  if (runtime === "megatron" && latent) return false;
  return (heads / tensor) % context === 0 && Math.max(1, keyValueHeads / tensor) % context === 0;
}

/**
 * Whether a runtime divides the layers of a mixture over tensor ranks so. Megatron-LM wants their tokens divided as well
 * (`MoELayer.forward` of megatron/core/transformer/moe); `apply_plan.py` splits dense layers only.
 */
export function canSplitExperts(
  { tensor, sequenceParallel }: Pick<Configuration, "tensor" | "sequenceParallel">,
  runtime: Runtime,
): boolean {
  if (tensor === 1 || runtime === "any") return true;
  return runtime !== "torch" && sequenceParallel;
}

/**
 * Whether a runtime shards the state of a configuration so. `apply_plan.py` shards gradients and parameters where it
 * need not gather them for schedules of several stages. Megatron-LM makes as many groups of ranks with the same experts
 * as of the others with equal parameters (`initialize_model_parallel`).
 */
export function canShard(
  { tensor, context, pipeline, data, expert, expertTensor, zero, shards }: Configuration,
  runtime: Runtime,
): boolean {
  if (runtime === "torch") return zero < 2 || pipeline === 1;
  const copies = data * context;
  return runtime !== "megatron" || ((tensor * copies) / (expert * expertTensor)) % (copies / shards) === 0;
}

/** Whether a runtime offloads the optimizer's state of a configuration: Megatron-LM that of Adam, a distributed one. */
export function canOffload(
  { data, context, zero }: Configuration,
  { runtime, optimizer }: Pick<Job, "runtime" | "optimizer">,
): boolean {
  return runtime !== "megatron" || (optimizer === "adam" && (zero > 0 || data * context === 1));
}
