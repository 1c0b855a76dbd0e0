import type { CutTable } from "./pipedreamCuts.js";

/**
 * PipeDream's recursion over levels of machines (optimizer_graph_hierarchical.py, compute_partitioning), exact
 * over the given cuts.
 *
 * Level l has n machines, each of them the whole level below (at level 0 a device), joined by a link of b bytes/s.
 * A range of cuts i..j is split into stages 0, 1, ...; stage q has m machines that hold copies of it, and all m
 * of a range add up to n. With X the value of the stage's range one level below (seconds at level 0) and
 * W its parameters, a stage takes (X + R) / m, R = 4 (m - 1) W / (b m), for stage 0 divided by the machines of
 * the level below as well. Every stage but stage 0 also receives 2 out / (b m) and, unless it ends the graph,
 * sends as much for its own end. The value of a range is the largest of all these.
 *
 * Method: rows of values "from cut i to every cut j on p machines", filled by j. The last stage of the range
 * starts at a cut k; candidates are scanned from the latest k that the lower bound seconds / machines on what
 * precedes permits, down to the first whose last stage alone is no better than the best found. Nothing above
 * `cap` is kept, nothing from where the target is out of reach within `cap`, and a row of a level below is
 * filled only when a candidate passes all other tests.
 */
export interface PipedreamProblem {
  cuts: CutTable;
  levels: Level[];
  /** One machine a stage at every level. */
  straight: boolean;
  /** PipeDream's test: what a stage keeps in flight, counted over the machines of its level alone. */
  peerMemoryBytes: number;
  /** Limit on a stage's peak with 1F1B, devices of all levels counted. */
  memoryBytes: number;
}

export interface Level {
  machines: number;
  /** Devices of one machine of this level. */
  devices: number;
  /** What PipeDream divides the all-reduce of stage 0 by: machines of the level below. */
  share: number;
  bytesPerSecond: number;
  /** Seconds that each cut's transfer takes to or from one machine, both directions. */
  transferSeconds: Float64Array;
}

/** Where a range lies among the devices, as far as memory depends on it. */
export interface Place {
  /** Copies of the range: product of the replicas at the levels above. */
  copies: number;
  /** Devices of all stages after the range. */
  later: number;
}

/** A cap larger than any value, and still finite when multiplied by machine counts. */
export const unbounded = 1e200;
/** Value of what no plan below the cap reaches; stays so when it is divided. */
const none = Number.POSITIVE_INFINITY;
/** Caps are widened by this, so that rounding does not hide a plan that reaches them. */
export const slack = 1 + 1e-12;

/** Seconds that the all-reduce of a stage's parameters adds to its m machines together. */
export function reduceSeconds(
  level: Level,
  replicas: number,
  parameterBytes: number,
  first: boolean,
): number {
  const seconds = (4 * (replicas - 1) * parameterBytes) / (level.bytesPerSecond * replicas);
  return first ? seconds / level.share : seconds;
}

/** Bytes at the peak of a device of a stage: 1F1B keeps one batch for each of this and the later replicas. */
export function peakBytes(replicas: number, later: number, activations: number, parameters: number): number {
  return Math.ceil((replicas + later) / replicas) * (activations + parameters) + parameters;
}

export class PipedreamTables {
  readonly #problem: PipedreamProblem;
  /** Best known value of the whole problem; nothing above is kept. */
  readonly cap: number;
  readonly signal: AbortSignal | undefined;
  /** Per level, values of the row in work: `[p * count + j]`. */
  readonly #work: Float64Array[];
  /** Where the last stage of each of those starts, and its replicas; 0 for a single stage. */
  readonly #lastStart: Int32Array[];
  readonly #lastReplicas: Uint16Array[];
  /** The latest cut inside each cut. */
  readonly #previous: Int32Array;
  /** Per level and cut, what the slowest node after that takes with the best number of replicas. */
  readonly #steps: Float64Array[];
  /** The same over all nodes of the range in work: no plan of it is faster. */
  readonly #slowest: Float64Array[];
  /** Finished rows by level and place. */
  readonly #rows = new Map<string, (Float64Array | undefined)[]>();

  constructor(problem: PipedreamProblem, cap: number, signal?: AbortSignal) {
    this.#problem = problem;
    this.cap = cap;
    this.signal = signal;
    const { cuts, levels } = problem;
    this.#work = levels.map(({ machines }) => new Float64Array((machines + 1) * cuts.count));
    this.#lastStart = levels.map(({ machines }) => new Int32Array((machines + 1) * cuts.count));
    this.#lastReplicas = levels.map(({ machines }) => new Uint16Array((machines + 1) * cuts.count));
    const { previous, steps } = this.#bounds();
    this.#previous = previous;
    this.#steps = steps;
    this.#slowest = levels.map(() => new Float64Array(cuts.count));
  }

  /** Where the cuts before are, and what keeps each range from being faster. */
  #bounds(): { previous: Int32Array; steps: Float64Array[] } {
    const { cuts, levels, straight } = this.#problem;
    const { count, inside, words, bits, nodeSeconds, nodeParameterBytes } = cuts;
    const previous = new Int32Array(count);
    const steps = levels.map(() => new Float64Array(count));
    const perNode: Float64Array[] = [];
    levels.forEach((level, at) => {
      perNode.push(
        nodeSeconds.map((own, node) => {
          const seconds = at === 0 ? own : perNode[at - 1]![node]!;
          let least = seconds;
          for (let m = 2; m <= (straight ? 1 : level.machines); m++) {
            least = Math.min(least, (seconds + reduceSeconds(level, m, nodeParameterBytes[node]!, true)) / m);
          }
          return least;
        }),
      );
    });
    for (let j = 1; j < count; j++) {
      let before = j - 1;
      if (inside !== undefined) while (inside[j * count + before] === 0) before--;
      previous[j] = before;
      for (let w = 0; w < words; w++) {
        for (let rest = bits[j * words + w]! & ~bits[before * words + w]!; rest !== 0; rest &= rest - 1) {
          const node = w * 32 + 31 - Math.clz32(rest & -rest);
          for (let at = 0; at < levels.length; at++) {
            // Sums of the same figures in another order may end this much lower.
            steps[at]![j] = Math.max(steps[at]![j]!, perNode[at]![node]! * (1 + 1e-14));
          }
        }
      }
    }
    return { previous, steps };
  }

  /** Least value of the whole problem, or infinity where none is below the cap. */
  solve(): number {
    const { cuts, levels } = this.#problem;
    const last = cuts.count - 1;
    const top = levels.length - 1;
    this.#fill(top, { copies: 1, later: 0 }, 0, this.cap, cuts.seconds[last]!);
    return this.#work[top]![levels[top]!.machines * cuts.count + last]!;
  }

  /** Values of ranges that start at `start`, one level below `level`, by end; after `solve`. */
  below(level: number, place: Place, start: number): Float64Array {
    const { levels } = this.#problem;
    return this.#row(level, this.rowsBelow(level, place), place, start, level === levels.length - 1);
  }

  /** The rows one level below, by start. A place matters only where memory is limited. */
  rowsBelow(level: number, place: Place): (Float64Array | undefined)[] {
    const limited = this.#problem.memoryBytes < unbounded;
    const key = limited ? `${level} ${place.copies} ${place.later}` : `${level}`;
    let rows = this.#rows.get(key);
    if (!rows) {
      rows = new Array<Float64Array | undefined>(this.#problem.cuts.count).fill(undefined);
      this.#rows.set(key, rows);
    }
    return rows;
  }

  #row(
    level: number,
    rows: (Float64Array | undefined)[],
    place: Place,
    start: number,
    top: boolean,
  ): Float64Array {
    const known = rows[start];
    if (known) return known;
    const { cuts, levels } = this.#problem;
    const { machines, devices } = levels[level]!;
    let cap = this.cap;
    let target = 0;
    if (top) {
      // Machines before the stage are at least the fewest that reach its start, and one more takes it.
      let used = 0;
      const work = this.#work[level]!;
      if (start > 0) while (used < machines && work[used * cuts.count + start] === none) used++;
      target = cuts.seconds[cuts.count - 1]! - cap * slack * Math.max(0, machines - used - 1) * devices;
      cap *= machines - used;
    } else {
      for (let l = level; l < levels.length; l++) cap *= levels[l]!.machines;
    }
    const row = this.#fill(level - 1, place, start, cap, target);
    rows[start] = row;
    return row;
  }

  /**
   * Values of all ranges from `start`, on all machines of the level: those below `cap`, to cuts of at least
   * `target` seconds.
   */
  #fill(at: number, place: Place, start: number, cap: number, target: number): Float64Array {
    this.signal?.throwIfAborted();
    const { cuts, levels, straight, peerMemoryBytes, memoryBytes } = this.#problem;
    const { count, seconds, parameterBytes, inside, parts } = cuts;
    const level = levels[at]!;
    const { machines, devices, bytesPerSecond, share, transferSeconds } = level;
    const work = this.#work[at]!;
    const lastStart = this.#lastStart[at]!;
    const lastReplicas = this.#lastReplicas[at]!;
    const slowest = this.#slowest[at]!;
    const steps = this.#steps[at]!;
    const last = count - 1;
    const limited = peerMemoryBytes < unbounded || (at === 0 && memoryBytes < unbounded);
    const top = at === levels.length - 1;
    const { copies, later } = place;
    const from = seconds[start]!;
    // Above zero, so that a plan that takes no time is below it.
    const firstCap = Math.max(cap * slack, 1e-300);

    for (let p = 0; p <= machines; p++) work.fill(none, p * count + start, (p + 1) * count);
    for (let j = start + 1; j < count; j++) {
      const here = seconds[j]!;
      if (here - from > firstCap * machines * devices) break;
      if (inside !== undefined && inside[j * count + start] === 0) continue;
      const sent = j === last ? 0 : transferSeconds[j]!;
      // Cuts inside this one, ascending.
      const firstPart = parts === undefined ? start + 1 : cuts.partStarts[j]!;
      const lastPart = parts === undefined ? j : cuts.partStarts[j + 1]!;
      const previous = this.#previous[j]!;
      const within =
        previous >= start && (previous === start || (inside?.[previous * count + start] ?? 1) === 1);
      slowest[j] = within ? Math.max(previous === start ? 0 : slowest[previous]!, steps[j]!) : 0;
      for (let p = 1; p <= machines; p++) {
        if (here - from > firstCap * p * devices) continue;
        if (here + firstCap * (machines - p) * devices < target) continue;
        let best = firstCap;
        let bestStart = 0;
        let bestReplicas = 0;
        if (p === 1 || !straight) {
          const fits = !limited || this.#fits(at, p, p, start, j, place);
          if (fits) {
            const parameters = parameterBytes[j]! - parameterBytes[start]!;
            const inner = { copies: copies * p, later: later + copies * (machines - p) * devices };
            const range =
              at === 0 ? here - from : this.#row(at, this.rowsBelow(at, inner), inner, start, top)[j]!;
            const value = (range + (4 * (p - 1) * parameters) / (bytesPerSecond * p) / share) / p;
            if (value < best) best = value;
          }
        }
        // The plan of the cut before, made longer, is near the best: it narrows the scans that follow.
        const near = p * count + previous;
        if (previous > start && work[near]! < none && lastReplicas[near]! > 0) {
          const m = lastReplicas[near]!;
          const k = lastStart[near]!;
          const value = this.#candidate(at, place, k, j, p, m, work[(p - m) * count + k]!, best, top);
          if (value < best) {
            best = value;
            bestStart = k;
            bestReplicas = m;
          }
        }
        const most = straight ? Math.min(1, p - 1) : p - 1;
        for (let m = 1; m <= most && best > slowest[j]!; m++) {
          const out = sent / m;
          if (out >= best) continue;
          const q = p - m;
          const perByte = (4 * (m - 1)) / (bytesPerSecond * m);
          // What precedes takes at least its seconds over its devices.
          let low = firstPart;
          let high = lastPart;
          const reach = from + best * slack * q * devices;
          while (low < high) {
            const middle = (low + high) >>> 1;
            if (seconds[parts === undefined ? middle : parts[middle]!]! < reach) low = middle + 1;
            else high = middle;
          }
          let longest = best * slack * m * devices;
          let received = best * m;
          let rows: (Float64Array | undefined)[] | undefined;
          let inner: Place | undefined;
          if (at > 0) {
            inner = { copies: copies * m, later: later + copies * (machines - p) * devices };
            rows = this.rowsBelow(at, inner);
          }
          for (let x = low - 1; x >= firstPart; x--) {
            const k = parts === undefined ? x : parts[x]!;
            if (k <= start) break;
            const span = here - seconds[k]!;
            if (span >= longest) break;
            const before = work[q * count + k]!;
            if (before >= best || transferSeconds[k]! >= received) continue;
            const reduce = perByte * (parameterBytes[j]! - parameterBytes[k]!);
            if (span / devices + reduce >= received) continue;
            if (limited && !this.#fits(at, p, m, k, j, place)) {
              continue;
            }
            const range = at === 0 ? span : (rows![k] ?? this.#row(at, rows!, inner!, k, top))[j]!;
            let value = (range + reduce) / m;
            if (value < before) value = before;
            if (value < out) value = out;
            const input = transferSeconds[k]! / m;
            if (value < input) value = input;
            if (value < best) {
              best = value;
              bestStart = k;
              bestReplicas = m;
              longest = best * slack * m * devices;
              received = best * m;
            }
          }
        }
        if (best < firstCap) {
          work[p * count + j] = best;
          lastStart[p * count + j] = bestStart;
          lastReplicas[p * count + j] = bestReplicas;
        }
      }
    }
    return work.slice(machines * count, (machines + 1) * count);
  }

  /** Value of a range that ends at `j` on `p` machines, its last stage from `k` on `m`; infinite beyond `best`. */
  #candidate(
    at: number,
    place: Place,
    k: number,
    j: number,
    p: number,
    m: number,
    before: number,
    best: number,
    top: boolean,
  ): number {
    const { cuts, levels } = this.#problem;
    const level = levels[at]!;
    const { machines, devices, transferSeconds } = level;
    const span = cuts.seconds[j]! - cuts.seconds[k]!;
    const reduce = reduceSeconds(level, m, cuts.parameterBytes[j]! - cuts.parameterBytes[k]!, false);
    const sent = j === cuts.count - 1 ? 0 : transferSeconds[j]!;
    const crossing = Math.max(before, Math.max(sent, transferSeconds[k]!) / m);
    if (crossing >= best || span / devices + reduce >= best * m || !this.#fits(at, p, m, k, j, place))
      return none;
    let range = span;
    if (at > 0) {
      const inner = {
        copies: place.copies * m,
        later: place.later + place.copies * (machines - p) * devices,
      };
      range = this.#row(at, this.rowsBelow(at, inner), inner, k, top)[j]!;
    }
    return Math.max(crossing, (range + reduce) / m);
  }

  /** Memory of the stage from cut `i` to `j` on `m` machines, the last of `used` machines of its level. */
  #fits(at: number, used: number, m: number, i: number, j: number, { copies, later }: Place): boolean {
    const { cuts, levels, peerMemoryBytes, memoryBytes } = this.#problem;
    const { machines } = levels[at]!;
    const parameters = cuts.parameterBytes[j]! - cuts.parameterBytes[i]!;
    const activations = cuts.activationBytes[j]! - cuts.activationBytes[i]!;
    if (Math.ceil((machines - used) / m) * (activations + parameters) > peerMemoryBytes) return false;
    if (at > 0 || memoryBytes >= unbounded) return true;
    return peakBytes(copies * m, later + copies * (machines - used), activations, parameters) <= memoryBytes;
  }
}
