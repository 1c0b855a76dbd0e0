import type { PricedLayer } from "./pricedLayer.js";

/**
 * What a stage holds within the calls of its layers. They run one after the other, so that the fullest moment counts:
 * the head with the logits, a block with what its recomputation brings back, or the embedding.
 */

/** Bytes of embedding and head on the stage that holds them. */
export interface EndExtra {
  logitsBytes: number;
  logitsGradientBytes: number;
  /** Most bytes inside one call of the embedding, and of the head. */
  embedding: number;
  head: number;
  /** With blocks on the stage: most bytes inside one call, and what recomputation brings back beyond the logits. */
  workspace: number;
  recomputed: number;
}

/** @param blocks most bytes inside one of their calls, most that one recomputes, and what they keep for autograd. */
export function endExtra(
  embedding: readonly PricedLayer[],
  head: readonly PricedLayer[],
  blocks: { workspace: number; recomputed: number; standIns: number },
): EndExtra {
  const most = (layers: readonly PricedLayer[]) => Math.max(0, ...layers.map((layer) => layer.workspace));
  const extra = {
    logitsBytes: 0,
    logitsGradientBytes: 0,
    embedding: most(embedding),
    head: most(head),
  };
  for (const layer of [...embedding, ...head]) {
    extra.logitsBytes += layer.logitsBytes;
    extra.logitsGradientBytes += layer.logitsGradientBytes;
  }
  // A micro-batch's logits are gone before its blocks go backward.
  const ends = extra.logitsBytes + extra.head;
  const beyond = Math.max(0, blocks.recomputed + blocks.workspace - ends);
  const recomputed = Math.min(beyond, blocks.recomputed);
  return { ...extra, recomputed, workspace: extra.head + beyond - recomputed + blocks.standIns };
}

/**
 * Bytes that a stage holds within its calls beside its logits.
 * @param saved of one micro-batch, which is gone when the embedding goes backward.
 */
export function withinCalls(
  { embedding, head, workspace, recomputed, logitsBytes }: EndExtra,
  withBlocks: boolean,
  saved: number,
): { workspace: number; recomputed: number } {
  const within = withBlocks ? { workspace, recomputed } : { workspace: head, recomputed: 0 };
  const before = saved + logitsBytes + within.workspace + within.recomputed;
  within.workspace += Math.max(0, embedding - before);
  return within;
}
