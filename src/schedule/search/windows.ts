import { hasArea, memoryAreas } from "./memoryArea.js";
import { meetsDeadlines } from "./preemptive.js";
import { type FlatSchedule, jobOrder } from "./problem.js";
import { RankProgram } from "./rankProgram.js";
import type { RankStates } from "./states.js";
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
  /** Operations that the rank has done then. */
  readonly level: number;
  /** One of its sequences, and how many of its operations are done then: at most `most`, or more. */
  readonly sequence: number;
  readonly most: number;
}

/**
 * Time windows of all operations under the assumption that the step ends by a deadline: earliest starts and
 * latest ends. Each rank is solved on its own, as one machine whose operations have these windows; what that
 * rules out narrows the windows, which narrows those of the neighbours, until nothing changes or some rank has
 * no order left. In the latter case no schedule meets the deadline, which is a lower bound (a "destructive"
 * one: Klein and Scholl, "Computing lower bounds by destructive improvement", EJOR 112, 1999; the relaxation
 * to one machine with heads and tails is that of Carlier, "The one-machine sequencing problem", EJOR 11, 1982).
 */
export class Windows {
  /** By operation. */
  readonly earliest: Float64Array;
  readonly latest: Float64Array;
  /** Transitions looked at so far. */
  work = 0;
  readonly #flat: FlatSchedule;
  readonly #programs: (RankProgram | undefined)[];
  readonly #dirty: Uint8Array;
  readonly #order: Int32Array;
  /** By forward chain: its operation k needs the backward of micro-batch k - room to be done; 0 for none. */
  readonly #room: Int32Array;
  readonly #areas: Float64Array;
  #deadline = Number.POSITIVE_INFINITY;
  #tolerance = 0;

  /** @param mostStates beyond which a rank with several stages is relaxed; see `RankProgram`. */
  constructor(flat: FlatSchedule, mostStates = 60_000) {
    this.#flat = flat;
    this.earliest = new Float64Array(flat.operations);
    this.latest = new Float64Array(flat.operations).fill(Number.POSITIVE_INFINITY);
    this.#dirty = new Uint8Array(flat.ranks);
    const tables = new Map<string, RankStates | undefined>();
    this.#programs = Array.from({ length: flat.ranks }, (_, rank) =>
      RankProgram.make(flat, rank, tables, mostStates),
    );
    this.#order = jobOrder(flat);
    this.#room = roomOf(flat);
    this.#areas = memoryAreas(flat);
  }

  /** What `restore` goes back to; shares what did not change since. */
  snapshot(): WindowsSnapshot {
    return {
      earliest: this.earliest.slice(),
      latest: this.latest.slice(),
      alive: this.#programs.map((program) => program?.alive ?? new Int32Array(0)),
      deadline: this.#deadline,
    };
  }

  restore({ earliest, latest, alive, deadline }: WindowsSnapshot): void {
    this.earliest.set(earliest);
    this.latest.set(latest);
    this.#programs.forEach((program, r) => {
      if (program) program.alive = alive[r]!;
    });
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

  /** The widest choice of the rank with the least choice; undefined where all orders are settled. */
  choice(): Choice | undefined {
    let found: RankProgram | undefined;
    let least = Number.POSITIVE_INFINITY;
    for (const program of this.#programs) {
      if (!program) continue;
      const spare = program.alive.length / (program.length + 1) - 1;
      if (spare > 0 && spare < least) {
        least = spare;
        found = program;
      }
    }
    return found && { rank: found.rank, ...found.widest() };
  }

  /** Takes one side of a choice; false where it leaves no schedule, with the windows then undefined. */
  restrict({ rank, level, sequence, most }: Choice, above: boolean): boolean {
    const program = this.#programs[rank]!;
    this.work += program.alive.length;
    program.restrict(level, sequence, most, above);
    this.#dirty[rank] = 1;
    return this.#propagate();
  }

  /** The orders that are left where `choice` finds none; undefined where some rank was only relaxed. */
  settled(): Orders | undefined {
    const orders = emptyOrders(this.#flat);
    for (let r = 0; r < this.#flat.ranks; r++) {
      const program = this.#programs[r];
      if (
        !program?.exact ||
        !program.path(orders.operations.subarray(orders.start[r]!, orders.start[r + 1]!))
      ) {
        return undefined;
      }
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

  #solveRank(rank: number): boolean {
    const { earliest, latest } = this;
    const program = this.#programs[rank];
    if (!program?.exact) {
      const chains = this.#flat.chainsOfRank[rank]!;
      this.work += 16 * chains.length * this.#flat.microBatches;
      const tolerance = this.#tolerance;
      if (!meetsDeadlines(this.#flat, chains, earliest, latest, tolerance)) return false;
      if (!hasArea(this.#flat, rank, this.#areas[rank]!, earliest, latest, tolerance)) return false;
    }
    if (!program) return true;
    this.work += program.work;
    return program.tighten(earliest, latest, this.#deadline, this.#tolerance);
  }

  /** Windows along the jobs, the chains, and what memory makes wait. */
  #follow(): boolean {
    const { microBatches: m, seconds, before, delay, rankOf } = this.#flat;
    const { earliest, latest } = this;
    const order = this.#order;
    const room = this.#room;
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
        if (room[chain]! > 0 && k >= room[chain]!) {
          // The backward's chain of a stage follows the forward's.
          const ready = earliest[op + m - room[chain]!]! + seconds[chain + 1]!;
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
        const by = end - seconds[chain]!;
        if (by < earliest[op]! - this.#tolerance) return false;
        const from = before[chain]!;
        if (from !== -1) this.#lower(from * m + k, by - delay[chain]!, step);
        if (k > 0) this.#lower(op - 1, by, step);
        if (room[chain]! > 0 && k >= room[chain]!) this.#lower(op + m - room[chain]!, by, step);
      }
    }
    return true;
  }

  #lower(op: number, by: number, step: number): void {
    const end = this.latest[op]!;
    if (by >= end) return;
    if (by < end - step) this.#dirty[this.#flat.rankOf[Math.floor(op / this.#flat.microBatches)]!] = 1;
    this.latest[op] = by;
  }
}

/**
 * When stage s starts forward k, it and the earlier stages of its rank have started k + 1 of them, and s has
 * ended at least as many backwards as they. So at most limit / (their bytes) of stage s are in flight.
 */
function roomOf(flat: FlatSchedule): Int32Array {
  const room = new Int32Array(flat.chains);
  for (let r = 0; r < flat.ranks; r++) {
    let bytes = 0;
    for (const chain of flat.chainsOfRank[r]!) {
      if (chain % flat.kinds !== 0) continue;
      bytes += flat.bytes[chain]!;
      const most = bytes > 0 ? Math.floor(flat.limit[r]! / bytes) : Number.POSITIVE_INFINITY;
      room[chain] = most < flat.microBatches ? most : 0;
    }
  }
  return room;
}
