import { MpoptError } from "../contracts/index.js";
import type { Action, ScheduleTable } from "./actions.js";

export interface UpdateOptions {
  /**
   * When a stage's gradients are reduced: once, after its last backward (`step`, data parallel and ZeRO-1), or after
   * each backward (`backward`, as ZeRO-2 and -3 must, which keep no whole gradients between micro-batches;
   * Rajbhandari et al., SC'20, section 5). Ignored where the table has reductions.
   */
  reduce?: "step" | "backward";
  /**
   * Gather each stage's parameters once a step, ahead of its first forward: ZeRO-1 and -2, whose optimizer updates
   * shards, with the gather beside the forwards of the next step (Megatron's `--overlap-param-gather`).
   */
  gather?: boolean;
  /** Add the optimizer step of each stage; true by default. */
  optimizer?: boolean;
}

/**
 * Adds what ends a step to a table: reductions as early as the backwards allow, and the optimizer step of each stage
 * behind the rank's last backward, in the order of its reductions. For ZeRO-3, call `addSharding` first.
 * @throws MpoptError E_USAGE where the table has optimizer steps, or gathers and `gather` asks for more.
 */
export function addUpdates(table: ScheduleTable, options: UpdateOptions = {}): ScheduleTable {
  const { reduce = "step", gather = false, optimizer = true } = options;
  const has = (kind: Action["kind"]) =>
    table.ranks.some((list) => list.some((action) => action.kind === kind));
  for (const [asked, kind] of [
    [optimizer, "optimizer"],
    [gather, "all-gather"],
  ] as const) {
    if (asked && has(kind)) {
      throw new MpoptError(
        "E_USAGE",
        `Expected the schedule "${table.name}" without ${kind} actions but found some.`,
      );
    }
  }
  const reduced = has("reduce");
  const ofStage = (kind: Action["kind"], stage: number): Action => ({ kind, stage, microBatch: -1 });
  const ranks = table.ranks.map((actions) => {
    const isEnd = ({ kind }: Action) => kind === "backward" || kind === "backward-weight";
    const last = new Map<number, number>();
    const used = new Set<number>();
    actions.forEach((action, i) => {
      used.add(action.stage);
      if (!isEnd(action)) return;
      last.delete(action.stage);
      last.set(action.stage, i);
    });
    const result: Action[] = gather ? [...used].map((stage) => ofStage("all-gather", stage)) : [];
    // Nothing may stand between the halves of an overlapped pair.
    let owed: number[] = [];
    actions.forEach((action, i) => {
      result.push(action);
      if (!reduced && isEnd(action) && (reduce === "backward" || last.get(action.stage) === i)) {
        owed.push(action.stage);
      }
      if (action.overlapped) return;
      result.push(...[...new Set(owed)].map((stage) => ofStage("reduce", stage)));
      owed = [];
    });
    if (optimizer) result.push(...[...last.keys()].map((stage) => ofStage("optimizer", stage)));
    return result;
  });
  return { ...table, ranks };
}
