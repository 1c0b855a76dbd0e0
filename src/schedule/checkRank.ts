import type { Action, ActionKind, ScheduleTable } from "./actions.js";
import { describeAction, isCompute, peakInFlight, routesOf, type StageLinks } from "./routes.js";

type Report = (sentence: string) => void;

/** What a rank may hold. A number stands for every rank, a list has one entry a rank. */
export interface MemoryLimit {
  limitBytes: number | ArrayLike<number>;
  /** Held throughout: parameters, gradients, optimizer states. 0 by default. */
  fixedBytes?: number | ArrayLike<number>;
  /** Bytes of one micro-batch's activation, one entry a stage; held from the forward to the backward. */
  activationBytes: ArrayLike<number>;
  /**
   * Bytes that stay between the two halves of a backward, one entry a stage (M_W of Qi et al., ICLR 2024, section
   * 2). By default the whole activation.
   */
  betweenHalvesBytes?: ArrayLike<number>;
}

export interface CheckOptions {
  /** Most stage activations that a rank may hold at once, as `peakInFlight` counts them. */
  limitMicroBatches?: number | ArrayLike<number>;
  memory?: MemoryLimit;
}

/** An overlapped action has a partner behind it that does not need it. */
export function checkOverlaps(actions: Action[], rank: number, links: StageLinks, report: Report): void {
  for (let i = 0; i < actions.length; i++) {
    const first = actions[i]!;
    if (!first.overlapped) continue;
    const second = actions[i + 1];
    const place = `the ${describeAction(first)} (rank ${rank}, action ${i})`;
    if (!second || !isCompute(first) || !isCompute(second) || second.overlapped) {
      report(`Expected two forwards or backwards to overlap but found ${place} before something else.`);
      continue;
    }
    const sameStage = first.stage === second.stage;
    const linked = links.before[first.stage] === second.stage || links.after[first.stage] === second.stage;
    // The order on the rank was checked, so that a pair on linked stages can only be one that depends.
    const sameWay = (first.kind === "forward") === (second.kind === "forward");
    const weightHalf = first.kind === "backward-weight" || second.kind === "backward-weight";
    if (first.microBatch === second.microBatch && (sameStage || (linked && sameWay && !weightHalf))) {
      report(`Expected overlapped actions not to need each other but found ${place} and the one behind it.`);
    }
  }
}

/**
 * Gathered parameters around the work; gradients reduced and weights updated after the last of it. A table that
 * does one of these for some stage does it for all.
 * @param kinds that the table holds.
 */
export function checkWholeStages(
  actions: Action[],
  rank: number,
  table: ScheduleTable,
  kinds: ReadonlySet<ActionKind>,
  report: Report,
): void {
  const own = new Set<number>();
  for (const { stage } of actions) own.add(stage);
  const stagesWith = (kind: ActionKind): ReadonlySet<number> => (kinds.has(kind) ? own : new Set());
  const gathers = stagesWith("all-gather");
  const reduces = stagesWith("reduce");
  const updates = stagesWith("optimizer");
  const gathered = new Set<number>();
  // Weight gradients that no reduction or update has taken in yet, by stage.
  const unreduced = new Map<number, number>();
  const unapplied = new Map<number, number>();
  const backwards = new Map<number, number>();
  const routes = routesOf(table);

  for (let i = 0; i < actions.length; i++) {
    const action = actions[i]!;
    const { kind, stage } = action;
    const found = () => `found the ${describeAction(action)} (rank ${rank}, action ${i})`;
    if (kind === "all-gather") {
      if (gathered.has(stage)) report(`Expected sharded parameters before a gather but ${found()}.`);
      gathered.add(stage);
    } else if (kind === "reshard") {
      if (!gathered.delete(stage)) report(`Expected gathered parameters before a reshard but ${found()}.`);
    } else if (kind === "reduce") {
      if (!unreduced.get(stage)) report(`Expected gradients to reduce but ${found()}.`);
      unreduced.set(stage, 0);
    } else if (kind === "optimizer") {
      if (!unapplied.get(stage)) report(`Expected gradients to apply but ${found()}.`);
      if (reduces.has(stage) && unreduced.get(stage)) report(`Expected reduced gradients but ${found()}.`);
      const all = routes.find((route) => route.stages.includes(stage))!.microBatches.length;
      if (!table.weightVersions && backwards.get(stage) !== all) {
        report(`Expected all ${all} backwards of stage ${stage} before its update but ${found()}.`);
      }
      unapplied.set(stage, 0);
    } else if (isCompute(action)) {
      if (gathers.has(stage) && !gathered.has(stage)) report(`Expected gathered parameters but ${found()}.`);
      if (kind === "backward" || kind === "backward-weight") {
        for (const counts of [unreduced, unapplied, backwards])
          counts.set(stage, (counts.get(stage) ?? 0) + 1);
      }
    }
  }
  for (const [stages, counts, what] of [
    [reduces, unreduced, "a reduction"],
    [updates, unapplied, "an update"],
  ] as const) {
    for (const stage of stages) {
      if (counts.get(stage)) {
        report(`Expected ${what} after the last backward of stage ${stage} on rank ${rank} but found none.`);
      }
    }
  }
}

export function checkLimits(table: ScheduleTable, options: CheckOptions, report: Report): void {
  const { limitMicroBatches, memory } = options;
  const ofRank = (value: number | ArrayLike<number>, rank: number) =>
    typeof value === "number" ? value : value[rank]!;
  if (limitMicroBatches !== undefined) {
    peakInFlight(table).forEach((peak, rank) => {
      const limit = ofRank(limitMicroBatches, rank);
      if (peak > limit)
        report(`Expected at most ${limit} micro-batches in flight on rank ${rank} but found ${peak}.`);
    });
  }
  if (!memory) return;
  table.ranks.forEach((actions, rank) => {
    const limit = ofRank(memory.limitBytes, rank);
    let held = ofRank(memory.fixedBytes ?? 0, rank);
    let over: { bytes: number; action: Action; at: number } | undefined;
    actions.forEach((action, at) => {
      const whole = memory.activationBytes[action.stage]!;
      const rest = memory.betweenHalvesBytes?.[action.stage] ?? whole;
      if (action.kind === "forward") held += whole;
      else if (action.kind === "backward") held -= whole;
      else if (action.kind === "backward-input") held += rest - whole;
      else if (action.kind === "backward-weight") held -= rest;
      if (held > limit && held > (over?.bytes ?? 0)) over = { bytes: held, action, at };
    });
    if (over) {
      report(
        `Expected at most ${limit} bytes on rank ${rank} but found ${over.bytes} at the ${describeAction(over.action)} (action ${over.at}).`,
      );
    }
  });
}
