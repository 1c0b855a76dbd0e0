import { Branching } from "./branch.js";
import { type ListRule, ListScheduler } from "./list.js";
import { LocalSearch } from "./local.js";
import { type FlatSchedule, jobOrder } from "./problem.js";
import { type Random, randomOf } from "./random.js";
import { plainRules, randomRule, windowRule } from "./rules.js";
import type { ScheduleSearchOptions } from "./search.js";
import { type Orders, Timing, withinMemory } from "./timing.js";
import { Windows, type WindowsSnapshot } from "./windows.js";

/** Relative difference of times that counts as none. */
const same = 1e-9;
/** List schedules to start from, and orders kept from them. */
const randomLists = 120;
const poolSize = 6;

/** One search: what it knows, and the turns that its methods take. */
export class SearchRun {
  best: Orders | undefined;
  seconds = Number.POSITIVE_INFINITY;
  bound: number;
  readonly #flat: FlatSchedule;
  readonly #options: ScheduleSearchOptions;
  readonly #random: Random;
  readonly #timing: Timing;
  readonly #lists: ListScheduler;
  readonly #pool: { orders: Orders; seconds: number }[] = [];
  readonly #begun = performance.now();
  #windows: Windows | undefined;
  #local: LocalSearch | undefined;
  /** Windows for the first schedule's time. */
  #root: WindowsSnapshot | undefined;
  /** The time that `#prove` tried last. */
  #proven = Number.POSITIVE_INFINITY;
  #listWork = 0;
  #lastTurn = 0;

  constructor(flat: FlatSchedule, options: ScheduleSearchOptions) {
    this.#flat = flat;
    this.#options = options;
    this.#random = randomOf(options.seed ?? 0);
    this.#timing = new Timing(flat);
    this.#lists = new ListScheduler(flat);
    // The busiest rank, and one micro-batch's way.
    const way = jobOrder(flat).reduce((sum, chain) => {
      return chain % flat.kinds === 2 ? sum : sum + flat.seconds[chain]! + flat.delay[chain]!;
    }, 0);
    this.bound = flat.load.reduce((a, b) => Math.max(a, b), way);
  }

  get work(): number {
    return this.#listWork + (this.#windows?.work ?? 0) + (this.#local?.work ?? 0);
  }

  get #limit(): number {
    return this.#options.workLimit ?? 4e8;
  }

  get #target(): number {
    return this.bound * (1 + Math.max(this.#options.gap ?? 1e-3, same));
  }

  get #ended(): boolean {
    const { seconds = Number.POSITIVE_INFINITY } = this.#options;
    return (
      this.seconds <= this.#target ||
      this.work >= this.#limit ||
      performance.now() - this.#begun > 1000 * seconds
    );
  }

  /** Orders that someone knows; ignored where they break memory or wait in a circle. */
  offer(orders: Orders): void {
    if (!withinMemory(this.#flat, orders)) return;
    const seconds = this.#timing.forward(orders);
    this.#listWork += orders.operations.length;
    if (seconds === Number.POSITIVE_INFINITY) return;
    if (seconds < this.seconds) {
      this.seconds = seconds;
      this.best = { start: orders.start, operations: orders.operations.slice() };
    }
    const pool = this.#pool;
    const worst = pool[poolSize - 1]?.seconds ?? Number.POSITIVE_INFINITY;
    if (seconds >= worst || pool.some((other) => Math.abs(other.seconds - seconds) <= same * seconds)) return;
    pool.push({ orders: { start: orders.start, operations: orders.operations.slice() }, seconds });
    pool.sort((a, b) => a.seconds - b.seconds);
    pool.length = Math.min(pool.length, poolSize);
  }

  #list(rule: ListRule): void {
    const { operations, chains } = this.#flat;
    this.#listWork += operations * chains;
    const found = this.#lists.run(rule);
    if (found) this.offer(found.orders);
  }

  /** Lets others run, and stops where the signal says so. */
  async #turn(): Promise<void> {
    this.#options.signal?.throwIfAborted();
    if (this.work - this.#lastTurn < 5e6) return;
    this.#lastTurn = this.work;
    const gap = (100 * (this.seconds - this.bound)) / this.bound;
    this.#options.onProgress?.({
      message: `Step of ${this.seconds} s, ${gap.toFixed(2)} % above its bound.`,
      fraction: Math.min(1, this.work / this.#limit),
    });
    await new Promise(setImmediate);
    this.#options.signal?.throwIfAborted();
  }

  async run(): Promise<{ orders: Orders; seconds: number; bound: number }> {
    for (const rule of plainRules(this.#flat)) this.#list(rule);
    for (let i = 0; i < randomLists / 4 && !this.#ended; i++) {
      this.#list(randomRule(this.#flat, this.#random));
      await this.#turn();
    }
    if (this.seconds > this.#target) await this.#refute();
    for (let i = 0; i < randomLists && !this.#ended; i++) {
      this.#list(randomRule(this.#flat, this.#random));
      await this.#turn();
    }
    if (!this.#ended) await this.#improve();
    return { orders: this.best!, seconds: this.seconds, bound: Math.min(this.bound, this.seconds) };
  }

  /** The largest step time that windows alone refute; list schedules from the windows just above it. */
  async #refute(): Promise<void> {
    this.#windows = new Windows(this.#flat);
    const windows = this.#windows;
    if (!windows.tighten(this.seconds * (1 - same))) {
      this.bound = this.seconds;
      return;
    }
    this.#root = windows.snapshot();
    let high = this.seconds;
    const resolution = Math.min(1e-4, (this.#options.gap ?? 1e-3) / 4 + same) * this.seconds;
    while (high - this.bound > resolution && !this.#ended) {
      const middle = (high + this.bound) / 2;
      if (windows.tighten(middle)) high = middle;
      else this.bound = middle;
      await this.#turn();
    }
    this.#list(windowRule(this.#flat, windows.earliest, windows.latest, undefined));
    for (let i = 0; i < randomLists && !this.#ended; i++) {
      this.#list(windowRule(this.#flat, windows.earliest, windows.latest, this.#random));
      await this.#turn();
    }
  }

  /** Whether windows alone show that nothing is faster than the best. */
  #prove(): void {
    if (this.seconds === this.#proven || this.seconds <= this.bound * (1 + same)) return;
    this.#proven = this.seconds;
    const windows = this.#windows!;
    const before = windows.snapshot();
    if (windows.tighten(this.seconds * (1 - same))) windows.restore(before);
    else this.bound = this.seconds;
  }

  /** Runs a branching to its end, or to that of the search. */
  async #finish(steps: ReturnType<Branching["search"]>): Promise<Orders | "refuted" | "limit"> {
    for (;;) {
      const { done, value } = steps.next();
      if (done) return value;
      await this.#turn();
      if (this.#ended) return steps.return("limit").value as "limit";
    }
  }

  /** Tabu search and branching in turns of growing length. */
  async #improve(): Promise<void> {
    const flat = this.#flat;
    const windows = this.#windows!;
    if (this.#root) windows.restore(this.#root);
    const branching = new Branching(flat, windows, this.#timing, this.#lists);
    const local = new LocalSearch(this.#timing, this.best!, this.#random);
    this.#local = local;
    let slice = 2e6;
    for (let round = 0; !this.#ended; round++) {
      const start = round % 3 === 0 ? undefined : this.#pool[Math.floor(this.#random() * this.#pool.length)];
      local.adopt(start?.orders ?? this.best!);
      const stop = Math.min(local.work + slice, local.work + this.#limit - this.work);
      while (local.work < stop && local.bestSeconds > this.#target && !this.#ended) {
        local.run(Math.min(2e6, stop - local.work), this.#target);
        await this.#turn();
      }
      this.offer(local.best);
      this.#prove();
      if (this.#ended) break;

      const share = [0.5, 0.25, 0.75, 0.9][round % 4]!;
      const deadline = this.bound + share * (this.seconds * (1 - same) - this.bound);
      const found = await this.#finish(branching.search(deadline, Math.min(slice, this.#limit - this.work)));
      this.#listWork += branching.takeListWork();
      if (found === "refuted") this.bound = Math.max(this.bound, deadline);
      else if (found !== "limit") this.offer(found);
      slice *= 1.5;
    }
  }
}
