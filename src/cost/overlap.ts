import type { Cluster } from "../contracts/index.js";

/** Kinds of communication that may hide behind compute. */
export type OverlapKind = keyof Cluster["overlap"];

/**
 * Shares that hide where a cluster does not say: what the launchers do by default. Collectives of tensor parallelism
 * and tokens on their way to experts are waited for (Megatron-LM without its overlap flags); a ring passes the next
 * keys while attention computes (Liu et al., Ring Attention, 2023, section 3), and ZeRO-3 gathers the next layer's
 * parameters meanwhile (Zhao et al., PyTorch FSDP, VLDB 2023, section 3.3), each losing a tenth to the first and the
 * last step. What ZeRO-3 moves beside compute holds that up by 0.126 of its time, multiprocessors and memory being
 * shared (measured: the overlap coefficient 1.1256 of PKU-DAIR/Hetu-Galvatron, profile_hardware), so that
 * 0.9 x (1 - 0.126) hides.
 */
const usual: Readonly<Record<OverlapKind, number>> = {
  gradientReduction: 0.9,
  pipelineTransfer: 0,
  parameterGather: 0.79,
  contextExchange: 0.9,
  expertExchange: 0,
  tensor: 0,
};

/** Share of a kind of communication that hides behind compute on a cluster. */
export function overlapOf(cluster: Cluster, kind: OverlapKind): number {
  return cluster.overlap[kind]?.value ?? usual[kind];
}

/** What stays visible of `seconds` beside `hiding` seconds of compute. */
export function exposedSeconds(seconds: number, hiding: number, share: number): number {
  return seconds - Math.min(seconds * share, hiding);
}
