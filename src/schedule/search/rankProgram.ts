import { type FlatSchedule, forwardKind, jobOrder, weightKind } from "./problem.js";
import { countStates, type RankStates } from "./states.js";

/** One sequence of operations of a rank: a chain, or all chains of one kind taken together. */
interface Sequence {
  readonly chains: readonly number[];
  readonly length: number;
  /** Of each operation; the least where several chains are taken together. */
  readonly seconds: number;
}

/** Most states with the chains of one kind taken together; beyond, backward-weights are left out. */
const mostMerged = 150_000;

/** By state: earliest times to reach it, and latest to leave it. All ranks use the same two in turn. */
const scratches = [new Float64Array(0), new Float64Array(0)];
function scratch(index: number, length: number): Float64Array {
  if (scratches[index]!.length < length) scratches[index] = new Float64Array(length);
  return scratches[index]!;
}

/**
 * One rank as one machine: its operations have windows, each chain takes its micro-batches in turn, memory holds.
 * A dynamic program over `RankStates` finds for every state the earliest time at which it can be reached and
 * the latest at which it must be left; states without time between them are dropped for good.
 *
 * Where a rank holds several stages and has too many states, the chains of one kind count as one sequence, a
 * relaxation: its i-th operation starts no earlier than the i-th smallest earliest start of its operations and
 * ends no later than their i-th smallest latest end, because i of them must have ended by then.
 */
export class RankProgram {
  /** States that may still be passed, in order. */
  alive: Int32Array;
  readonly exact: boolean;
  readonly states: RankStates;
  readonly sequences: readonly Sequence[];
  readonly #starts: Float64Array[];
  readonly #ends: Float64Array[];
  readonly #newStarts: Float64Array[];
  readonly #newEnds: Float64Array[];

  private constructor(
    private readonly flat: FlatSchedule,
    readonly rank: number,
    sequences: readonly Sequence[],
    states: RankStates,
    exact: boolean,
  ) {
    this.sequences = sequences;
    this.states = states;
    this.exact = exact;
    this.alive = Int32Array.from({ length: states.count }, (_, i) => i);
    const buffers = () => sequences.map(({ length }) => new Float64Array(length));
    this.#starts = buffers();
    this.#ends = buffers();
    this.#newStarts = buffers();
    this.#newEnds = buffers();
  }

  /**
   * The program of a rank; ranks of one structure share `tables`. The chains of one kind are taken together where
   * it has more than `mostStates`. Undefined where even that is too much.
   */
  static make(
    flat: FlatSchedule,
    rank: number,
    tables: Map<string, RankStates | undefined>,
    mostStates: number,
  ): RankProgram | undefined {
    const { microBatches: m, kinds, seconds, bytes } = flat;
    const chains = Array.from(jobOrder(flat).filter((chain) => flat.rankOf[chain] === rank));
    const states = (lengths: number[], bounds: number[], held: number[], most: number) => {
      const key = JSON.stringify([lengths, bounds, held, flat.limit[rank], most]);
      if (!tables.has(key)) tables.set(key, countStates(lengths, bounds, held, flat.limit[rank]!, most));
      return tables.get(key);
    };
    const own = states(
      chains.map(() => m),
      chains.map((chain, i) => (chain % kinds === weightKind ? chains.indexOf(flat.before[chain]!) : i - 1)),
      chains.map((chain) => bytes[chain]!),
      mostStates,
    );
    if (own) {
      const sequences = chains.map((chain) => ({ chains: [chain], length: m, seconds: seconds[chain]! }));
      return new RankProgram(flat, rank, sequences, own, true);
    }
    for (const used of kinds === 3 ? [3, 2] : [2]) {
      const sequences = Array.from({ length: used }, (_, kind): Sequence => {
        const same = chains.filter((chain) => chain % kinds === kind);
        const shortest = same.reduce(
          (low, chain) => Math.min(low, seconds[chain]!),
          Number.POSITIVE_INFINITY,
        );
        return { chains: same, length: same.length * m, seconds: shortest };
      });
      // With the least of the chains' bytes, as many micro-batches in flight hold no more than they do.
      const least = (kind: number) =>
        chains.reduce(
          (low, chain) => (chain % kinds === kind ? Math.min(low, Math.abs(bytes[chain]!)) : low),
          Number.POSITIVE_INFINITY,
        );
      const kept = used === 3 ? least(weightKind) : 0;
      const held = [least(forwardKind), kept - least(forwardKind), -kept];
      const merged = states(
        sequences.map(({ length }) => length),
        sequences.map((_, i) => i - 1),
        held.slice(0, used),
        mostMerged,
      );
      if (merged) return new RankProgram(flat, rank, sequences, merged, false);
    }
    return undefined;
  }
  /** Number of operations in all sequences. */
  get length(): number {
    return this.sequences.reduce((sum, { length }) => sum + length, 0);
  }

  /** Transitions that one `tighten` looks at. */
  get work(): number {
    return 2 * this.alive.length * this.sequences.length + 2 * this.length;
  }

  /**
   * Narrows the windows of the rank's operations to those that some order within them uses.
   * @returns false where there is none.
   */
  tighten(earliest: Float64Array, latest: Float64Array, deadline: number, tolerance: number): boolean {
    this.#read(earliest, latest);
    if (!this.#forward(tolerance) || !this.#backward(deadline, tolerance)) return false;
    this.#write(earliest, latest);
    return true;
  }

  /** The sequence and the number of operations done where the states differ most. */
  widest(): { level: number; sequence: number; most: number } {
    const { done } = this.states;
    const width = this.sequences.length;
    const slots = (this.length + 1) * width;
    const low = new Int32Array(slots).fill(0x7fffffff);
    const high = new Int32Array(slots).fill(-1);
    for (const state of this.alive) {
      const level = this.#level(state);
      for (let i = 0; i < width; i++) {
        const value = done[state * width + i]!;
        if (value < low[level * width + i]!) low[level * width + i] = value;
        if (value > high[level * width + i]!) high[level * width + i] = value;
      }
    }
    let best = 0;
    for (let slot = 1; slot < slots; slot++) {
      if (high[slot]! - low[slot]! > high[best]! - low[best]!) best = slot;
    }
    return {
      level: Math.floor(best / width),
      sequence: best % width,
      most: Math.floor((low[best]! + high[best]!) / 2),
    };
  }

  /** Drops the states of one side; an order passes exactly one state of each level. */
  restrict(level: number, sequence: number, most: number, above: boolean): void {
    const { done } = this.states;
    const width = this.sequences.length;
    this.alive = this.alive.filter(
      (state) => this.#level(state) !== level || done[state * width + sequence]! > most === above,
    );
  }

  #level(state: number): number {
    const width = this.sequences.length;
    let sum = 0;
    for (let i = 0; i < width; i++) sum += this.states.done[state * width + i]!;
    return sum;
  }

  /** Writes the one order that is left; false where there are several. */
  path(into: Int32Array): boolean {
    const { next, done } = this.states;
    const width = this.sequences.length;
    const alive = this.alive;
    if (alive.length !== into.length + 1) return false;
    for (let a = 0; a < into.length; a++) {
      const state = alive[a]!;
      const i = next.subarray(state * width, state * width + width).indexOf(alive[a + 1]!);
      if (i === -1) return false;
      into[a] = this.sequences[i]!.chains[0]! * this.flat.microBatches + done[state * width + i]!;
    }
    return true;
  }

  #read(earliest: Float64Array, latest: Float64Array): void {
    const m = this.flat.microBatches;
    this.sequences.forEach(({ chains }, i) => {
      chains.forEach((chain, j) => {
        this.#starts[i]!.set(earliest.subarray(chain * m, chain * m + m), j * m);
        this.#ends[i]!.set(latest.subarray(chain * m, chain * m + m), j * m);
      });
      if (chains.length > 1) {
        this.#starts[i]!.sort();
        this.#ends[i]!.sort();
      }
    });
  }

  #forward(tolerance: number): boolean {
    const { next, done, count } = this.states;
    const width = this.sequences.length;
    const alive = this.alive;
    const early = scratch(0, count);
    const final = count - 1;
    if (alive.length === 0 || alive[0] !== 0 || alive[alive.length - 1] !== final) return false;
    for (let a = 0; a < alive.length; a++) early[alive[a]!] = Number.POSITIVE_INFINITY;
    early[0] = 0;
    const seconds = Float64Array.from(this.sequences, (sequence) => sequence.seconds);
    for (let a = 0; a < alive.length; a++) {
      const state = alive[a]!;
      const now = early[state]!;
      if (now === Number.POSITIVE_INFINITY) continue;
      for (let i = 0; i < width; i++) {
        const to = next[state * width + i]!;
        if (to === -1) continue;
        const k = done[state * width + i]!;
        const start = this.#starts[i]![k]!;
        const end = Math.max(start, now) + seconds[i]!;
        if (end < early[to]! && end <= this.#ends[i]![k]! + tolerance) early[to] = end;
      }
    }
    return early[final] !== Number.POSITIVE_INFINITY;
  }

  #backward(deadline: number, tolerance: number): boolean {
    const { next, done, count } = this.states;
    const width = this.sequences.length;
    const alive = this.alive;
    const early = scratch(0, count);
    const late = scratch(1, count);
    for (let i = 0; i < width; i++) {
      this.#newStarts[i]!.fill(Number.POSITIVE_INFINITY);
      this.#newEnds[i]!.fill(Number.NEGATIVE_INFINITY);
    }
    // States that were dropped count as dead ends.
    late.fill(Number.NEGATIVE_INFINITY, 0, count);
    late[count - 1] = deadline;
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
        const k = done[state * width + i]!;
        const end = Math.min(by, this.#ends[i]![k]!);
        const start = end - this.sequences[i]!.seconds;
        const from = Math.max(this.#starts[i]![k]!, now);
        if (start < from - tolerance) continue;
        if (start > leave) leave = start;
        if (from < this.#newStarts[i]![k]!) this.#newStarts[i]![k] = from;
        if (end > this.#newEnds[i]![k]!) this.#newEnds[i]![k] = end;
      }
      late[state] = leave;
      if (leave !== Number.NEGATIVE_INFINITY) kept++;
    }
    if (late[0] === Number.NEGATIVE_INFINITY) return false;
    if (kept < alive.length) {
      this.alive = alive.filter((state) => late[state] !== Number.NEGATIVE_INFINITY);
    }
    return true;
  }

  #write(earliest: Float64Array, latest: Float64Array): void {
    const m = this.flat.microBatches;
    this.sequences.forEach(({ chains, length }, i) => {
      const starts = this.#newStarts[i]!;
      const ends = this.#newEnds[i]!;
      // Before operation k of the j-th chain come k of its own, and k + 1 of each chain before it in the job's
      // order, in which forwards and backwards stand here; backward-weights wait for no others.
      const weights = chains[0]! % this.flat.kinds === weightKind;
      chains.forEach((chain, j) => {
        for (let k = 0; k < m; k++) {
          const op = chain * m + k;
          const before = k + (weights ? 0 : j * (k + 1));
          const behind = m - 1 - k + (weights ? 0 : (chains.length - 1 - j) * (m - k));
          if (starts[before]! > earliest[op]!) earliest[op] = starts[before]!;
          if (ends[length - 1 - behind]! < latest[op]!) latest[op] = ends[length - 1 - behind]!;
        }
      });
    });
  }
}
