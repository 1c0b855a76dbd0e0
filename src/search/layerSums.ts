import type { Recompute } from "../contracts/index.js";
import type { LayerCost } from "./intra.js";

/** What is summed. */
export const layerFields = [
  "forward",
  "backward",
  "backwardWeight",
  "communication",
  "recompute",
  "recomputeCommunication",
  "parameters",
  "saved",
  "savedWhole",
  "weights",
] as const;

export type LayerSums = Readonly<Record<(typeof layerFields)[number], Float64Array>>;

/**
 * Activation bytes of one micro-batch between the halves of its backward: what full recomputation brought back stays
 * for the weight gradients.
 */
export function wholeSavedBytes({ savedBytes }: LayerCost, recompute: Recompute): number {
  return recompute === "full" ? Math.max(savedBytes.none, savedBytes.full) : savedBytes[recompute];
}

/** Sums over the first i block layers, for every i: any range's sum is a difference. */
export function layerSums(blocks: readonly LayerCost[], recompute: Recompute): LayerSums {
  const sums = Object.fromEntries(
    layerFields.map((field) => [field, new Float64Array(blocks.length + 1)]),
  ) as Record<(typeof layerFields)[number], Float64Array>;
  blocks.forEach((block, i) => {
    const values = {
      forward: block.forwardSeconds + block.forwardCommunicationSeconds,
      backward: block.backwardSeconds + block.backwardCommunicationSeconds,
      backwardWeight: block.backwardWeightSeconds,
      communication: block.forwardCommunicationSeconds + block.backwardCommunicationSeconds,
      recompute: block.recomputeSeconds[recompute],
      recomputeCommunication: block.recomputeCommunicationSeconds[recompute],
      parameters: block.parameters,
      saved: block.savedBytes[recompute],
      savedWhole: wholeSavedBytes(block, recompute),
      weights: block.weightGradientSeconds,
    };
    for (const field of layerFields) sums[field][i + 1] = sums[field][i]! + values[field];
  });
  return sums;
}
