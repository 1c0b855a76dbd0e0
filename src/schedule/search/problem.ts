import { MpoptError } from "../../contracts/index.js";

/** What the search needs to know of one stage. */
export interface SearchStage {
  /** Pipeline rank that holds the stage, from 0. */
  rank: number;
  forwardSeconds: number;
  backwardInputSeconds: number;
  /** A backward that is not split takes the sum of both. */
  backwardWeightSeconds: number;
  /** What a micro-batch holds from its forward to its backward; 1 counts micro-batches. Default 1. */
  activationBytes?: number;
  /** Share of `activationBytes` still held between backward-input and backward-weight. Default 0. */
  weightGradientBytes?: number;
}

export interface ScheduleProblem {
  /** In the order of the forward pass; every micro-batch passes all of them. */
  stages: readonly SearchStage[];
  /** Number of pipeline ranks; by default one more than the highest rank of a stage. */
  ranks?: number;
  microBatches: number;
  /** Delay between stages i and i + 1, either way, one entry a boundary; free where both share a rank. */
  transferSeconds?: readonly number[];
  /** Most bytes of activations that each rank may hold at any moment; one entry a rank. Default: no limit. */
  memoryLimitBytes?: readonly number[];
  /** Backward-input and backward-weight may run apart. */
  splitBackward: boolean;
}

export const forwardKind = 0;
export const backwardKind = 1;
export const weightKind = 2;

/**
 * A problem as flat arrays. A chain is what one stage does in one direction: forward, backward (or
 * backward-input), backward-weight, once for each micro-batch. Chain c = stage * kinds + kind; operation
 * c * microBatches + k is the chain's k-th.
 *
 * All micro-batches are equal, so that it is enough to search schedules in which every chain takes them in
 * the order 0, 1, 2, ...: renumber the k-th operation of each chain as micro-batch k. Operation k of a chain
 * had at least k others of its chain before or with it, each with its own predecessor done, so at least
 * k + 1 predecessors were done: the k-th of them in particular. Times and memory stay as they are.
 */
export interface FlatSchedule {
  readonly stages: number;
  readonly ranks: number;
  readonly microBatches: number;
  /** 2, or 3 where the backward is split. */
  readonly kinds: number;
  readonly chains: number;
  readonly operations: number;
  /** By chain. */
  readonly seconds: Float64Array;
  readonly rankOf: Int32Array;
  /** Chain whose operation k must end before operation k of this one starts; -1 for the first forward. */
  readonly before: Int32Array;
  /** Delay after it. */
  readonly delay: Float64Array;
  /** Chain that waits for this one, other than its own backward-weight; -1 for none. */
  readonly after: Int32Array;
  /** Chain of the backward-weight that waits for this backward-input; -1 for none. */
  readonly weightAfter: Int32Array;
  /** Bytes that an operation takes at its start less those that it gives back at its end. */
  readonly bytes: Float64Array;
  readonly chainsOfRank: readonly Int32Array[];
  /** By rank, with room for rounding. */
  readonly limit: Float64Array;
  /** By rank: seconds of all its operations. */
  readonly load: Float64Array;
}

function requireNumber(what: string, value: number, infinity = false): void {
  if (!(value >= 0) || (!infinity && value === Number.POSITIVE_INFINITY)) {
    throw new MpoptError("E_USAGE", `Expected a number of at least 0 for ${what} but found ${value}.`);
  }
}

/**
 * Checks a problem and lays it out.
 * @throws MpoptError E_USAGE for counts, times or lists that do not fit; E_INFEASIBLE where a rank's limit
 * does not hold even one micro-batch.
 */
export function flattenSchedule(problem: ScheduleProblem): FlatSchedule {
  const { stages, microBatches, transferSeconds, memoryLimitBytes, splitBackward } = problem;
  const count = stages.length;
  if (count < 1) throw new MpoptError("E_USAGE", "Expected at least 1 stage but found none.");
  if (!Number.isInteger(microBatches) || microBatches < 1) {
    throw new MpoptError("E_USAGE", `Expected at least 1 micro-batch but found ${microBatches}.`);
  }
  const ranks = problem.ranks ?? 1 + Math.max(...stages.map(({ rank }) => rank));
  stages.forEach((stage, s) => {
    if (!Number.isInteger(stage.rank) || stage.rank < 0 || stage.rank >= ranks) {
      throw new MpoptError(
        "E_USAGE",
        `Expected a rank from 0 to ${ranks - 1} for stage ${s} but found ${stage.rank}.`,
      );
    }
    requireNumber(`forwardSeconds of stage ${s}`, stage.forwardSeconds);
    requireNumber(`backwardInputSeconds of stage ${s}`, stage.backwardInputSeconds);
    requireNumber(`backwardWeightSeconds of stage ${s}`, stage.backwardWeightSeconds);
    const { activationBytes = 1, weightGradientBytes = 0 } = stage;
    requireNumber(`activationBytes of stage ${s}`, activationBytes);
    requireNumber(`weightGradientBytes of stage ${s}`, weightGradientBytes);
    if (weightGradientBytes > activationBytes) {
      throw new MpoptError(
        "E_USAGE",
        `Expected at most activationBytes for weightGradientBytes of stage ${s} but found ${weightGradientBytes}.`,
      );
    }
  });
  if (transferSeconds && transferSeconds.length !== count - 1) {
    throw new MpoptError(
      "E_USAGE",
      `Expected ${count - 1} times for transferSeconds but found ${transferSeconds.length}.`,
    );
  }
  transferSeconds?.forEach((seconds, i) => {
    requireNumber(`transferSeconds[${i}]`, seconds);
  });
  if (memoryLimitBytes && memoryLimitBytes.length !== ranks) {
    throw new MpoptError(
      "E_USAGE",
      `Expected ${ranks} limits for memoryLimitBytes but found ${memoryLimitBytes.length}.`,
    );
  }
  memoryLimitBytes?.forEach((bytes, rank) => {
    requireNumber(`memoryLimitBytes[${rank}]`, bytes, true);
  });

  const kinds = splitBackward ? 3 : 2;
  const chains = count * kinds;
  const seconds = new Float64Array(chains);
  const rankOf = new Int32Array(chains);
  const before = new Int32Array(chains).fill(-1);
  const delay = new Float64Array(chains);
  const after = new Int32Array(chains).fill(-1);
  const weightAfter = new Int32Array(chains).fill(-1);
  const bytes = new Float64Array(chains);
  const load = new Float64Array(ranks);
  const least = new Float64Array(ranks);
  for (let s = 0; s < count; s++) {
    const stage = stages[s]!;
    const { activationBytes = 1, weightGradientBytes = 0 } = stage;
    const first = s * kinds;
    const transfer = (i: number) =>
      stages[i]!.rank === stages[i + 1]!.rank ? 0 : (transferSeconds?.[i] ?? 0);
    seconds[first] = stage.forwardSeconds;
    seconds[first + 1] = stage.backwardInputSeconds;
    bytes[first] = activationBytes;
    bytes[first + 1] = -activationBytes;
    if (splitBackward) {
      seconds[first + 2] = stage.backwardWeightSeconds;
      before[first + 2] = first + 1;
      weightAfter[first + 1] = first + 2;
      bytes[first + 1] = weightGradientBytes - activationBytes;
      bytes[first + 2] = -weightGradientBytes;
    } else {
      seconds[first + 1] = stage.backwardInputSeconds + stage.backwardWeightSeconds;
    }
    if (s > 0) {
      before[first] = first - kinds;
      delay[first] = transfer(s - 1);
      after[first + 1] = first - kinds + 1;
    }
    if (s < count - 1) {
      before[first + 1] = first + kinds + 1;
      delay[first + 1] = transfer(s);
      after[first] = first + kinds;
    } else {
      before[first + 1] = first;
      after[first] = first + 1;
    }
    for (let kind = 0; kind < kinds; kind++) {
      rankOf[first + kind] = stage.rank;
      load[stage.rank] = load[stage.rank]! + microBatches * seconds[first + kind]!;
    }
    least[stage.rank] = least[stage.rank]! + activationBytes;
  }
  // Sums of bytes in another order may differ in their last digits.
  const limit = Float64Array.from({ length: ranks }, (_, r) => {
    const bytes = memoryLimitBytes?.[r] ?? Number.POSITIVE_INFINITY;
    return bytes + 1e-9 * Math.min(bytes, microBatches * least[r]!);
  });
  for (let r = 0; r < ranks; r++) {
    if (least[r]! > limit[r]!) {
      throw new MpoptError(
        "E_INFEASIBLE",
        `Expected room for one micro-batch (${least[r]} bytes) on rank ${r} but found a limit of ${memoryLimitBytes![r]}.`,
      );
    }
  }
  const chainsOfRank = Array.from({ length: ranks }, (_, r) =>
    Int32Array.from(Array.from(rankOf.keys()).filter((chain) => rankOf[chain] === r)),
  );
  return {
    stages: count,
    ranks,
    microBatches,
    kinds,
    chains,
    operations: chains * microBatches,
    seconds,
    rankOf,
    before,
    delay,
    after,
    weightAfter,
    bytes,
    chainsOfRank,
    limit,
    load,
  };
}

/** Chains in the order in which a micro-batch passes them. */
export function jobOrder(flat: FlatSchedule): Int32Array {
  const { stages, kinds } = flat;
  const order: number[] = [];
  for (let s = 0; s < stages; s++) order.push(s * kinds);
  for (let s = stages - 1; s >= 0; s--) order.push(s * kinds + 1);
  if (kinds === 3) for (let s = 0; s < stages; s++) order.push(s * kinds + 2);
  return Int32Array.from(order);
}
