import { MpoptError } from "../contracts/index.js";
import type { Action, ScheduleTable } from "./actions.js";

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

const makers: Readonly<Record<string, (stages: number, microBatches: number) => ScheduleTable>> = {
  "1f1b": oneForwardOneBackward,
  gpipe,
};

/** Names that `scheduleByName` knows. */
export const scheduleNames: readonly string[] = Object.keys(makers);

/**
 * The schedule that a plan names; case does not matter.
 * @throws MpoptError E_PLAN_INVALID for an unknown name, E_USAGE for counts below 1.
 */
export function scheduleByName(name: string, stages: number, microBatches: number): ScheduleTable {
  const key = name.toLowerCase();
  if (!Object.hasOwn(makers, key)) {
    throw new MpoptError("E_PLAN_INVALID", `Expected a known pipeline schedule but found "${name}".`, [
      `Known schedules: ${scheduleNames.join(", ")}.`,
    ]);
  }
  return makers[key]!(stages, microBatches);
}

function requireCounts(stages: number, microBatches: number): void {
  for (const [what, count] of [
    ["stages", stages],
    ["micro-batches", microBatches],
  ] as const) {
    if (!Number.isInteger(count) || count < 1) {
      throw new MpoptError("E_USAGE", `Expected at least 1 for the number of ${what} but found ${count}.`);
    }
  }
}
