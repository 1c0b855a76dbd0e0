import type { AttentionShape } from "./shapes.js";

/** What a device can do at best. */
export interface AttentionRoofs {
  /** Rate of a long causal forward pass with heads of 128. */
  flopsPerSecond: number;
  bytesPerSecond: number;
  multiprocessors: number;
}

export interface AttentionConstants {
  /** Rate of the backward over that of the forward pass. */
  backwardShare: number;
  /** Blocks of 128 rows that ramp-up and the last wave take beside the rest, forward and backward. */
  ramp: readonly [forward: number, backward: number];
  /** Features that the softmax of one pair costs as much as; assumed. */
  softmaxFeatures: number;
  /** Exponent of the loss where a head is wider than 128, forward and backward: registers no longer suffice. */
  wide: readonly [forward: number, backward: number];
  /** Seconds of launch; assumed. */
  tailSeconds: number;
}

/**
 * `fitted` to the 24 rows of SimuMax's configs/system/a100_pcie.json: median error 2 %, p90 5 %. Heads of 64 reach
 * 0.88 of the rate of 128, after FlashAttention-2 (Dao 2023), figures 4 to 6, hence `softmaxFeatures`.
 */
export const attentionConstants: Readonly<AttentionConstants> = {
  backwardShare: 0.78,
  ramp: [0.75, 0.33],
  softmaxFeatures: 20,
  wide: [0.25, 0.42],
  tailSeconds: 3e-6,
};

/** Rows of one block. */
const blockRows = 128;
const usualHead = 128;

/**
 * Seconds of one pass of flash attention. Blocks of rows of all heads and sequences spread over the
 * multiprocessors; the longest of them, those that see all keys, end late: with few heads and short sequences that
 * is most of the time.
 * @param flops those of the pass as computed: half of all pairs under a causal mask.
 * @param bytes read and written.
 */
export function attentionSeconds(
  shape: AttentionShape,
  flops: number,
  bytes: number,
  roofs: AttentionRoofs,
  constants: AttentionConstants = attentionConstants,
): number {
  const { batch, heads, queries, keys, headSize, valueSize, causal, backward } = shape;
  const pass = backward ? 1 : 0;
  const size = (headSize + valueSize) / 2;
  const { softmaxFeatures } = constants;
  const narrow = (1 + softmaxFeatures / usualHead) / (1 + softmaxFeatures / Math.min(size, usualHead));
  const wide = Math.max(1, headSize / usualHead) ** -constants.wide[pass]!;
  const share = (backward ? constants.backwardShare : 1) * narrow * wide;
  const rate = roofs.flopsPerSecond * share;
  // A window or a mask leaves a row fewer keys than there are; under a causal one the last rows see twice the mean.
  const rows = batch * heads * queries;
  const flopsOfPair = backward ? 2 * (3 * headSize + 2 * valueSize) : 2 * (headSize + valueSize);
  const meanKeys = flops / (rows * flopsOfPair);
  const mostKeys = Math.min(keys, causal ? 2 * meanKeys : meanKeys);
  const blockFlops = Math.min(queries, blockRows) * mostKeys * flopsOfPair;
  const ramp = (constants.ramp[pass]! * blockFlops * roofs.multiprocessors) / rate;
  return Math.max(flops / rate + ramp, bytes / roofs.bytesPerSecond) + constants.tailSeconds;
}
