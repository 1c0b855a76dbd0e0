import { MpoptError } from "../../contracts/index.js";
import type { Action, ScheduleTable } from "../actions.js";
import { backwardKind, type FlatSchedule, forwardKind, weightKind } from "./problem.js";
import { emptyOrders, type Orders } from "./timing.js";

/** The table of some orders. */
export function tableOfOrders(
  flat: FlatSchedule,
  { start, operations }: Orders,
  name: string,
): ScheduleTable {
  const { microBatches, kinds, ranks, stages } = flat;
  const lists = Array.from({ length: ranks }, (_, r) =>
    Array.from(operations.subarray(start[r]!, start[r + 1]!), (op): Action => {
      const chain = Math.floor(op / microBatches);
      const kind = chain % kinds;
      return {
        kind:
          kind === forwardKind
            ? "forward"
            : kind === weightKind
              ? "backward-weight"
              : kinds === 3
                ? "backward-input"
                : "backward",
        stage: Math.floor(chain / kinds),
        microBatch: op % microBatches,
      };
    }),
  );
  return { name, stages, microBatches, ranks: lists };
}

/**
 * The orders of a table with the problem's stages on the problem's ranks. The k-th action of a chain becomes
 * that of micro-batch k. A whole backward counts as both halves in a row where the backward is split; halves
 * count as a whole backward at the first one's place where it is not.
 * @throws MpoptError E_USAGE for a table of other stages, ranks or micro-batches, or one that lacks actions.
 */
export function ordersOfTable(flat: FlatSchedule, table: ScheduleTable): Orders {
  const { microBatches: m, kinds, ranks, stages, rankOf } = flat;
  const refuse = (what: string): never => {
    throw new MpoptError("E_USAGE", `Expected a schedule of the problem's stages but found that ${what}.`);
  };
  if (table.stages !== stages) refuse(`"${table.name}" has ${table.stages} stages, not ${stages}`);
  if (table.microBatches !== m) refuse(`"${table.name}" has ${table.microBatches} micro-batches, not ${m}`);
  if (table.ranks.length !== ranks) refuse(`"${table.name}" has ${table.ranks.length} ranks, not ${ranks}`);
  if (table.routes && table.routes.length > 1) refuse(`"${table.name}" has several routes`);
  const orders = emptyOrders(flat);
  const done = new Int32Array(flat.chains);
  table.ranks.forEach((actions, r) => {
    let at = orders.start[r]!;
    const add = (chain: number) => {
      if (rankOf[chain] !== r) refuse(`"${table.name}" has stage ${Math.floor(chain / kinds)} on rank ${r}`);
      if (done[chain] === m || at >= orders.start[r + 1]!) refuse(`"${table.name}" repeats an action`);
      orders.operations[at++] = chain * m + done[chain]!;
      done[chain] = done[chain]! + 1;
    };
    for (const { kind, stage } of actions) {
      if (kind === "forward") add(stage * kinds + forwardKind);
      else if (kind === "backward" || kind === "backward-input") {
        add(stage * kinds + backwardKind);
        if (kind === "backward" && kinds === 3) add(stage * kinds + weightKind);
      } else if (kind === "backward-weight" && kinds === 3) add(stage * kinds + weightKind);
    }
    if (at !== orders.start[r + 1]!) refuse(`"${table.name}" lacks actions on rank ${r}`);
  });
  return orders;
}
