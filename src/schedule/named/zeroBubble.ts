import type { Action, ComputeKind, ScheduleTable } from "../actions.js";
import { splitBackwards } from "./interleaved.js";
import type { ScheduleOptions } from "./options.js";

/**
 * ZB-H1 (Qi et al., "Zero Bubble Pipeline Parallelism", ICLR 2024, section 2.3.1 and figure 3): 1F1B with split
 * backwards. Rank i puts off the weight halves by i, so that all ranks hold as many micro-batches as 1F1B's
 * first, p, and the bubble shrinks to (p - 1)(T_F + T_B - T_W).
 * @throws MpoptError E_USAGE for counts below 1.
 */
export function zeroBubbleH1({ ranks, microBatches }: ScheduleOptions): ScheduleTable {
  return halves("zb-h1", ranks, microBatches, 1);
}

/**
 * ZB-H2 (Qi et al., ICLR 2024, section 2.3.2 and figure 3): rank i warms up with 2 (p - 1 - i) forwards and puts
 * off the weight halves by 2 i, so that with T_F = T_B = T_W and m >= 2p - 1 no rank waits between its first
 * and its last action, at the cost of 2p - 1 micro-batches in flight. The ranks then end one after the other: the step is
 * free of bubbles only where the optimizer does not wait for all ranks (section 4).
 * @throws MpoptError E_USAGE for counts below 1.
 */
export function zeroBubbleH2({ ranks, microBatches }: ScheduleOptions): ScheduleTable {
  return halves("zb-h2", ranks, microBatches, 2);
}

function halves(name: string, ranks: number, microBatches: number, factor: number): ScheduleTable {
  const sequence = Array.from({ length: microBatches }, (_, microBatch) => ({ chunk: 0, microBatch }));
  return {
    name,
    stages: ranks,
    microBatches,
    ranks: Array.from({ length: ranks }, (_, rank) =>
      splitBackwards(sequence, [rank], factor * (ranks - 1 - rank), factor * rank),
    ),
  };
}

/**
 * ZB-V (Qi et al., ICLR 2024, section 6 and figure 7; "Pipeline Parallelism with Controllable Memory", NeurIPS
 * 2024, section 3): rank i holds the stages i and 2p - 1 - i, so that the last stage's backward starts where
 * its forward ends. With equal times it has no bubble at the memory of 1F1B, 2p halves of a rank's layers.
 *
 * Rank i: 2 (p - i) - 1 forwards of its first stage, i of each in turns, p - i forwards of the second with whole
 * backwards, then rounds of all six actions; at the end input halves first, weight halves last. Below 2p - 1
 * micro-batches it is that order without the missing ones, as PyTorch's ScheduleZBVZeroBubble does it.
 * @throws MpoptError E_USAGE for counts below 1.
 */
export function zeroBubbleV({ ranks, microBatches }: ScheduleOptions): ScheduleTable {
  const filled = Math.max(2 * ranks - 1, microBatches);
  const build = (rank: number): Action[] => {
    const actions: Action[] = [];
    const stages = [rank, 2 * ranks - 1 - rank] as const;
    const done = new Map<string, number>();
    const count = (kind: ComputeKind, chunk: 0 | 1) => done.get(`${kind}${chunk}`) ?? 0;
    const add = (kind: ComputeKind, chunk: 0 | 1) => {
      const microBatch = count(kind, chunk);
      done.set(`${kind}${chunk}`, microBatch + 1);
      if (microBatch < microBatches) actions.push({ kind, stage: stages[chunk], microBatch });
    };
    const backward = (chunk: 0 | 1) => {
      add("backward-input", chunk);
      add("backward-weight", chunk);
    };
    for (let i = 0; i < 2 * (ranks - rank) - 1; i++) add("forward", 0);
    for (let i = 0; i < rank; i++) {
      add("forward", 1);
      add("forward", 0);
    }
    for (let i = 0; i < ranks - rank; i++) {
      add("forward", 1);
      backward(1);
    }
    while (count("forward", 1) < filled) {
      if (count("forward", 0) < filled) add("forward", 0);
      backward(0);
      add("forward", 1);
      backward(1);
    }
    for (let i = 0; i < rank; i++) {
      add("backward-input", 0);
      add("backward-input", 1);
    }
    for (let i = 0; i < ranks - rank; i++) backward(0);
    while (count("backward-weight", 1) < filled) add("backward-weight", 1);
    while (count("backward-weight", 0) < filled) add("backward-weight", 0);
    return actions;
  };
  return {
    name: "zbv",
    stages: 2 * ranks,
    microBatches,
    ranks: Array.from({ length: ranks }, (_, rank) => build(rank)),
  };
}
