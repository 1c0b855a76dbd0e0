import { MpoptError } from "../../contracts/index.js";

/** What a named schedule is made for. */
export interface ScheduleOptions {
  /** Pipeline ranks. */
  ranks: number;
  microBatches: number;
  /** Stages that each rank holds; by default the schedule's own number, 2 where it is free. */
  chunks?: number;
  /**
   * Micro-batches that one chunk works on in a row before the rank turns to its next chunk; for `interleaved` and
   * `interleaved-zb` (Megatron's `microbatch_group_size_per_virtual_pipeline_stage`). See `groupSizeOf`.
   */
  groupSize?: number;
}

/** @throws MpoptError E_USAGE for a count that is no integer of at least 1. */
export function requireCount(what: string, count: number): void {
  if (!Number.isInteger(count) || count < 1) {
    throw new MpoptError("E_USAGE", `Expected at least 1 for the number of ${what} but found ${count}.`);
  }
}

/** @throws MpoptError E_USAGE for counts below 1. */
export function requireCounts(stages: number, microBatches: number): void {
  requireCount("stages", stages);
  requireCount("micro-batches", microBatches);
}

/** @throws MpoptError E_USAGE for fewer micro-batches than `least`, which stands for `what`. */
export function requireMicroBatches(name: string, microBatches: number, least: number, what: string): void {
  if (microBatches < least) {
    throw new MpoptError(
      "E_USAGE",
      `Expected at least as many micro-batches as ${what} (${least}) for ${name} but found ${microBatches}.`,
    );
  }
}

/** @throws MpoptError E_USAGE for an odd count. */
export function requireEven(name: string, what: string, count: number): void {
  if (count % 2 !== 0) {
    throw new MpoptError("E_USAGE", `Expected an even number of ${what} for ${name} but found ${count}.`);
  }
}
