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
  /** Seconds of one micro-batch; grows with the range. */
  seconds(stage: number, start: number, end: number): number;
  /** Seconds once a step. */
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

/** Tables of every stage and range, so that each is priced once. */
class Tables {
  readonly layers: number;
  readonly stages: number;
  readonly #width: number;
  /** Infinity where the stage does not fit or may not be empty. */
  readonly a: Float64Array;
  readonly e: Float64Array;

  constructor(problem: StageProblem, cutoff: number) {
    const { layers, stages, microBatches, leastSeconds = 0 } = problem;
    // T < cutoff and T >= leastSeconds + (m - 1) a leave no room for a slower stage.
    const slowest = microBatches > 1 ? (cutoff - leastSeconds) / (microBatches - 1) : none;
    this.layers = layers;
    this.stages = stages;
    this.#width = layers + 1;
    this.a = new Float64Array(stages * this.#width * this.#width).fill(none);
    this.e = new Float64Array(this.a.length);
    for (let stage = 0; stage < stages; stage++) {
      const mayBeEmpty = stages > 1 && (stage === 0 || stage === stages - 1);
      for (let start = 0; start <= (stage === 0 ? 0 : layers); start++) {
        const shortest = Math.max(stage === stages - 1 ? layers : 0, start + (mayBeEmpty ? 0 : 1));
        const possible = (end: number) =>
          problem.seconds(stage, start, end) <= slowest && problem.fits(stage, start, end);
        const longest = lastThat(possible, shortest, layers);
        for (let end = shortest; end <= longest; end++) {
          const k = this.index(stage, start, end);
          this.a[k] = problem.seconds(stage, start, end);
          this.e[k] = problem.stepSeconds(stage, start, end);
        }
      }
    }
  }

  index(stage: number, start: number, end: number): number {
    return (stage * this.#width + start) * this.#width + end;
  }

  /** Least maximum of `values` over all cuts; Infinity where none fits. */
  bottleneck(values: Float64Array): number {
    const { layers, stages } = this;
    let best = new Float64Array(layers + 1).fill(none);
    best[0] = Number.NEGATIVE_INFINITY;
    for (let stage = 0; stage < stages; stage++) {
      const next = new Float64Array(layers + 1).fill(none);
      for (let start = 0; start <= layers; start++) {
        const before = best[start]!;
        if (before === none) continue;
        for (let end = start; end <= layers; end++) {
          const k = this.index(stage, start, end);
          if (this.a[k] === none) {
            if (end > start && stage < stages - 1) break;
            continue;
          }
          const value = Math.max(before, values[k]!);
          if (value < next[end]!) next[end] = value;
        }
      }
      best = next;
    }
    return best[layers]!;
  }

  /** Least sum of a over cuts with every a at most `capA` and every e below `capE`; undefined where none is. */
  leastSum(capA: number, capE: number): { sum: number; boundaries: number[] } | undefined {
    const { layers, stages } = this;
    const width = layers + 1;
    const from = new Int32Array(stages * width).fill(-1);
    let best = new Float64Array(width).fill(none);
    best[0] = 0;
    for (let stage = 0; stage < stages; stage++) {
      const next = new Float64Array(width).fill(none);
      for (let start = 0; start <= layers; start++) {
        const before = best[start]!;
        if (before === none) continue;
        for (let end = start; end <= layers; end++) {
          const k = this.index(stage, start, end);
          const a = this.a[k]!;
          if (a > capA && end > start && stage < stages - 1) break;
          if (a > capA || this.e[k]! >= capE) continue;
          const value = before + a;
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

  maximum(values: Float64Array, boundaries: readonly number[]): number {
    let largest = Number.NEGATIVE_INFINITY;
    for (let stage = 0; stage < this.stages; stage++) {
      largest = Math.max(largest, values[this.index(stage, boundaries[stage]!, boundaries[stage + 1]!)]!);
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

/** Least value of the largest stage over all contiguous cuts, for a value that grows with the range. */
export function leastMaximum(
  layers: number,
  stages: number,
  value: (stage: number, start: number, end: number) => number,
): number {
  if (stages > layers + 2) return none;
  const every = { layers, stages, microBatches: 1, seconds: value, stepSeconds: () => 0, fits: () => true };
  const tables = new Tables(every, none);
  return tables.bottleneck(tables.a);
}

/** Least sum + repeats x max over cuts with every e below `capE`. */
function leastPipeline(
  tables: Tables,
  capE: number,
  repeats: number,
): { value: number; boundaries: number[] } | undefined {
  const free = tables.leastSum(Number.MAX_VALUE, capE);
  if (!free) return undefined;
  const allowed = new Float64Array(tables.a.length);
  for (let k = 0; k < allowed.length; k++) allowed[k] = tables.e[k]! < capE ? tables.a[k]! : none;
  let capA = tables.bottleneck(allowed);
  let best: { value: number; boundaries: number[] } | undefined;
  while (capA !== none) {
    const cut = tables.leastSum(capA, capE)!;
    const value = cut.sum + repeats * tables.maximum(tables.a, cut.boundaries);
    if (!best || value < best.value) best = { value, boundaries: cut.boundaries };
    capA = allowed.reduce((least, a) => (a > capA && a < least ? a : least), none);
    // A larger cap saves at most what separates this sum from the free one.
    if (free.sum + repeats * capA >= best.value) break;
  }
  return best;
}
