import { MpoptError } from "../contracts/index.js";
import { checkActions, type ScheduleTable } from "./actions.js";

/**
 * A schedule made ready for timing: all actions in one order in which every action follows what it waits
 * for. One pass over the arrays then gives all times, so that one schedule can be timed again and again.
 * Position i is the i-th action of that order; -1 stands for none.
 */
export interface CompiledSchedule {
  readonly table: ScheduleTable;
  /** Number of actions: 2 x stages x micro-batches. */
  readonly length: number;
  readonly rank: Int32Array;
  readonly stage: Int32Array;
  readonly microBatch: Int32Array;
  /** 0 for a forward, 1 for a backward. */
  readonly backward: Uint8Array;
  /** Position of the action before on the same rank. */
  readonly previousOnRank: Int32Array;
  /** Position of the action whose output this one needs and that the rank's own order does not imply. */
  readonly input: Int32Array;
  /** Boundary that the input crosses between two ranks (i joins stages i and i + 1). */
  readonly boundary: Int32Array;
  /** Most micro-batches that a rank holds between their forward and their backward, over its stages. */
  readonly peakMicroBatches: Int32Array;
}

/**
 * Orders a schedule's actions so that all waiting points backwards. A forward waits for the forward of the
 * stage before, a backward for the backward of the stage behind; each rank keeps its own order.
 * @throws MpoptError E_PLAN_INVALID where the table breaks `checkActions`, or where ranks wait in a circle.
 */
export function compileSchedule(table: ScheduleTable): CompiledSchedule {
  const findings = checkActions(table);
  if (findings.length) throw new MpoptError("E_PLAN_INVALID", findings[0]!, findings.slice(1));

  const { stages, microBatches, ranks } = table;
  const length = 2 * stages * microBatches;
  const rank = new Int32Array(length);
  const stage = new Int32Array(length);
  const microBatch = new Int32Array(length);
  const backward = new Uint8Array(length);
  const previousOnRank = new Int32Array(length);
  const input = new Int32Array(length);
  const boundary = new Int32Array(length);
  const peakMicroBatches = new Int32Array(ranks.length);

  const rankOfStage = new Int32Array(stages);
  ranks.forEach((actions, r) => {
    for (const action of actions) rankOfStage[action.stage] = r;
  });

  const slots = stages * microBatches;
  // By action (direction x stage x micro-batch): its position, and the rank that sleeps until it is placed.
  const positionOf = new Int32Array(length).fill(-1);
  const sleeper = new Int32Array(length).fill(-1);
  const cursor = new Int32Array(ranks.length);
  const last = new Int32Array(ranks.length).fill(-1);
  const inFlight = new Int32Array(ranks.length);
  const awake: number[] = [];
  for (let r = ranks.length - 1; r >= 0; r--) awake.push(r);

  let placed = 0;
  while (awake.length) {
    const r = awake.pop()!;
    const actions = ranks[r]!;
    while (cursor[r]! < actions.length) {
      const action = actions[cursor[r]!]!;
      const isBackward = action.kind === "backward" ? 1 : 0;
      const code = isBackward * slots + action.stage * microBatches + action.microBatch;
      const neighbour = isBackward ? action.stage + 1 : action.stage - 1;
      const needed =
        neighbour < 0 || neighbour >= stages
          ? -1
          : isBackward * slots + neighbour * microBatches + action.microBatch;
      if (needed !== -1 && positionOf[needed] === -1) {
        sleeper[needed] = r;
        break;
      }
      rank[placed] = r;
      stage[placed] = action.stage;
      microBatch[placed] = action.microBatch;
      backward[placed] = isBackward;
      previousOnRank[placed] = last[r]!;
      input[placed] = needed === -1 ? -1 : positionOf[needed]!;
      boundary[placed] =
        needed === -1 || rankOfStage[neighbour] === r ? -1 : Math.min(neighbour, action.stage);
      positionOf[code] = placed;
      last[r] = placed++;
      inFlight[r] = inFlight[r]! + (isBackward ? -1 : 1);
      peakMicroBatches[r] = Math.max(peakMicroBatches[r]!, inFlight[r]!);
      cursor[r] = cursor[r]! + 1;
      const woken = sleeper[code]!;
      if (woken !== -1) awake.push(woken);
    }
  }

  if (placed < length) {
    const stuck = ranks
      .map((actions, r) => ({ r, action: actions[cursor[r]!] }))
      .filter(({ action }) => action !== undefined)
      .map(
        ({ r, action }) =>
          `Rank ${r} waits before the ${action!.kind} of micro-batch ${action!.microBatch} at stage ${action!.stage}.`,
      );
    throw new MpoptError(
      "E_PLAN_INVALID",
      `Expected the schedule "${table.name}" to finish but found ranks that wait for each other.`,
      stuck.slice(0, 8),
    );
  }
  return {
    table,
    length,
    rank,
    stage,
    microBatch,
    backward,
    previousOnRank,
    input,
    boundary,
    peakMicroBatches,
  };
}
