import type { Group } from "../cluster/index.js";
import type { Configuration } from "./configuration.js";

/** The communicators that one rank of a configuration is in. */
export interface Groups {
  tensor: Group;
  context: Group;
  /** Ranks with the same parameters outside experts: data-parallel and context-parallel ones. */
  data: Group;
  /** Among them those that share one ZeRO state, and those with the same part of it. */
  shards: Group;
  replicas: Group;
  /** Ranks that share the experts of a layer. */
  expert: Group;
  expertTensor: Group;
  /** Ranks with the same experts, and among them those that share one ZeRO state and those with the same part. */
  expertData: Group;
  expertShards: Group;
  expertReplicas: Group;
}

/**
 * Groups in the rank order of Megatron-LM (`parallel_state`, order tp-cp-ep-dp-pp): tensor ranks are neighbours,
 * then context, data and pipeline. Experts divide the same ranks anew: ranks of one expert are neighbours, then those
 * that hold different experts.
 */
export function groupsOf(configuration: Configuration): Groups {
  const { tensor, context, data, expert, expertTensor, zero } = configuration;
  const copies = data * context;
  const shards = zero > 0 ? configuration.shards : 1;
  const expertStride = expertTensor * expert;
  const expertCopies = Math.max(1, Math.floor((tensor * copies) / expertStride));
  const expertShards =
    zero === 0
      ? 1
      : shards === copies
        ? expertCopies
        : greatestCommonDivisor(expertCopies, Math.max(1, Math.floor((shards * tensor) / expertStride)));
  return {
    tensor: { size: tensor, stride: 1 },
    context: { size: context, stride: tensor },
    data: { size: copies, stride: tensor },
    shards: { size: shards, stride: tensor },
    replicas: { size: copies / shards, stride: tensor * shards },
    expert: { size: expert, stride: expertTensor },
    expertTensor: { size: expertTensor, stride: 1 },
    expertData: { size: expertCopies, stride: expertStride },
    expertShards: { size: expertShards, stride: expertStride },
    expertReplicas: { size: expertCopies / expertShards, stride: expertStride * expertShards },
  };
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}
