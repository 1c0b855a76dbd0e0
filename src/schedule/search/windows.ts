import { type FlatSchedule, jobOrder } from "./problem.js";
import { type RankStates, statesOfRank } from "./states.js";
import { emptyOrders, type Orders } from "./timing.js";

export interface WindowsSnapshot {
  readonly earliest: Float64Array;
  readonly latest: Float64Array;
  readonly alive: readonly Int32Array[];
  readonly deadline: number;
}

/** Two halves of what a rank may still do. */
export interface Choice {
  readonly rank: number;
  readonly level: number;
  readonly place: number;
  readonly most: number;
}

/**
 * Time windows of all operations under the assumption that the step ends by a deadline: earliest starts and
 * latest ends. Each rank is solved exactly on its own, as one machine whose operations have these windows, by
 * a dynamic program over its states; what that rules out narrows the windows, which narrows those of the
 * neighbours, until nothing changes or some rank has no order left. In the latter case no schedule meets the
 * deadline, which is a lower bound (a "destructive" one: Klein and Scholl, "Computing lower bounds by
 * destructive improvement", EJOR 112, 1999; the relaxation to one machine with heads and tails is that of
 * Carlier, "The one-machine sequencing problem", EJOR 11, 1982).
 */
export class Windows {
  /** By operation. */
  readonly earliest: Float64Array;
  readonly latest: Float64Array;
  /** Transitions looked at so far. */
  work = 0;
  readonly #flat: FlatSchedule;
  readonly #states: (RankStates | undefined)[];
  /** By rank: states that may still be passed. */
  #alive: Int32Array[];
  readonly #early: Float64Array[];
  readonly #dirty: Uint8Array;
  readonly #order: Int32Array;
  #deadline = Number.POSITIVE_INFINITY;
  #tolerance = 0;

  constructor(flat: FlatSchedule, maximumStates = 150_000) {
    this.#flat = flat;
    this.earliest = new Float64Array(flat.operations);
    this.latest = new Float64Array(flat.operations).fill(Number.POSITIVE_INFINITY);
    this.#dirty = new Uint8Array(flat.ranks);
    this.#states = sharedStates(flat, maximumStates);
    this.#alive = this.#states.map((states) => Int32Array.from({ length: states?.count ?? 0 }, (_, i) => i));
    this.#early = this.#states.map((states) => new Float64Array(states?.count ?? 0));
    this.#order = jobOrder(flat);
  }

  get ranksRelaxed(): number {
    return this.#states.filter((states) => !states).length;
  }

  /** What `restore` goes back to; shares what did not change since. */
  snapshot(): WindowsSnapshot {
    return {
      earliest: this.earliest.slice(),
      latest: this.latest.slice(),
      alive: [...this.#alive],
      deadline: this.#deadline,
    };
  }

  restore({ earliest, latest, alive, deadline }: WindowsSnapshot): void {
    this.earliest.set(earliest);
    this.latest.set(latest);
    this.#alive = [...alive];
    this.#deadline = deadline;
    this.#tolerance = 1e-10 * deadline;
  }

  /**
   * Narrows the windows for a deadline of at most the one before.
   * @returns false where no schedule meets it; the windows are then those from before.
   */
  tighten(deadline: number): boolean {
    const before = this.snapshot();
    this.#deadline = deadline;
    this.#tolerance = 1e-10 * deadline;
    for (let i = 0; i < this.latest.length; i++) {
      if (this.latest[i]! > deadline) this.latest[i] = deadline;
    }
    this.#dirty.fill(1);
    if (this.#propagate()) return true;
    this.restore(before);
    return false;
  }

  /**
   * The widest choice of the rank with the least choice: after as many operations as `level`, the chain at
   * `place` has done at most `most` operations, or more. Undefined where all orders are settled, or where only
   * ranks without states are open.
   */
  choice(): Choice | undefined {
    let rank = -1;
    let least = Number.POSITIVE_INFINITY;
    this.#states.forEach((states, r) => {
      if (!states) return;
      const length = states.chains.length * this.#flat.microBatches;
      const spare = (this.#alive[r]!.length - length - 1) / (length + 1);
      if (spare > 0 && spare < least) {
        least = spare;
        rank = r;
      }
    });
    if (rank === -1) return undefined;
    const { chains, done } = this.#states[rank]!;
    const width = chains.length;
    const alive = this.#alive[rank]!;
    const levels = width * this.#flat.microBatches + 1;
    const low = new Int32Array(levels * width).fill(0x7fff);
    const high = new Int32Array(levels * width).fill(-1);
    for (let a = 0; a < alive.length; a++) {
      const at = alive[a]! * width;
      let level = 0;
      for (let i = 0; i < width; i++) level += done[at + i]!;
      for (let i = 0; i < width; i++) {
        const value = done[at + i]!;
        if (value < low[level * width + i]!) low[level * width + i] = value;
        if (value > high[level * width + i]!) high[level * width + i] = value;
      }
    }
    let best = -1;
    let widest = 0;
    for (let slot = 0; slot < levels * width; slot++) {
      if (high[slot]! - low[slot]! > widest) {
        widest = high[slot]! - low[slot]!;
        best = slot;
      }
    }
    const most = Math.floor((low[best]! + high[best]!) / 2);
    return { rank, level: Math.floor(best / width), place: best % width, most };
  }

  /** Takes one side of a choice; false where it leaves no schedule, with the windows then undefined. */
  restrict({ rank, level, place, most }: Choice, above: boolean): boolean {
    const { chains, done } = this.#states[rank]!;
    const width = chains.length;
    this.work += this.#alive[rank]!.length;
    this.#alive[rank] = this.#alive[rank]!.filter((state) => {
      let sum = 0;
      for (let i = 0; i < width; i++) sum += done[state * width + i]!;
      return sum !== level || done[state * width + place]! > most === above;
    });
    this.#dirty[rank] = 1;
    return this.#propagate();
  }

  /** The orders that are left where `choice` finds none and every rank has states. */
  settled(): Orders | undefined {
    const orders = emptyOrders(this.#flat);
    for (let r = 0; r < this.#flat.ranks; r++) {
      const states = this.#states[r];
      if (!states) return undefined;
      const { chains, done, next } = states;
      const width = chains.length;
      const alive = this.#alive[r]!;
      let at = orders.start[r]!;
      for (let a = 0; a + 1 < alive.length; a++) {
        const state = alive[a]!;
        for (let i = 0; i < width; i++) {
          if (next[state * width + i] !== alive[a + 1]!) continue;
          orders.operations[at++] = chains[i]! * this.#flat.microBatches + done[state * width + i]!;
        }
      }
      if (at !== orders.start[r + 1]!) return undefined;
    }
    return orders;
  }

  #propagate(): boolean {
    const { ranks } = this.#flat;
    if (!this.#follow()) return false;
    for (let sweep = 0; sweep < 200; sweep++) {
      let any = false;
      for (let i = 0; i < ranks; i++) {
        // Down and up the pipeline in turns.
        const rank = sweep % 2 ? i : ranks - 1 - i;
        if (!this.#dirty[rank]) continue;
        this.#dirty[rank] = 0;
        any = true;
        if (!this.#solveRank(rank) || !this.#follow()) return false;
      }
      if (!any) return true;
    }
    return true;
  }

  /** Windows along the jobs and the chains. */
  #follow(): boolean {
    const { microBatches: m, seconds, before, delay, rankOf } = this.#flat;
    const { earliest, latest } = this;
    const order = this.#order;
    const step = 1e-6 * this.#deadline;
    const width = order.length;
    this.work += 2 * m * width;
    for (let k = 0; k < m; k++) {
      for (let i = 0; i < width; i++) {
        const chain = order[i]!;
        const op = chain * m + k;
        let start = earliest[op]!;
        const from = before[chain]!;
        if (from !== -1) {
          const ready = earliest[from * m + k]! + seconds[from]! + delay[chain]!;
          if (ready > start) start = ready;
        }
        if (k > 0) {
          const ready = earliest[op - 1]! + seconds[chain]!;
          if (ready > start) start = ready;
        }
        if (start > earliest[op]!) {
          if (start > earliest[op]! + step) this.#dirty[rankOf[chain]!] = 1;
          earliest[op] = start;
        }
      }
    }
    for (let k = m - 1; k >= 0; k--) {
      for (let i = width - 1; i >= 0; i--) {
        const chain = order[i]!;
        const op = chain * m + k;
        const end = latest[op]!;
        if (end < earliest[op]! + seconds[chain]! - this.#tolerance) return false;
        const from = before[chain]!;
        if (from !== -1) {
          const by = end - seconds[chain]! - delay[chain]!;
          if (by < latest[from * m + k]!) {
            if (by < latest[from * m + k]! - step) this.#dirty[rankOf[from]!] = 1;
            latest[from * m + k] = by;
          }
        }
        if (k > 0) {
          const by = end - seconds[chain]!;
          if (by < latest[op - 1]!) {
            if (by < latest[op - 1]! - step) this.#dirty[rankOf[chain]!] = 1;
            latest[op - 1] = by;
          }
        }
      }
    }
    return true;
  }

  /** All orders of one rank within the windows; narrows the windows to those that some order uses. */
  #solveRank(rank: number): boolean {
    const states = this.#states[rank];
    if (!states) return true;
    const { chains, next, done } = states;
    const width = chains.length;
    const { microBatches: m, seconds } = this.#flat;
    const { earliest, latest } = this;
    const tolerance = this.#tolerance;
    const alive = this.#alive[rank]!;
    const early = this.#early[rank]!;
    const late = scratch(states.count);
    this.work += 2 * alive.length * width;
    for (let a = 0; a < alive.length; a++) {
      early[alive[a]!] = Number.POSITIVE_INFINITY;
      late[alive[a]!] = Number.NEGATIVE_INFINITY;
    }
    const final = states.count - 1;
    if (alive.length === 0 || alive[0] !== 0 || alive[alive.length - 1] !== final) return false;
    early[0] = 0;
    for (let a = 0; a < alive.length; a++) {
      const state = alive[a]!;
      const now = early[state]!;
      if (now === Number.POSITIVE_INFINITY) continue;
      for (let i = 0; i < width; i++) {
        const to = next[state * width + i]!;
        if (to === -1) continue;
        const chain = chains[i]!;
        const op = chain * m + done[state * width + i]!;
        const start = earliest[op]!;
        const end = Math.max(start, now) + seconds[chain]!;
        if (end < early[to]! && end <= latest[op]! + tolerance) early[to] = end;
      }
    }
    if (early[final] === Number.POSITIVE_INFINITY) return false;

    // New windows of the rank's operations, gathered while going back.
    const starts = gather(0, width * m, Number.POSITIVE_INFINITY);
    const ends = gather(1, width * m, Number.NEGATIVE_INFINITY);
    late[final] = this.#deadline;
    let kept = 0;
    for (let a = alive.length - 1; a >= 0; a--) {
      const state = alive[a]!;
      const now = early[state]!;
      if (now === Number.POSITIVE_INFINITY) continue;
      let leave = late[state]!;
      for (let i = 0; i < width; i++) {
        const to = next[state * width + i]!;
        if (to === -1) continue;
        const by = late[to]!;
        if (by === Number.NEGATIVE_INFINITY) continue;
        const chain = chains[i]!;
        const k = done[state * width + i]!;
        const op = chain * m + k;
        const end = Math.min(by, latest[op]!);
        const start = end - seconds[chain]!;
        const from = Math.max(earliest[op]!, now);
        if (start < from - tolerance) continue;
        if (start > leave) leave = start;
        if (from < starts[i * m + k]!) starts[i * m + k] = from;
        if (end > ends[i * m + k]!) ends[i * m + k] = end;
      }
      late[state] = leave;
      if (leave !== Number.NEGATIVE_INFINITY) kept++;
    }
    if (late[0] === Number.NEGATIVE_INFINITY) return false;
    if (kept < alive.length) {
      const left = new Int32Array(kept);
      let at = 0;
      for (let a = 0; a < alive.length; a++) {
        const state = alive[a]!;
        if (late[state] !== Number.NEGATIVE_INFINITY && early[state] !== Number.POSITIVE_INFINITY) {
          left[at++] = state;
        }
      }
      this.#alive[rank] = left;
    }
    for (let i = 0; i < width; i++) {
      const first = chains[i]! * m;
      for (let k = 0; k < m; k++) {
        const start = starts[i * m + k]!;
        const end = ends[i * m + k]!;
        if (start > earliest[first + k]!) earliest[first + k] = start;
        if (end < latest[first + k]!) latest[first + k] = end;
      }
    }
    return true;
  }
}

const scratches: Float64Array[] = [];
function gather(index: number, length: number, value: number): Float64Array {
  if (!scratches[index] || scratches[index].length < length) scratches[index] = new Float64Array(length);
  return scratches[index].fill(value, 0, length);
}
function scratch(length: number): Float64Array {
  if (!scratches[2] || scratches[2].length < length) scratches[2] = new Float64Array(length);
  return scratches[2];
}

/** Ranks with equal structure share one table, as far as it does not name chains. */
function sharedStates(flat: FlatSchedule, most: number): (RankStates | undefined)[] {
  const tables = new Map<string, RankStates | undefined>();
  return Array.from({ length: flat.ranks }, (_, rank) => {
    const chains = flat.chainsOfRank[rank]!;
    const relative = Array.from(chains, (chain) => `${chain % flat.kinds} ${flat.bytes[chain]}`);
    const key = JSON.stringify([relative, flat.limit[rank]]);
    if (!tables.has(key)) tables.set(key, statesOfRank(flat, rank, most));
    const table = tables.get(key);
    if (!table) return undefined;
    return { ...table, chains: jobOrder(flat).filter((chain) => flat.rankOf[chain] === rank) };
  });
}
