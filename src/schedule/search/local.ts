import type { Random } from "./random.js";
import type { Orders, Timing } from "./timing.js";

/** Slots of the tabu list, a power of two; two moves in one slot do no harm. */
const slots = 1 << 16;

/**
 * Tabu search over the orders of all ranks, for the time of the step. A move takes one operation on a critical
 * path past its neighbours on the same rank; its effect is estimated from heads and tails around it, and only
 * the chosen move is timed (Nowicki and Smutnicki, "A fast taboo search algorithm for the job shop problem",
 * Management Science 42, 1996; moves of several places: Balas and Vazacopoulos, Management Science 44, 1998;
 * the estimate: Taillard, ORSA Journal on Computing 6, 1994). Memory holds at every move.
 */
export class LocalSearch {
  readonly best: Orders;
  bestSeconds: number;
  /** Operations timed so far. */
  work = 0;
  readonly #timing: Timing;
  readonly #now: Orders;
  readonly #held: Float64Array;
  readonly #bytes: Float64Array;
  readonly #position: Int32Array;
  readonly #tabu = new Int32Array(slots);
  readonly #random: Random;
  readonly #segment: Int32Array;
  readonly #segmentHeads: Float64Array;
  #iteration = 0;
  #seconds: number;

  constructor(timing: Timing, start: Orders, random: Random) {
    this.#timing = timing;
    this.#random = random;
    const { operations } = timing.flat;
    this.#now = { start: start.start, operations: start.operations.slice() };
    this.best = { start: start.start, operations: start.operations.slice() };
    this.#held = new Float64Array(operations);
    this.#position = new Int32Array(operations);
    this.#bytes = Float64Array.from(timing.chainOf, (chain) => timing.flat.bytes[chain]!);
    this.#segment = new Int32Array(operations);
    this.#segmentHeads = new Float64Array(operations);
    this.#seconds = 0;
    this.bestSeconds = Number.POSITIVE_INFINITY;
    this.adopt(start);
  }

  /** Goes on from other orders; the best stays. */
  adopt({ start, operations }: Orders): void {
    this.#now.operations.set(operations);
    for (let r = 0; r + 1 < start.length; r++) this.#refresh(r, start[r]!, start[r + 1]! - 1);
    this.#evaluate();
  }

  #evaluate(): boolean {
    const timing = this.#timing;
    const seconds = timing.forward(this.#now);
    this.work += 2 * this.#now.operations.length;
    if (seconds === Number.POSITIVE_INFINITY) return false;
    timing.backward(this.#now);
    this.#seconds = seconds;
    if (seconds < this.bestSeconds) {
      this.bestSeconds = seconds;
      this.best.operations.set(this.#now.operations);
    }
    return true;
  }

  /** Bytes held after each place, and the place of each operation, from one place to another. */
  #refresh(rank: number, from: number, to: number): void {
    const { start, operations } = this.#now;
    let held = from > start[rank]! ? this.#held[from - 1]! : 0;
    for (let at = from; at <= to; at++) {
      held += this.#bytes[operations[at]!]!;
      this.#held[at] = held;
      this.#position[operations[at]!] = at;
    }
  }

  /** Moves until `work` operations more have been timed, or the step takes at most `enough`. */
  run(work: number, enough: number): void {
    const stop = this.work + work;
    let stale = 0;
    let last = this.bestSeconds;
    const patience = 400 + this.#now.operations.length;
    while (this.work < stop && this.bestSeconds > enough) {
      if (!this.#move()) this.#shake(4);
      if (this.bestSeconds < last - 1e-12 * last) {
        last = this.bestSeconds;
        stale = 0;
      } else if (++stale > patience) {
        stale = 0;
        this.adopt(this.best);
        this.#shake(4 + Math.floor(this.#random() * 12));
      }
    }
  }

  #key(first: number, second: number): number {
    return ((Math.imul(first + 1, 0x9e3779b1) ^ Math.imul(second + 1, 0x85ebca6b)) >>> 16) & (slots - 1);
  }

  /** One move along a random critical path; false where none is allowed. */
  #move(): boolean {
    this.#iteration++;
    const path = this.#criticalPath();
    const { rankOf } = this.#timing.flat;
    const { chainOf } = this.#timing;
    let best = Number.POSITIVE_INFINITY;
    let from = -1;
    let to = -1;
    let ties = 0;
    const consider = (a: number, b: number, rank: number) => {
      if (!this.#allowed(a, b, rank)) return;
      const estimate = this.#estimate(a, b, rank);
      const tabu = this.#isTabu(a, b) && estimate >= this.bestSeconds;
      // A tabu move counts as worse than any other.
      const value = tabu ? estimate + 1e3 * this.#seconds * (1 + this.#random()) : estimate;
      if (value < best) {
        best = value;
        from = a;
        to = b;
        ties = 1;
      } else if (value === best && this.#random() * ++ties < 1) {
        from = a;
        to = b;
      }
    };
    for (let i = 0; i < path.length; ) {
      const rank = rankOf[chainOf[path[i]!]!]!;
      let j = i;
      while (
        j + 1 < path.length &&
        rankOf[chainOf[path[j + 1]!]!] === rank &&
        this.#position[path[j + 1]!]! === this.#position[path[j]!]! + 1
      ) {
        j++;
      }
      const first = this.#position[path[i]!]!;
      const last = this.#position[path[j]!]!;
      for (let at = first; at < last; at++) {
        consider(at + 1, at, rank);
        if (at > first) consider(at + 1, first, rank);
        if (at < last - 1) consider(at, last, rank);
      }
      i = j + 1;
    }
    if (from === -1) return false;
    return this.#apply(from, to);
  }

  #criticalPath(): number[] {
    const { heads, tails, seconds, after, rankNext, delayAfter, weightAfter } = this.#timing;
    const { start, operations } = this.#now;
    const tolerance = 1e-11 * this.#seconds;
    const candidates: number[] = [];
    const critical = (op: number) => heads[op]! + seconds[op]! + tails[op]! >= this.#seconds - tolerance;
    for (let r = 0; r + 1 < start.length; r++) {
      if (start[r]! === start[r + 1]!) continue;
      const op = operations[start[r]!]!;
      if (heads[op]! <= tolerance && critical(op)) candidates.push(op);
    }
    let op = candidates[Math.floor(this.#random() * candidates.length)] ?? -1;
    const path: number[] = [];
    while (op !== -1) {
      path.push(op);
      const end = heads[op]! + seconds[op]!;
      const next = rankNext[op]!;
      const job = after[op]!;
      const onRank = next !== -1 && critical(next) && heads[next]! <= end + tolerance ? next : -1;
      let viaJob = job !== -1 && critical(job) && heads[job]! <= end + delayAfter[op]! + tolerance ? job : -1;
      if (viaJob === -1 && weightAfter[op] === next) viaJob = -1;
      if (onRank !== -1 && viaJob !== -1) op = this.#random() < 0.5 ? onRank : viaJob;
      else op = onRank !== -1 ? onRank : viaJob;
    }
    return path;
  }

  /** Whether the operation at place `a` may go to place `b` as far as its own rank can tell. */
  #allowed(a: number, b: number, rank: number): boolean {
    const { operations, start } = this.#now;
    const { chainOf, before, flat } = this.#timing;
    const op = operations[a]!;
    const bytes = this.#bytes[op]!;
    const limit = flat.limit[rank]!;
    if (b < a) {
      const held = b > start[rank]! ? this.#held[b - 1]! : 0;
      if (bytes > 0 && held + bytes > limit) return false;
      for (let at = b; at < a; at++) {
        const other = operations[at]!;
        if (chainOf[other] === chainOf[op] || before[op] === other) return false;
        if (bytes > 0 && this.#held[at]! + bytes > limit) return false;
      }
    } else {
      for (let at = a + 1; at <= b; at++) {
        const other = operations[at]!;
        if (chainOf[other] === chainOf[op] || before[other] === op) return false;
        if (bytes < 0 && this.#held[at]! - bytes > limit) return false;
      }
    }
    return true;
  }

  #isTabu(a: number, b: number): boolean {
    const { operations } = this.#now;
    const op = operations[a]!;
    if (b < a) {
      for (let at = b; at < a; at++) {
        if (this.#tabu[this.#key(op, operations[at]!)]! > this.#iteration) return true;
      }
    } else {
      for (let at = a + 1; at <= b; at++) {
        if (this.#tabu[this.#key(operations[at]!, op)]! > this.#iteration) return true;
      }
    }
    return false;
  }

  /** The longest path through what the move touches, with the old heads before it and the old tails after it. */
  #estimate(a: number, b: number, rank: number): number {
    const { operations, start } = this.#now;
    const { heads, tails, seconds, before, delay, after, delayAfter } = this.#timing;
    const low = Math.min(a, b);
    const high = Math.max(a, b);
    const segment = this.#segment;
    const length = high - low + 1;
    if (b < a) {
      segment[0] = operations[a]!;
      for (let i = 1; i < length; i++) segment[i] = operations[low + i - 1]!;
    } else {
      for (let i = 0; i < length - 1; i++) segment[i] = operations[low + i + 1]!;
      segment[length - 1] = operations[a]!;
    }
    let now = 0;
    if (low > start[rank]!) {
      const previous = operations[low - 1]!;
      now = heads[previous]! + seconds[previous]!;
    }
    const newHeads = this.#segmentHeads;
    for (let i = 0; i < length; i++) {
      const op = segment[i]!;
      const from = before[op]!;
      if (from !== -1) {
        const ready = heads[from]! + seconds[from]! + delay[op]!;
        if (ready > now) now = ready;
      }
      newHeads[i] = now;
      now += seconds[op]!;
    }
    let tail = 0;
    if (high + 1 < start[rank + 1]!) {
      const next = operations[high + 1]!;
      tail = tails[next]! + seconds[next]!;
    }
    let longest = 0;
    for (let i = length - 1; i >= 0; i--) {
      const op = segment[i]!;
      const to = after[op]!;
      if (to !== -1) {
        const via = delayAfter[op]! + seconds[to]! + tails[to]!;
        if (via > tail) tail = via;
      }
      tail += seconds[op]!;
      if (newHeads[i]! + tail > longest) longest = newHeads[i]! + tail;
    }
    return longest;
  }

  #shift(a: number, b: number): void {
    const { operations } = this.#now;
    const op = operations[a]!;
    if (b < a) operations.copyWithin(b + 1, b, a);
    else operations.copyWithin(a, a + 1, b + 1);
    operations[b] = op;
  }

  #apply(a: number, b: number): boolean {
    const { operations } = this.#now;
    const { flat, chainOf } = this.#timing;
    const op = operations[a]!;
    const rank = flat.rankOf[chainOf[op]!]!;
    const until = this.#iteration + 8 + Math.floor(this.#random() * 12);
    // What was the order before must not come back soon.
    if (b < a) for (let at = b; at < a; at++) this.#tabu[this.#key(operations[at]!, op)] = until;
    else for (let at = a + 1; at <= b; at++) this.#tabu[this.#key(op, operations[at]!)] = until;
    this.#shift(a, b);
    const low = Math.min(a, b);
    const high = Math.max(a, b);
    if (this.#evaluate()) {
      this.#refresh(rank, low, high);
      return true;
    }
    this.#shift(b, a);
    this.#evaluate();
    return false;
  }

  /** Random allowed moves between neighbours. */
  #shake(moves: number): void {
    const { start, operations } = this.#now;
    const { flat, chainOf } = this.#timing;
    for (let tries = 0; moves > 0 && tries < 200; tries++) {
      const at = Math.floor(this.#random() * (operations.length - 1));
      const rank = flat.rankOf[chainOf[operations[at]!]!]!;
      if (at + 1 >= start[rank + 1]! || !this.#allowed(at + 1, at, rank)) continue;
      if (this.#apply(at + 1, at)) moves--;
    }
  }
}
