import type { FlatSchedule } from "./problem.js";

/**
 * The orders of all ranks: rank r's operations lie at [start[r], start[r + 1]) of `operations`.
 * Any order in which each chain takes its micro-batches in turn.
 */
export interface Orders {
  readonly start: Int32Array;
  readonly operations: Int32Array;
}

export function emptyOrders(flat: FlatSchedule): Orders {
  const start = new Int32Array(flat.ranks + 1);
  for (let r = 0; r < flat.ranks; r++) {
    start[r + 1] = start[r]! + flat.chainsOfRank[r]!.length * flat.microBatches;
  }
  return { start, operations: new Int32Array(flat.operations) };
}

/**
 * Times orders again and again without allocating. `heads` are the earliest starts; `tails` the longest time
 * from an operation's end to the end of the step.
 */
export class Timing {
  readonly heads: Float64Array;
  readonly tails: Float64Array;
  /** Operations in an order in which all waiting points backwards. */
  readonly sorted: Int32Array;
  readonly rankNext: Int32Array;
  readonly #cursor: Int32Array;
  readonly #free: Float64Array;
  readonly #ends: Float64Array;
  readonly #sleeper: Int32Array;
  readonly #awake: Int32Array;
  /** By operation. */
  readonly chainOf: Int32Array;
  /** The job's predecessor and successor by operation, -1 for none; the successor is not the weight's. */
  readonly before: Int32Array;
  readonly after: Int32Array;
  readonly weightAfter: Int32Array;
  readonly seconds: Float64Array;
  readonly delay: Float64Array;
  /** Delay before the job's successor. */
  readonly delayAfter: Float64Array;

  constructor(readonly flat: FlatSchedule) {
    const { operations, chains, microBatches: m } = flat;
    this.heads = new Float64Array(operations);
    this.tails = new Float64Array(operations);
    this.sorted = new Int32Array(operations);
    this.rankNext = new Int32Array(operations);
    this.#ends = new Float64Array(operations);
    this.#sleeper = new Int32Array(operations);
    this.#cursor = new Int32Array(flat.ranks);
    this.#free = new Float64Array(flat.ranks);
    this.#awake = new Int32Array(flat.ranks + 1);
    this.chainOf = new Int32Array(operations);
    this.before = new Int32Array(operations).fill(-1);
    this.after = new Int32Array(operations).fill(-1);
    this.weightAfter = new Int32Array(operations).fill(-1);
    this.seconds = new Float64Array(operations);
    this.delay = new Float64Array(operations);
    this.delayAfter = new Float64Array(operations);
    for (let c = 0; c < chains; c++) {
      for (let k = 0; k < m; k++) {
        const op = c * m + k;
        this.chainOf[op] = c;
        this.seconds[op] = flat.seconds[c]!;
        this.delay[op] = flat.delay[c]!;
        if (flat.before[c] !== -1) this.before[op] = flat.before[c]! * m + k;
        if (flat.weightAfter[c] !== -1) this.weightAfter[op] = flat.weightAfter[c]! * m + k;
        if (flat.after[c] !== -1) {
          this.after[op] = flat.after[c]! * m + k;
          this.delayAfter[op] = flat.delay[flat.after[c]!]!;
        }
      }
    }
  }

  /** Fills heads and `sorted`; the end of the step, or infinity where the ranks wait in a circle. */
  forward({ start, operations }: Orders): number {
    const { heads, sorted, before, seconds, delay } = this;
    const { ranks } = this.flat;
    const cursor = this.#cursor;
    const free = this.#free;
    const ends = this.#ends.fill(-1);
    const sleeper = this.#sleeper.fill(-1);
    const awake = this.#awake;
    let waiting = 0;
    for (let r = ranks - 1; r >= 0; r--) {
      cursor[r] = start[r]!;
      free[r] = 0;
      awake[waiting++] = r;
    }
    let placed = 0;
    let step = 0;
    while (waiting > 0) {
      const r = awake[--waiting]!;
      const stop = start[r + 1]!;
      let at = cursor[r]!;
      let now = free[r]!;
      while (at < stop) {
        const op = operations[at]!;
        const from = before[op]!;
        if (from !== -1) {
          const end = ends[from]!;
          if (end < 0) {
            sleeper[from] = r;
            break;
          }
          const ready = end + delay[op]!;
          if (ready > now) now = ready;
        }
        heads[op] = now;
        now += seconds[op]!;
        ends[op] = now;
        sorted[placed++] = op;
        at++;
        if (sleeper[op] !== -1) awake[waiting++] = sleeper[op]!;
      }
      cursor[r] = at;
      free[r] = now;
      if (now > step) step = now;
    }
    return placed === operations.length ? step : Number.POSITIVE_INFINITY;
  }

  /** Fills tails after `forward` found an end. */
  backward({ start, operations }: Orders): void {
    const { tails, sorted, after, weightAfter, seconds, delayAfter, rankNext } = this;
    const { ranks } = this.flat;
    for (let r = 0; r < ranks; r++) {
      for (let at = start[r]!; at < start[r + 1]!; at++) {
        rankNext[operations[at]!] = at + 1 < start[r + 1]! ? operations[at + 1]! : -1;
      }
    }
    for (let i = sorted.length - 1; i >= 0; i--) {
      const op = sorted[i]!;
      let tail = 0;
      const next = rankNext[op]!;
      if (next !== -1) tail = tails[next]! + seconds[next]!;
      const to = after[op]!;
      if (to !== -1) {
        const via = delayAfter[op]! + seconds[to]! + tails[to]!;
        if (via > tail) tail = via;
      }
      // The weight's operation is later on the same rank and so already counted.
      if (weightAfter[op] !== -1) {
        const weight = weightAfter[op]!;
        const via = seconds[weight]! + tails[weight]!;
        if (via > tail) tail = via;
      }
      tails[op] = tail;
    }
  }
}

/** Whether each rank stays within its memory at every moment, from the order alone. */
export function withinMemory(flat: FlatSchedule, { start, operations }: Orders): boolean {
  for (let r = 0; r < flat.ranks; r++) {
    let held = 0;
    for (let at = start[r]!; at < start[r + 1]!; at++) {
      held += flat.bytes[Math.floor(operations[at]! / flat.microBatches)]!;
      if (held > flat.limit[r]!) return false;
    }
  }
  return true;
}
