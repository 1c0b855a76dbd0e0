import { MpoptError } from "../contracts/index.js";
import type { Action, ActionKind, ScheduleTable } from "./actions.js";
import { checkActions } from "./check.js";
import { CollectiveOrder, type Collectives } from "./collectives.js";
import { describeAction, stageLinks } from "./routes.js";
import { type Boundary, boundariesOf, TransferOrder, type Transfers } from "./transfers.js";

/** Kinds by their code: the ones up to `lastComputeKind` occupy the rank's compute stream. */
export const kindNames: readonly ActionKind[] = [
  "forward",
  "backward",
  "backward-input",
  "backward-weight",
  "optimizer",
  "send",
  "receive",
  "all-gather",
  "reduce",
  "reshard",
];
export const kindCodes = Object.fromEntries(kindNames.map((name, code) => [name, code])) as Readonly<
  Record<ActionKind, number>
>;
export const lastComputeKind = 4;

const {
  forward,
  "backward-weight": backwardWeight,
  optimizer,
  send,
  receive,
  "all-gather": gather,
  reduce,
} = kindCodes;

export interface CompileOptions {
  /**
   * `posted` (default): a send or receive is handed to the network and its rank goes on, as with isend and
   * irecv; the transfer starts when both ranks have come to it, because PyTorch's NCCL streams wait for what was
   * queued before on the compute stream. `blocking`: both ranks stand still from their own action until the
   * transfer has arrived.
   */
  sends?: "posted" | "blocking";
  /** The table is known to pass `checkActions`, which is then left out. */
  checked?: boolean;
}

/**
 * A schedule made ready for timing: all actions in one order in which every action follows what it waits
 * for. One pass over the arrays then gives all times, so that one schedule can be timed again and again.
 * Position i is the i-th action of that order; -1 stands for none.
 */
export interface CompiledSchedule {
  readonly table: ScheduleTable;
  /** Number of actions. */
  readonly length: number;
  /** Code in `kindNames`. */
  readonly kind: Uint8Array;
  readonly rank: Int32Array;
  readonly stage: Int32Array;
  readonly microBatch: Int32Array;
  /** Position of the last action before on the same rank that occupies it: computes, or a blocking transfer. */
  readonly previousOnRank: Int32Array;
  /**
   * Position whose end lets this action's input start on its way: the action of the stage before (behind, for a
   * backward), or the send of its output where the table has sends. Where sends block, that of the receive.
   */
  readonly input: Int32Array;
  /** Position of the posted receive of the input. */
  readonly posted: Int32Array;
  /** Index into `boundaries` of the edge that the input crosses between two ranks; of a blocking transfer's too. */
  readonly boundary: Int32Array;
  /** The other half of an overlapped pair, or of a blocking send and receive; always a neighbour in the order. */
  readonly partner: Int32Array;
  /** Index into `transfers` of the input. */
  readonly transfer: Int32Array;
  /** Index into `transfers` of what the action hands over: a compute action's output, a send or a receive. */
  readonly output: Int32Array;
  /** Index into `collectives`: the one that a gather or reduce is part of, or that a compute action waits for. */
  readonly collective: Int32Array;
  /** 1 for the action with which a rank has come to a collective: its last one for that collective. */
  readonly entersQueue: Uint8Array;
  /** Transfers in an order in which each follows the one before on its connection. */
  readonly transfers: Transfers;
  readonly collectives: Collectives;
  /** Neighbouring stages along the routes; entry i joins stages i and i + 1 where there is one route. */
  readonly boundaries: readonly Boundary[];
  readonly rankOfStage: Int32Array;
  /** Positions of each rank, in its own order. */
  readonly positionsOfRank: readonly Int32Array[];
  /** Most micro-batches, summed over its stages, that a rank holds from forward to backward (or -weight). */
  readonly peakMicroBatches: Int32Array;
  /** Only compute actions, none overlapped: what the shortest loop can time. */
  readonly plain: boolean;
  readonly blockingSends: boolean;
}

/**
 * Orders a schedule's actions so that all waiting points backwards. A forward waits for the forward of the
 * stage before on its micro-batch's route, a backward or backward-input for that of the stage behind; sends
 * wait for their output, all other waiting is as `CompileOptions`, `Transfers` and `Collectives` say; each rank
 * keeps its own order.
 * @throws MpoptError E_PLAN_INVALID where the table breaks `checkActions`, or where ranks wait in a circle.
 */
export function compileSchedule(table: ScheduleTable, options: CompileOptions = {}): CompiledSchedule {
  const findings = options.checked ? [] : checkActions(table);
  if (findings.length) throw new MpoptError("E_PLAN_INVALID", findings[0]!, findings.slice(1));

  const { stages, microBatches, ranks } = table;
  const blockingSends = options.sends === "blocking";
  const length = ranks.reduce((sum, actions) => sum + actions.length, 0);
  const kind = new Uint8Array(length);
  const none = () => new Int32Array(length).fill(-1);
  const [rank, stage, microBatch, previousOnRank, input] = [none(), none(), none(), none(), none()];
  const [posted, boundary, partner, transfer, collective] = [none(), none(), none(), none(), none()];

  const links = stageLinks(table);
  const { rank: rankOfStage, before, after } = links;
  const slots = stages * microBatches;
  /** Number of what a forward (direction 0) or backward of a micro-batch at a stage does. */
  const keyOf = (direction: number, s: number, m: number) => direction * slots + s * microBatches + m;
  const positionOf = new Int32Array(2 * slots).fill(-1);
  const explicit = ranks.some((actions) => actions.some(({ kind: name }) => name === "send"));
  const transfers = new TransferOrder(table, links, explicit);
  const collectives = new CollectiveOrder(table);
  const cursor = new Int32Array(ranks.length);
  const last = new Int32Array(ranks.length).fill(-1);
  const positionsOfRank = ranks.map((actions) => new Int32Array(actions.length));
  const awake: number[] = [];
  const isAwake = new Uint8Array(ranks.length);
  const wake = (r: number) => {
    if (!isAwake[r]) {
      isAwake[r] = 1;
      awake.push(r);
    }
  };
  let placed = 0;
  let plain = true;

  /** Whether all that a compute action waits for, beside its own rank, is in order already. */
  const isReady = (r: number, { kind: name, stage: s, microBatch: m }: Action): boolean => {
    const code = kindCodes[name];
    if (code === optimizer) return collectives.isDone(collectives.lastReduceOf(s));
    if (!collectives.isDone(collectives.lastGatherOf(s))) return false;
    if (code === backwardWeight) return positionOf[keyOf(1, s, m)] !== -1;
    const direction = code === forward ? 0 : 1;
    if (direction && positionOf[keyOf(0, s, m)] === -1) return false;
    const neighbour = direction ? after[s]! : before[s]!;
    if (neighbour === -1) return true;
    if (rankOfStage[neighbour] === r) return positionOf[keyOf(direction, neighbour, m)] !== -1;
    return transfers.isDelivered(keyOf(direction, s, m));
  };

  const put = (r: number, action: Action): number => {
    const i = placed++;
    const code = kindCodes[action.kind];
    kind[i] = code;
    rank[i] = r;
    stage[i] = action.stage;
    microBatch[i] = action.microBatch;
    previousOnRank[i] = last[r]!;
    positionsOfRank[r]![cursor[r]!] = i;
    cursor[r] = cursor[r]! + 1;
    if (code > lastComputeKind || action.overlapped) plain = false;
    return i;
  };

  /** Puts one compute action in order, with what it waits for. */
  const placeCompute = (r: number, action: Action): number => {
    const i = put(r, action);
    const { stage: s, microBatch: m } = action;
    const code = kind[i]!;
    collective[i] = code === optimizer ? collectives.lastReduceOf(s) : collectives.lastGatherOf(s);
    if (code === optimizer || code === backwardWeight) return i;
    const direction = code === forward ? 0 : 1;
    positionOf[keyOf(direction, s, m)] = i;
    const from = direction ? after[s]! : before[s]!;
    if (from === -1) return i;
    if (rankOfStage[from] === r) {
      input[i] = positionOf[keyOf(direction, from, m)]!;
      return i;
    }
    const key = keyOf(direction, s, m);
    transfer[i] = transfers.indexOf(key);
    if (blockingSends && explicit) {
      input[i] = transfers.receiveOf(key);
      return i;
    }
    input[i] = transfers.producerOf(key);
    posted[i] = transfers.receiveOf(key);
    boundary[i] = transfers.boundaryOf(key);
    return i;
  };

  /** Starts the output of a placed action on its way where the table leaves that to the runtime. */
  const release = (r: number, i: number): void => {
    const s = stage[i]!;
    const code = kind[i]!;
    if (explicit || code === optimizer || code === backwardWeight) return;
    const direction = code === forward ? 0 : 1;
    const to = direction ? before[s]! : after[s]!;
    if (to === -1 || rankOfStage[to] === r) return;
    const key = keyOf(direction, to, microBatch[i]!);
    transfers.send(key, i);
    if (transfers.deliver(key)) wake(rankOfStage[to]!);
  };

  /** The two halves of a blocking transfer that ranks have come to, by key. */
  const atSend = new Set<number>();
  const atReceive = new Set<number>();
  const placeMove = (r: number, action: Action): boolean => {
    const { stage: s, microBatch: m } = action;
    const isSend = action.kind === "send";
    const direction = action.payload === "gradient" ? 1 : 0;
    const other = isSend === (direction === 0) ? after[s]! : before[s]!;
    const [from, to] = isSend ? [s, other] : [other, s];
    if (isSend && positionOf[keyOf(direction, from, m)] === -1) return false;
    const key = keyOf(direction, to, m);
    const source = rankOfStage[from]!;
    const target = rankOfStage[to]!;
    if (!blockingSends) {
      const i = put(r, action);
      if (isSend) transfers.send(key, i);
      else transfers.receive(key, i);
      if (transfers.deliver(key)) wake(target);
      return true;
    }
    (isSend ? atSend : atReceive).add(key);
    if (!atSend.has(key) || !atReceive.has(key)) return false;
    const i = put(source, ranks[source]![cursor[source]!]!);
    const j = put(target, ranks[target]![cursor[target]!]!);
    partner[i] = j;
    partner[j] = i;
    last[source] = i;
    last[target] = j;
    boundary[i] = boundary[j] = transfers.boundaryOf(key);
    transfers.receive(key, j);
    transfers.send(key, i);
    transfers.deliver(key);
    wake(source);
    wake(target);
    return true;
  };

  const placeNext = (r: number): boolean => {
    const actions = ranks[r]!;
    const action = actions[cursor[r]!]!;
    const code = kindCodes[action.kind];
    if (code <= lastComputeKind) {
      if (!isReady(r, action)) return false;
      if (!action.overlapped) {
        last[r] = placeCompute(r, action);
        release(r, last[r]!);
        return true;
      }
      const other = actions[cursor[r]! + 1]!;
      if (!isReady(r, other)) return false;
      const i = placeCompute(r, action);
      const j = placeCompute(r, other);
      partner[i] = j;
      partner[j] = i;
      release(r, i);
      release(r, j);
      last[r] = j;
      return true;
    }
    if (code === send || code === receive) return placeMove(r, action);
    const i = put(r, action);
    if (code === gather || code === reduce) {
      collective[i] = collectives.issue(r, action, i);
      for (const awoken of collectives.settle(r)) if (awoken !== r) wake(awoken);
    }
    return true;
  };

  for (let r = ranks.length - 1; r >= 0; r--) wake(r);
  while (awake.length) {
    const r = awake.pop()!;
    isAwake[r] = 0;
    while (cursor[r]! < ranks[r]!.length && placeNext(r)) {}
  }
  if (placed < length) throw circle(table, cursor);

  const moves = transfers.result();
  const output = none();
  for (let t = 0; t < moves.length; t++) {
    output[moves.producer[t]!] = t;
    if (moves.posted[t] !== -1) output[moves.posted[t]!] = t;
  }
  const joined = collectives.result();
  const entersQueue = new Uint8Array(length);
  for (const positions of joined.positions) {
    const lastOf = new Map(positions.map((i) => [rank[i], i]));
    for (const i of lastOf.values()) entersQueue[i] = 1;
  }
  const compiled = {
    ...{ table, length, kind, rank, stage, microBatch, previousOnRank, input, posted, boundary, partner },
    ...{ transfer, output, collective, entersQueue, rankOfStage, positionsOfRank, plain, blockingSends },
    transfers: moves,
    collectives: joined,
    boundaries: boundariesOf(table),
  };
  const peakMicroBatches = Int32Array.from(peakMicroBatchesOf(compiled));
  return { ...compiled, peakMicroBatches };
}

/**
 * Most micro-batches in flight on each rank, summed over its stages. A micro-batch counts as 1 from its forward
 * to its backward; where that is split, as 1 - `freedAtInput` after its backward-input, and not at all after its
 * backward-weight. The halves of an overlapped pair count both.
 */
export function peakMicroBatchesOf(
  compiled: Pick<CompiledSchedule, "kind" | "partner" | "positionsOfRank">,
  freedAtInput = 0,
): number[] {
  const { kind, partner, positionsOfRank } = compiled;
  // What each kind takes at its start and gives back at its end.
  const takes = [1, 0, 0, 0];
  const gives = [0, 1, freedAtInput, 1 - freedAtInput];
  return positionsOfRank.map((positions) => {
    let held = 0;
    let peak = 0;
    let owed = 0;
    for (const i of positions) {
      const code = kind[i]!;
      if (code > backwardWeight) continue;
      held += takes[code]!;
      if (held > peak) peak = held;
      owed += gives[code]!;
      if (partner[i] === i + 1) continue;
      held -= owed;
      owed = 0;
    }
    return peak;
  });
}

function circle(table: ScheduleTable, cursor: Int32Array): MpoptError {
  const stuck: string[] = [];
  table.ranks.forEach((actions, r) => {
    const action = actions[cursor[r]!];
    if (!action) return;
    stuck.push(`Rank ${r} waits before the ${describeAction(action)}.`);
  });
  return new MpoptError(
    "E_PLAN_INVALID",
    `Expected the schedule "${table.name}" to finish but found ranks that wait for each other.`,
    stuck.slice(0, 8),
  );
}
