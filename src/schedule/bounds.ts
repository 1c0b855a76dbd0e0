/**
 * Closed forms of pipeline times with free transfers, seconds. `forward` and `backward` hold one
 * micro-batch's times, one entry a stage. They cost O(stages); `simulate` gives the exact time.
 */

/**
 * (m + (p - 1) / v)(f + b): interleaved 1F1B of p ranks with v equal stages each, where f and b are one
 * micro-batch's times on all of a rank's stages; exact where p divides m (Narayanan et al., SC'21, section
 * 2.2.2). With v = 1 it is 1F1B, and GPipe, for every m.
 */
export function interleavedSeconds(
  ranks: number,
  microBatches: number,
  chunks: number,
  forward: number,
  backward: number,
): number {
  return (microBatches + (ranks - 1) / chunks) * (forward + backward);
}

/**
 * Σ(f_i + b_i) + (m - 1) · max(f_i + b_i): the first micro-batch's round trip, then one round of the slowest
 * stage each. Exact for equal stages, where it is (m + p - 1)(f + b) (Narayanan et al., SC'21, section 2.2.1).
 *
 * An upper bound where all stages share one ratio of backward to forward (see the proof below). Not in
 * general: 1F1B fixes the order, so a stage with a slow forward and another with a slow backward can both
 * stand on the critical path. Smallest example: p = m = 3, f = (1, 0, 0), b = (0, 1, 0) takes 5, not 4. Nor
 * is it a lower bound: a slow early stage overlaps with the round trip behind it.
 */
export function oneForwardOneBackwardEstimate(
  forward: ArrayLike<number>,
  backward: ArrayLike<number>,
  microBatches: number,
): number {
  let sum = 0;
  let slowest = 0;
  for (let i = 0; i < forward.length; i++) {
    const both = forward[i]! + backward[i]!;
    sum += both;
    if (both > slowest) slowest = both;
  }
  return sum + (microBatches - 1) * slowest;
}

/**
 * Σ(f_i + b_i) + (m - 1) · (max f_i + max b_i): no 1F1B takes longer.
 *
 * Proof. The makespan is the longest path and so subadditive in the times: it is enough to bound it for b = 0
 * (f = 0 is its mirror in time). From the forward (i, k) of stage i and micro-batch k a path meets its next
 * forward at (i, k + 1), at (i + 1, k), or, through backwards, at (j, k + i - j + 1) or later with j <= i,
 * because rank i is p - 1 - i forwards ahead of its backwards. Each step raises i + k by at least 1. A path
 * that gets to stage q has passed all stages up to q and meets at most q + m forwards: each of the q + 1
 * stages once, and m - 1 more of at most max f. With b = r · f both parts add up to
 * `oneForwardOneBackwardEstimate`.
 */
export function oneForwardOneBackwardUpperBound(
  forward: ArrayLike<number>,
  backward: ArrayLike<number>,
  microBatches: number,
): number {
  let sum = 0;
  let slowestForward = 0;
  let slowestBackward = 0;
  for (let i = 0; i < forward.length; i++) {
    sum += forward[i]! + backward[i]!;
    slowestForward = Math.max(slowestForward, forward[i]!);
    slowestBackward = Math.max(slowestBackward, backward[i]!);
  }
  return sum + (microBatches - 1) * (slowestForward + slowestBackward);
}

/**
 * max over i of Σ_{j<i}(f_j + b_j) + m · (f_i + b_i), and the first round trip: no schedule that keeps each
 * stage on a rank of its own is faster. Stage i starts after the stages before it have passed the first
 * forward, works m rounds, and its last backward still has to pass them.
 */
export function pipelineLowerBound(
  forward: ArrayLike<number>,
  backward: ArrayLike<number>,
  microBatches: number,
): number {
  let before = 0;
  let bound = 0;
  for (let i = 0; i < forward.length; i++) {
    const both = forward[i]! + backward[i]!;
    bound = Math.max(bound, before + microBatches * both);
    before += both;
  }
  return Math.max(bound, before);
}
