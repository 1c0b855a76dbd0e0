/**
 * Exact cut of a chain of layers into pipeline stages.
 *
 * Over all contiguous cuts into p stages whose memory fits, minimise
 *   T = sum_i a_i + (m - 1) max_i a_i + max_i e_i,
 * a_i the seconds of stage i for one micro-batch (forward, backward, transfers), e_i what the stage adds once
 * a step (gradient synchronisation, optimizer), m the micro-batches: fill and drain of a synchronous pipeline
 * (Alpa, OSDI'22, equation 2, with the transfers and the synchronisation that it leaves out).
 *
 * Method: for caps A on a and E on e, dynamic programming finds the least sum in O(p L^2). The caps are
 * enumerated: A upwards from the least bottleneck until no larger A can pay for itself, E downwards from the
 * best answer so far, each time to strictly less than what was found, until no smaller E can pay.
 */

/** What the cut needs to know of a stage that holds block layers [start, end). */
export interface StageProblem {
  layers: number;
  stages: number;
  microBatches: number;
  /** Sum of all stages' seconds that no cut goes below; lets a cutoff discard long stages early. */
  leastSeconds?: number;
  /** Seconds of one micro-batch; grows with the range, and is the same on all stages between first and last. */
  seconds(stage: number, start: number, end: number): number;
  /** Seconds once a step; the same on all stages between first and last. */
  stepSeconds(stage: number, start: number, end: number): number;
  /** Whether the stage's memory fits its limit; once a range does not fit, no longer one does. */
  fits(stage: number, start: number, end: number): boolean;
}

export interface StageCut {
  /** Value of T. */
  objective: number;
  /** Stage i holds block layers [boundaries[i], boundaries[i + 1]). */
  boundaries: number[];
}

const none = Number.POSITIVE_INFINITY;

/**
 * Tables of every range, so that each is priced once: of the first stage, the last, and all between, which differ in
 * what fits alone.
 */
class Tables {
  readonly layers: number;
  readonly stages: number;
  readonly #width: number;
  /** By kind of stage and range; Infinity where the range fits no stage of the kind or may not be its own. */
  readonly a: Float64Array[];
  readonly e: Float64Array[];
  /** The longest range of each stage from each start, by its end; below the shortest where none fits. */
  readonly #longest: Int32Array;

  constructor(problem: StageProblem, cutoff: number) {
    const { layers, stages, microBatches, leastSeconds = 0 } = problem;
    // T < cutoff and T >= leastSeconds + (m - 1) a leave no room for a slower stage.
    const slowest = microBatches > 1 ? (cutoff - leastSeconds) / (microBatches - 1) : none;
    this.layers = layers;
    this.stages = stages;
    this.#width = layers + 1;
    this.#longest = new Int32Array(stages * this.#width);
    const kinds = Math.min(3, stages);
    const table = () => new Float64Array(this.#width * this.#width).fill(none);
    this.a = Array.from({ length: kinds }, table);
    this.e = Array.from({ length: kinds }, table);
    for (let stage = 0; stage < stages; stage++) {
      const kind = this.kind(stage);
      const a = this.a[kind]!;
      const e = this.e[kind]!;
      for (let start = 0; start <= (stage === 0 ? 0 : layers); start++) {
        const shortest = this.shortest(stage, start);
        const possible = (end: number) =>
          problem.seconds(stage, start, end) <= slowest && problem.fits(stage, start, end);
        const longest = lastThat(possible, shortest, layers);
        this.#longest[stage * this.#width + start] = longest;
        for (let end = longest; end >= shortest; end--) {
          const k = start * this.#width + end;
          // What a stage before had room for is known from there.
          if (a[k] !== none) break;
          a[k] = problem.seconds(stage, start, end);
          e[k] = problem.stepSeconds(stage, start, end);
        }
      }
    }
  }

  /** 0 for the first stage, 1 for the last, 2 for those between. */
  kind(stage: number): number {
    if (stage === 0) return 0;
    return stage === this.stages - 1 ? 1 : 2;
  }

  /** The least end of a stage's range: the last one takes all that is left, only those at the ends may be empty. */
  shortest(stage: number, start: number): number {
    const last = this.stages - 1;
    const mayBeEmpty = last > 0 && (stage === 0 || stage === last);
    return Math.max(stage === last ? this.layers : 0, start + (mayBeEmpty ? 0 : 1));
  }

  /** Least maximum of `values`, by kind, over all cuts; Infinity where none fits. */
  bottleneck(values: readonly Float64Array[]): number {
    const { layers, stages } = this;
    const width = this.#width;
    let best = new Float64Array(width).fill(none);
    best[0] = Number.NEGATIVE_INFINITY;
    for (let stage = 0; stage < stages; stage++) {
      const next = new Float64Array(width).fill(none);
      const value = values[this.kind(stage)]!;
      for (let start = 0; start <= layers; start++) {
        const before = best[start]!;
        if (before === none) continue;
        const longest = this.#longest[stage * width + start]!;
        for (let end = this.shortest(stage, start); end <= longest; end++) {
          const largest = Math.max(before, value[start * width + end]!);
          if (largest < next[end]!) next[end] = largest;
        }
      }
      best = next;
    }
    return best[layers]!;
  }

  /** Least sum of a over cuts with every a at most `capA` and every e below `capE`; undefined where none is. */
  leastSum(capA: number, capE: number): { sum: number; boundaries: number[] } | undefined {
    const { layers, stages } = this;
    const width = this.#width;
    const from = new Int32Array(stages * width).fill(-1);
    let best = new Float64Array(width).fill(none);
    best[0] = 0;
    for (let stage = 0; stage < stages; stage++) {
      const next = new Float64Array(width).fill(none);
      const kind = this.kind(stage);
      const a = this.a[kind]!;
      const e = this.e[kind]!;
      for (let start = 0; start <= layers; start++) {
        const before = best[start]!;
        if (before === none) continue;
        const longest = this.#longest[stage * width + start]!;
        for (let end = this.shortest(stage, start); end <= longest; end++) {
          const k = start * width + end;
          const seconds = a[k]!;
          // Longer stages take longer.
          if (seconds > capA) break;
          if (e[k]! >= capE) continue;
          const value = before + seconds;
          if (value < next[end]!) {
            next[end] = value;
            from[stage * width + end] = start;
          }
        }
      }
      best = next;
    }
    if (best[layers] === none) return undefined;
    const boundaries = [layers];
    for (let stage = stages - 1; stage >= 0; stage--) {
      boundaries.unshift(from[stage * width + boundaries[0]!]!);
    }
    return { sum: best[layers]!, boundaries };
  }

  maximum(values: readonly Float64Array[], boundaries: readonly number[]): number {
    let largest = Number.NEGATIVE_INFINITY;
    for (let stage = 0; stage < this.stages; stage++) {
      const k = boundaries[stage]! * this.#width + boundaries[stage + 1]!;
      largest = Math.max(largest, values[this.kind(stage)]![k]!);
    }
    return largest;
  }
}

/** The largest value in [low, high] that holds, when all below it hold too; low - 1 where none does. */
function lastThat(holds: (value: number) => boolean, low: number, high: number): number {
  let known = low - 1;
  let unknown = high;
  while (known < unknown) {
    const middle = Math.ceil((known + 1 + unknown) / 2);
    if (holds(middle)) known = middle;
    else unknown = middle - 1;
  }
  return known;
}

/**
 * The best cut, proven.
 * @param cutoff stop as soon as no cut can be below this value.
 * @returns undefined where no cut fits, or none is below the cutoff.
 */
export function cutStages(problem: StageProblem, cutoff = none): StageCut | undefined {
  if (problem.stages > problem.layers + 2) return undefined;
  const tables = new Tables(problem, cutoff);
  const repeats = problem.microBatches - 1;
  const leastE = tables.bottleneck(tables.e);
  if (leastE === none) return undefined;
  let best: StageCut | undefined;
  let bestValue = cutoff;
  let capE = none;
  for (;;) {
    const cut = leastPipeline(tables, capE, repeats);
    if (!cut || cut.value + leastE >= bestValue) break;
    const e = tables.maximum(tables.e, cut.boundaries);
    if (cut.value + e < bestValue) {
      bestValue = cut.value + e;
      best = { objective: bestValue, boundaries: cut.boundaries };
    }
    capE = e;
  }
  return best;
}

/**
 * Least value of the largest stage over all contiguous cuts, for a value that grows with the range: the limit under which
 * some cut exists is halved into place, then lowered to the next value below until there is none.
 */
export function leastMaximum(
  layers: number,
  stages: number,
  value: (stage: number, start: number, end: number) => number,
): number {
  if (stages > layers + 2) return none;
  /** The largest value of some cut whose values all hold; undefined where there is none. */
  const reach = (holds: (value: number) => boolean): number | undefined => {
    // By boundary: the start of the stage that ends there, of each stage.
    const from: Int32Array[] = [];
    let starts = new Int32Array(layers + 1).fill(-1);
    starts[0] = 0;
    for (let stage = 0; stage < stages; stage++) {
      const last = stage === stages - 1;
      const least = stages > 1 && (stage === 0 || last) ? 0 : 1;
      const ends = new Int32Array(layers + 1).fill(-1);
      // A later start never reaches less far, so that what is reached is known up to `known`.
      let known = -1;
      for (let start = 0; start <= layers; start++) {
        if (starts[start]! < 0) continue;
        let end = Math.max(last ? layers : start + least, known + 1);
        if (start + least > layers) break;
        while (end <= layers && holds(value(stage, start, end))) ends[end++] = start;
        known = Math.max(known, end - 1);
      }
      from.push(ends);
      starts = ends;
    }
    if (starts[layers]! < 0) return undefined;
    let largest = Number.NEGATIVE_INFINITY;
    for (let stage = stages - 1, end = layers; stage >= 0; stage--) {
      const start = from[stage]![end]!;
      largest = Math.max(largest, value(stage, start, end));
      end = start;
    }
    return largest;
  };
  let best = reach(() => true);
  if (best === undefined) return none;
  let below = stages === 1 ? best : Math.max(value(0, 0, 0), value(stages - 1, layers, layers));
  while (best - below > 1e-9 * Math.abs(best)) {
    const middle = below + (best - below) / 2;
    const found = reach((each) => each <= middle);
    if (found === undefined) below = middle;
    else best = found;
  }
  for (;;) {
    const known: number = best;
    const found = reach((each) => each < known);
    if (found === undefined) return known;
    best = found;
  }
}

/** Least sum + repeats x max over cuts with every e below `capE`. */
function leastPipeline(
  tables: Tables,
  capE: number,
  repeats: number,
): { value: number; boundaries: number[] } | undefined {
  const free = tables.leastSum(Number.MAX_VALUE, capE);
  if (!free) return undefined;
  const allowed = tables.a.map((a, kind) =>
    a.map((seconds, k) => (tables.e[kind]![k]! < capE ? seconds : none)),
  );
  let capA = tables.bottleneck(allowed);
  let best: { value: number; boundaries: number[] } | undefined;
  while (capA !== none) {
    const cut = tables.leastSum(capA, capE)!;
    const value = cut.sum + repeats * tables.maximum(tables.a, cut.boundaries);
    if (!best || value < best.value) best = { value, boundaries: cut.boundaries };
    capA = leastAbove(allowed, capA);
    // A larger cap saves at most what separates this sum from the free one.
    if (free.sum + repeats * capA >= best.value) break;
  }
  return best;
}

function leastAbove(tables: readonly Float64Array[], value: number): number {
  let least = none;
  for (const table of tables) {
    for (let k = 0; k < table.length; k++) {
      const each = table[k]!;
      if (each > value && each < least) least = each;
    }
  }
  return least;
}
