import type { FlatSchedule } from "./problem.js";
import { emptyOrders, type Orders } from "./timing.js";

/** How a list schedule chooses. */
export interface ListRule {
  /** By operation; the smallest goes first. */
  readonly priority: Float64Array;
  /**
   * 0: a rank never waits while something is ready; 1: it waits for anything that could start before what is
   * ready would end (Giffler and Thompson, "Algorithms for solving production-scheduling problems", Operations
   * Research 8, 1960; the share between is that of Storer, Wu and Vaccari, Management Science 38, 1992).
   */
  readonly patience: number;
  /** The same for choosing a backward-weight while something else could come. */
  readonly weightPatience: number;
  /** Most micro-batches of the first chain in flight, by rank; infinity for none. */
  readonly depth: Float64Array;
}

/** Builds the orders of all ranks in the order of time. */
export class ListScheduler {
  readonly #flat: FlatSchedule;
  readonly #done: Int32Array;
  readonly #ready: Float64Array;
  readonly #free: Float64Array;
  readonly #held: Float64Array;
  /** By rank: oldest micro-batch that it has not finished. */
  readonly #oldest: Int32Array;
  /** By rank: bytes that the oldest micro-batch still has to take. */
  readonly #reserve: Float64Array;
  readonly #ends: Float64Array;
  readonly #firstForward: Int32Array;
  readonly #lastBackward: Int32Array;

  constructor(flat: FlatSchedule) {
    this.#flat = flat;
    this.#done = new Int32Array(flat.chains);
    this.#ready = new Float64Array(flat.chains);
    this.#free = new Float64Array(flat.ranks);
    this.#held = new Float64Array(flat.ranks);
    this.#oldest = new Int32Array(flat.ranks);
    this.#reserve = new Float64Array(flat.ranks);
    this.#ends = new Float64Array(flat.operations);
    this.#firstForward = new Int32Array(flat.ranks);
    this.#lastBackward = new Int32Array(flat.ranks);
    for (let r = 0; r < flat.ranks; r++) {
      const chains = flat.chainsOfRank[r]!;
      this.#firstForward[r] = chains[0] ?? -1;
      this.#lastBackward[r] = chains.length ? chains[0]! + 1 : -1;
    }
  }

  /** Orders and their time; undefined where memory leaves nothing to start (cannot happen with one stage a rank). */
  run(rule: ListRule, into?: Orders): { orders: Orders; seconds: number } | undefined {
    const flat = this.#flat;
    const { microBatches: m, ranks, chains, seconds, before, delay, kinds, chainsOfRank, bytes } = flat;
    const orders = into ?? emptyOrders(flat);
    const done = this.#done.fill(0);
    const ready = this.#ready.fill(Number.POSITIVE_INFINITY);
    const free = this.#free.fill(0);
    const held = this.#held.fill(0);
    const ends = this.#ends;
    const at = Int32Array.from(orders.start);
    this.#oldest.fill(0);
    this.#resetReserve();
    for (let c = 0; c < chains; c++) if (before[c] === -1) ready[c] = 0;

    let step = 0;
    for (let placed = 0; placed < flat.operations; placed++) {
      // The rank whose next operation could end first (patience 1) or start first (patience 0).
      let rank = -1;
      let least = Number.POSITIVE_INFINITY;
      for (let r = 0; r < ranks; r++) {
        const own = chainsOfRank[r]!;
        for (let i = 0; i < own.length; i++) {
          const c = own[i]!;
          if (ready[c] === Number.POSITIVE_INFINITY || !this.#fits(r, c, rule)) continue;
          const start = Math.max(free[r]!, ready[c]!);
          const weight = c % kinds === 2;
          const by = start + (weight ? rule.weightPatience : rule.patience) * seconds[c]!;
          if (by < least) {
            least = by;
            rank = r;
          }
        }
      }
      if (rank === -1) return undefined;
      let chosen = -1;
      let best = Number.POSITIVE_INFINITY;
      const own = chainsOfRank[rank]!;
      for (let i = 0; i < own.length; i++) {
        const c = own[i]!;
        if (ready[c] === Number.POSITIVE_INFINITY) continue;
        const start = Math.max(free[rank]!, ready[c]!);
        if (start > least || !this.#fits(rank, c, rule)) continue;
        const priority = rule.priority[c * m + done[c]!]!;
        if (priority < best || chosen === -1) {
          best = priority;
          chosen = c;
        }
      }
      const k = done[chosen]!;
      const op = chosen * m + k;
      const end = Math.max(free[rank]!, ready[chosen]!) + seconds[chosen]!;
      ends[op] = end;
      free[rank] = end;
      if (end > step) step = end;
      orders.operations[at[rank]!] = op;
      at[rank] = at[rank]! + 1;
      held[rank] = held[rank]! + bytes[chosen]!;
      done[chosen] = k + 1;
      this.#follow(rank, chosen, k);

      // What became ready: the chain's own next, and what waits for it.
      const from = before[chosen]!;
      ready[chosen] =
        k + 1 >= m
          ? Number.POSITIVE_INFINITY
          : from === -1
            ? 0
            : done[from]! > k + 1
              ? ends[from * m + k + 1]! + delay[chosen]!
              : Number.POSITIVE_INFINITY;
      const to = flat.after[chosen]!;
      if (to !== -1 && done[to] === k) ready[to] = end + delay[to]!;
      const weight = flat.weightAfter[chosen]!;
      if (weight !== -1 && done[weight] === k) ready[weight] = end;
    }
    return { orders, seconds: step };
  }

  #resetReserve(): void {
    const { ranks, chainsOfRank, bytes, kinds } = this.#flat;
    for (let r = 0; r < ranks; r++) {
      let sum = 0;
      for (const c of chainsOfRank[r]!) if (c % kinds === 0) sum += bytes[c]!;
      this.#reserve[r] = sum;
    }
  }

  /** Whether the rank has room for the chain's next operation beside what its oldest micro-batch still needs. */
  #fits(rank: number, chain: number, rule: ListRule): boolean {
    const { bytes, limit } = this.#flat;
    if (bytes[chain]! <= 0) return true;
    const k = this.#done[chain]!;
    const held = this.#held[rank]! + bytes[chain]!;
    if (k === this.#oldest[rank]) return held <= limit[rank]!;
    if (chain === this.#firstForward[rank] && k - this.#oldest[rank]! >= rule.depth[rank]!) return false;
    return held + this.#reserve[rank]! <= limit[rank]!;
  }

  #follow(rank: number, chain: number, k: number): void {
    const { chainsOfRank, bytes, kinds } = this.#flat;
    if (chain % kinds === 0 && k === this.#oldest[rank]) {
      this.#reserve[rank] = this.#reserve[rank]! - bytes[chain]!;
    }
    if (chain !== this.#lastBackward[rank]) return;
    this.#oldest[rank] = k + 1;
    let sum = 0;
    for (const c of chainsOfRank[rank]!) {
      if (c % kinds === 0 && this.#done[c]! <= k + 1) sum += bytes[c]!;
    }
    this.#reserve[rank] = sum;
  }
}
