import type { Action, ComputeKind, Route, ScheduleTable } from "./actions.js";

/** Where each stage lives and which stages its data comes from and goes to; -1 for none. One entry a stage. */
export interface StageLinks {
  /** Rank that runs the stage; -1 where the table never names it. */
  rank: Int32Array;
  /** Stage whose forward comes before on the route. */
  before: Int32Array;
  /** Stage whose forward comes behind on the route. */
  after: Int32Array;
  /** Index of the stage's route. */
  route: Int32Array;
}

/** The table's routes; by default one, from stage 0 to the last, for every micro-batch. */
export function routesOf(table: ScheduleTable): Route[] {
  return (
    table.routes ?? [
      {
        stages: Array.from({ length: table.stages }, (_, stage) => stage),
        microBatches: Array.from({ length: table.microBatches }, (_, microBatch) => microBatch),
      },
    ]
  );
}

/** Links of a table's stages. Expects routes that `checkActions` accepts. */
export function stageLinks(table: ScheduleTable): StageLinks {
  const links: StageLinks = {
    rank: new Int32Array(table.stages).fill(-1),
    before: new Int32Array(table.stages).fill(-1),
    after: new Int32Array(table.stages).fill(-1),
    route: new Int32Array(table.stages).fill(-1),
  };
  table.ranks.forEach((actions, rank) => {
    for (const { stage } of actions) {
      if (links.rank[stage] === -1) links.rank[stage] = rank;
    }
  });
  routesOf(table).forEach(({ stages }, route) => {
    stages.forEach((stage, i) => {
      links.before[stage] = i > 0 ? stages[i - 1]! : -1;
      links.after[stage] = i + 1 < stages.length ? stages[i + 1]! : -1;
      links.route[stage] = route;
    });
  });
  return links;
}

/** Whether the action works on one micro-batch rather than moving data or parameters. */
export function isCompute(action: Action): action is Action & { kind: ComputeKind } {
  const { kind } = action;
  return kind === "forward" || kind === "backward" || kind === "backward-input" || kind === "backward-weight";
}

/** The sentence part that names an action: "forward of micro-batch 3 at stage 1". */
export function describeAction({ kind, stage, microBatch, payload }: Action): string {
  const what = payload === undefined ? kind : `${kind} of the ${payload}`;
  return microBatch === -1
    ? `${what} of stage ${stage}`
    : `${what} of micro-batch ${microBatch} at stage ${stage}`;
}

/**
 * Most stage activations that each rank holds at once, one a micro-batch and stage: taken by the forward, given
 * back by the backward, or by its weight half where it is split, because that half still needs the activation.
 */
export function peakInFlight(table: ScheduleTable): number[] {
  return table.ranks.map((actions) => {
    let held = 0;
    let peak = 0;
    for (const { kind } of actions) {
      if (kind === "forward") held++;
      else if (kind === "backward" || kind === "backward-weight") held--;
      if (held > peak) peak = held;
    }
    return peak;
  });
}
