import { MpoptError } from "../contracts/index.js";
import type { Action, ScheduleTable } from "./actions.js";
import { checkDeadlock, transferOf } from "./deadlock.js";
import { isCompute, stageLinks } from "./routes.js";

/**
 * Adds the sends and receives that a table leaves to the runtime. A send follows its action at once; its receive
 * goes to the end of what the other rank has been given so far, with the ranks taking turns, one action each. All
 * pairs thus follow one common order, and no rank can wait in a circle even where sends block. PyTorch lowers its
 * schedules in the same way (`_add_send_recv` of torch.distributed.pipelining.schedules).
 * @throws MpoptError E_PLAN_INVALID for a table that breaks `checkActions` or deadlocks, E_USAGE for one that has
 * transfers already.
 */
export function addTransfers(table: ScheduleTable): ScheduleTable {
  requireSound(table);
  if (table.ranks.some((actions) => actions.some(({ kind }) => kind === "send" || kind === "receive"))) {
    throw new MpoptError(
      "E_USAGE",
      `Expected the schedule "${table.name}" without transfers but found some.`,
    );
  }
  const links = stageLinks(table);
  const { microBatches } = table;
  const ranks: Action[][] = table.ranks.map(() => []);
  const next = table.ranks.map(() => 0);
  // Outputs that have reached their next stage, by payload, stage and micro-batch.
  const arrived = {
    activation: new Uint8Array(table.stages * microBatches),
    gradient: new Uint8Array(table.stages * microBatches),
  };
  let left = table.ranks.reduce((sum, actions) => sum + actions.length, 0);
  while (left > 0) {
    table.ranks.forEach((actions, rank) => {
      const at = next[rank]!;
      if (at === actions.length) return;
      const step = actions.slice(at, at + (actions[at]!.overlapped ? 2 : 1));
      const ready = step.every((action) => {
        const { input, payload } = transferOf(action, links);
        return input === -1 || arrived[payload][action.stage * microBatches + action.microBatch];
      });
      if (!ready) return;
      ranks[rank]!.push(...step);
      for (const action of step) {
        const { stage, microBatch } = action;
        const { output, payload } = transferOf(action, links);
        if (output === -1) continue;
        ranks[rank]!.push({ kind: "send", stage, microBatch, payload });
        ranks[links.rank[output]!]!.push({ kind: "receive", stage: output, microBatch, payload });
        arrived[payload][output * microBatches + microBatch] = 1;
      }
      next[rank] = at + step.length;
      left -= step.length;
    });
  }
  return { ...table, ranks };
}

/**
 * Adds the gathers of a sharded stage's parameters (FSDP) and the reduction of its gradients: each rank keeps the
 * `activeStages` stages that it works on next gathered, gives up the others, and reduces a stage's gradients
 * after its last backward. PyTorch's runtime does the same with 3 (`_add_unshard_reshard`, `_add_reduce_grad`):
 * one forward, one backward, one fetched ahead.
 * @param table forwards and backwards alone; add transfers afterwards.
 * @throws MpoptError E_PLAN_INVALID for a table that breaks `checkActions` or deadlocks, E_USAGE for
 * `activeStages` below 1 and for a table with other actions.
 */
export function addSharding(table: ScheduleTable, activeStages = 3): ScheduleTable {
  requireSound(table);
  if (!Number.isInteger(activeStages) || activeStages < 1) {
    throw new MpoptError("E_USAGE", `Expected at least 1 for the active stages but found ${activeStages}.`);
  }
  const ranks = table.ranks.map((actions) => {
    const other = actions.find((action) => !isCompute(action));
    if (other) {
      throw new MpoptError(
        "E_USAGE",
        `Expected the schedule "${table.name}" with forwards and backwards alone but found "${other.kind}".`,
      );
    }
    const lastBackward = new Map<number, number>();
    actions.forEach(({ kind, stage }, i) => {
      if (kind === "backward" || kind === "backward-weight") lastBackward.set(stage, i);
    });
    const upcoming = upcomingStages(actions, activeStages);
    const gathered: number[] = [];
    const result: Action[] = [];
    for (let i = 0; i < actions.length; ) {
      const step = actions.slice(i, i + (actions[i]!.overlapped ? 2 : 1));
      const wanted = upcoming(i);
      for (const stage of gathered.filter((each) => !wanted.includes(each)).sort((a, b) => a - b)) {
        gathered.splice(gathered.indexOf(stage), 1);
        result.push({ kind: "reshard", stage, microBatch: -1 });
      }
      for (const stage of wanted) {
        if (gathered.includes(stage)) continue;
        gathered.push(stage);
        result.push({ kind: "all-gather", stage, microBatch: -1 });
      }
      result.push(...step);
      step.forEach(({ stage }, k) => {
        if (lastBackward.get(stage) === i + k) result.push({ kind: "reduce", stage, microBatch: -1 });
      });
      i += step.length;
    }
    for (const stage of gathered.sort((a, b) => a - b)) {
      result.push({ kind: "reshard", stage, microBatch: -1 });
    }
    return result;
  });
  return { ...table, ranks };
}

/**
 * Gives, for positions that grow from call to call, the next `count` different stages from there on; an overlapped
 * pair is never split.
 */
function upcomingStages(actions: Action[], count: number): (from: number) => number[] {
  const places = new Map<number, { list: number[]; next: number }>();
  actions.forEach(({ stage }, i) => {
    const place = places.get(stage);
    if (place) place.list.push(i);
    else places.set(stage, { list: [i], next: 0 });
  });
  return (from) => {
    const ahead: { stage: number; at: number }[] = [];
    for (const [stage, place] of places) {
      while (place.next < place.list.length && place.list[place.next]! < from) place.next++;
      if (place.next < place.list.length) ahead.push({ stage, at: place.list[place.next]! });
    }
    ahead.sort((a, b) => a.at - b.at);
    const last = ahead[count - 1];
    const pair = last && actions[last.at]!.overlapped && ahead[count]?.at === last.at + 1;
    return ahead.slice(0, pair ? count + 1 : count).map(({ stage }) => stage);
  };
}

function requireSound(table: ScheduleTable): void {
  const [first, ...others] = checkDeadlock(table);
  if (first !== undefined) throw new MpoptError("E_PLAN_INVALID", first, others);
}
