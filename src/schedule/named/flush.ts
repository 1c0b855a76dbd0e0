import type { Action, ScheduleTable } from "../actions.js";
import { requireCounts, requireMicroBatches } from "./options.js";

/**
 * GPipe (Huang et al., NeurIPS 2019, section 2.3): all forwards, then all backwards, so that every rank holds
 * all micro-batches at its peak. The backwards run in the order of the micro-batches, as in figure 3 of
 * Narayanan et al. (SC'21); GPipe's own figure reverses them, which takes the same time.
 * @throws MpoptError E_USAGE for counts below 1.
 */
export function gpipe(stages: number, microBatches: number): ScheduleTable {
  requireCounts(stages, microBatches);
  const ranks = Array.from({ length: stages }, (_, stage) => {
    const actions: Action[] = [];
    for (let microBatch = 0; microBatch < microBatches; microBatch++) {
      actions.push({ kind: "forward", stage, microBatch });
    }
    for (let microBatch = 0; microBatch < microBatches; microBatch++) {
      actions.push({ kind: "backward", stage, microBatch });
    }
    return actions;
  });
  return { name: "gpipe", stages, microBatches, ranks };
}

/**
 * 1F1B with a flush, also PipeDream-Flush (Narayanan et al., "Efficient Large-Scale Language Model Training
 * on GPU Clusters Using Megatron-LM", SC'21, section 2.2.1 and figure 4): rank i warms up with
 * min(p - 1 - i, m) forwards, then alternates one forward and one backward, then drains.
 * @throws MpoptError E_USAGE for counts below 1.
 */
export function oneForwardOneBackward(stages: number, microBatches: number): ScheduleTable {
  requireCounts(stages, microBatches);
  const ranks = Array.from({ length: stages }, (_, stage) => {
    const warmUp = Math.min(stages - 1 - stage, microBatches);
    const actions: Action[] = [];
    for (let microBatch = 0; microBatch < warmUp; microBatch++) {
      actions.push({ kind: "forward", stage, microBatch });
    }
    for (let microBatch = 0; microBatch < microBatches; microBatch++) {
      const next = warmUp + microBatch;
      if (next < microBatches) actions.push({ kind: "forward", stage, microBatch: next });
      actions.push({ kind: "backward", stage, microBatch });
    }
    return actions;
  });
  return { name: "1f1b", stages, microBatches, ranks };
}

/**
 * PipeDream's asynchronous 1F1B with weight stashing (Narayanan et al., SOSP'19, sections 3.2 and 3.3): the order
 * of 1F1B without a flush. Every backward is followed by an update, and a micro-batch's backward uses the weights
 * of its forward, so that stage i keeps one version for each of its p - i micro-batches in flight. The table is a
 * cut of m micro-batches out of the endless run: its fill and drain happen once in a training, not once a step.
 * @throws MpoptError E_USAGE for counts below 1.
 */
export function asynchronousOneForwardOneBackward(stages: number, microBatches: number): ScheduleTable {
  const { ranks } = oneForwardOneBackward(stages, microBatches);
  return {
    name: "1f1b-async",
    stages,
    microBatches,
    ranks: ranks.map((actions, stage) =>
      actions.flatMap((action): Action[] =>
        action.kind === "backward" ? [action, { kind: "optimizer", stage, microBatch: -1 }] : [action],
      ),
    ),
    weightVersions: Array.from({ length: stages }, (_, stage) => Math.min(stages - stage, microBatches)),
  };
}

/**
 * PipeDream-2BW (Narayanan et al., "Memory-Efficient Pipeline-Parallel DNN Training", ICML'21, section 3.1): 1F1B
 * without a flush whose gradients are summed over m >= p micro-batches, so that two versions of the weights are
 * enough on every stage: the one that micro-batches in flight started with, and the next. As with `1f1b-async`,
 * fill and drain happen once in a training.
 * @throws MpoptError E_USAGE for counts below 1 and for fewer micro-batches than ranks.
 */
export function doubleBufferedWeights(stages: number, microBatches: number): ScheduleTable {
  const { ranks } = oneForwardOneBackward(stages, microBatches);
  requireMicroBatches("2bw", microBatches, stages, "the ranks");
  return {
    name: "2bw",
    stages,
    microBatches,
    ranks: ranks.map((actions, stage) => [...actions, { kind: "optimizer", stage, microBatch: -1 }]),
    weightVersions: Array.from({ length: stages }, () => 2),
  };
}
