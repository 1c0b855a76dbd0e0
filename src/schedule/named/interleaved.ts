import { MpoptError } from "../../contracts/index.js";
import type { Action, ScheduleTable } from "../actions.js";
import { requireCount, type ScheduleOptions } from "./options.js";

/**
 * Micro-batches that one chunk works on in a row. The default splits them into floor(m / p) even rounds of at
 * least p, or one round where m < p, as PyTorch's interleaved schedules do; with m a multiple of p that is p, as
 * in section 2.2.2 of Narayanan et al. (SC'21). A given size may leave a shorter last group, which, as in
 * Megatron, must not be shorter than p: its next chunk would wait for the pipeline to come round.
 * @throws MpoptError E_USAGE for sizes that break this.
 */
export function groupSizeOf(
  name: string,
  ranks: number,
  microBatches: number,
  groupSize: number | undefined,
): number {
  if (groupSize === undefined) {
    const rounds = Math.max(1, Math.floor(microBatches / ranks));
    if (microBatches % rounds === 0) return microBatches / rounds;
    throw new MpoptError(
      "E_USAGE",
      `Expected a multiple of ${rounds} rounds for the micro-batches of ${name} but found ${microBatches}.`,
      [`The rounds are the whole number of times that ${ranks} ranks go into the micro-batches.`],
    );
  }
  requireCount("micro-batches of a group", groupSize);
  const rest = microBatches % groupSize;
  if (groupSize < Math.min(ranks, microBatches) || groupSize > microBatches) {
    throw new MpoptError(
      "E_USAGE",
      `Expected a group size from ${Math.min(ranks, microBatches)} to ${microBatches} for ${name} but found ${groupSize}.`,
    );
  }
  if (rest !== 0 && rest < ranks) {
    throw new MpoptError(
      "E_USAGE",
      `Expected a last group of at least ${ranks} micro-batches for ${name} but found ${rest}.`,
      [`${microBatches} micro-batches in groups of ${groupSize}.`],
    );
  }
  return groupSize;
}

/** Chunks and micro-batches in the order in which a rank's forwards take them: group by group, chunk by chunk. */
function order(
  chunks: number,
  microBatches: number,
  groupSize: number,
): { chunk: number; microBatch: number }[] {
  const list: { chunk: number; microBatch: number }[] = [];
  for (let start = 0; start < microBatches; start += groupSize) {
    for (let chunk = 0; chunk < chunks; chunk++) {
      for (let microBatch = start; microBatch < Math.min(start + groupSize, microBatches); microBatch++) {
        list.push({ chunk, microBatch });
      }
    }
  }
  return list;
}

/**
 * Interleaved 1F1B (Narayanan et al., SC'21, section 2.2.2 and figure 4): rank i holds the stages i, i + p, ...
 * and warms up with (v - 1) · groupSize + 2 (p - 1 - i) forwards. One chunk is plain 1F1B with a longer warm-up.
 * @throws MpoptError E_USAGE for counts below 1 and groups as `groupSizeOf`.
 */
export function interleaved({ ranks, microBatches, chunks = 2, groupSize }: ScheduleOptions): ScheduleTable {
  const size = groupSizeOf("interleaved", ranks, microBatches, groupSize);
  const sequence = order(chunks, microBatches, size);
  return {
    name: "interleaved",
    stages: ranks * chunks,
    microBatches,
    ranks: Array.from({ length: ranks }, (_, rank) => {
      const warmUp = Math.min((chunks - 1) * size + 2 * (ranks - 1 - rank), sequence.length);
      const actions: Action[] = [];
      for (let i = 0; i < sequence.length + warmUp; i++) {
        const forward = sequence[i];
        if (forward) {
          const { chunk, microBatch } = forward;
          actions.push({ kind: "forward", stage: chunk * ranks + rank, microBatch });
        }
        if (i >= warmUp) {
          const { chunk, microBatch } = sequence[i - warmUp]!;
          actions.push({ kind: "backward", stage: (chunks - 1 - chunk) * ranks + rank, microBatch });
        }
      }
      return actions;
    }),
  };
}

/**
 * Interleaved zero bubble: interleaved 1F1B with split backwards. The halves that the stage before waits for run
 * first, so that half the warm-up, (v - 1) · groupSize + p - 1 - i forwards, is enough; rank i puts off the
 * weight halves by i, as ZB-H1 does (Qi et al., "Zero Bubble Pipeline Parallelism", ICLR 2024, section 2.3.1,
 * with more chunks), which is how PyTorch's ScheduleInterleavedZeroBubble reads it.
 * @throws MpoptError E_USAGE for counts below 1 and groups as `groupSizeOf`.
 */
export function interleavedZeroBubble(options: ScheduleOptions): ScheduleTable {
  const { ranks, microBatches, chunks = 2, groupSize } = options;
  const size = groupSizeOf("interleaved-zb", ranks, microBatches, groupSize);
  const sequence = order(chunks, microBatches, size);
  return {
    name: "interleaved-zb",
    stages: ranks * chunks,
    microBatches,
    ranks: Array.from({ length: ranks }, (_, rank) => {
      const stages = Array.from({ length: chunks }, (_, chunk) => chunk * ranks + rank);
      return splitBackwards(sequence, stages, (chunks - 1) * size + ranks - 1 - rank, rank);
    }),
  };
}

/**
 * One rank's list with split backwards: `warmUp` forwards, then one forward and one input half in turns. A weight
 * half follows its input half once `delay` of them wait; the last ones come at the end.
 * @param sequence the order of the forwards; backwards take it with the chunks reversed.
 * @param stages of the rank's chunks.
 */
export function splitBackwards(
  sequence: { chunk: number; microBatch: number }[],
  stages: number[],
  warmUp: number,
  delay: number,
): Action[] {
  const actions: Action[] = [];
  const ahead = Math.min(warmUp, sequence.length);
  const backwards = sequence.map(({ chunk, microBatch }) => ({
    stage: stages[stages.length - 1 - chunk]!,
    microBatch,
  }));
  for (let i = 0; i < sequence.length + ahead; i++) {
    const forward = sequence[i];
    if (forward) {
      actions.push({ kind: "forward", stage: stages[forward.chunk]!, microBatch: forward.microBatch });
    }
    if (i < ahead) continue;
    actions.push({ kind: "backward-input", ...backwards[i - ahead]! });
    if (i - ahead >= delay) actions.push({ kind: "backward-weight", ...backwards[i - ahead - delay]! });
  }
  for (const backward of backwards.slice(Math.max(0, backwards.length - delay))) {
    actions.push({ kind: "backward-weight", ...backward });
  }
  return actions;
}

/**
 * Looped breadth-first (Lamy-Poirier, "Breadth-First Pipeline Parallelism", MLSys 2023, section 3): rank i holds
 * the stages i, i + p, ... and passes all micro-batches through a stage before it turns to the next, so that a
 * stage's parameters are gathered and its gradients reduced once. The backwards take the micro-batches in
 * reverse, as in PyTorch.
 * @throws MpoptError E_USAGE for counts below 1.
 */
export function loopedBreadthFirst({ ranks, microBatches, chunks = 2 }: ScheduleOptions): ScheduleTable {
  const sequence = order(chunks, microBatches, microBatches);
  return {
    name: "looped-bfs",
    stages: ranks * chunks,
    microBatches,
    ranks: Array.from({ length: ranks }, (_, rank) => [
      ...sequence.map(
        ({ chunk, microBatch }): Action => ({ kind: "forward", stage: chunk * ranks + rank, microBatch }),
      ),
      ...sequence
        .toReversed()
        .map(
          ({ chunk, microBatch }): Action => ({ kind: "backward", stage: chunk * ranks + rank, microBatch }),
        ),
    ]),
  };
}
