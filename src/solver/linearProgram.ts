import { runTask } from "./pool.js";

/** A mixed-integer program to minimise, all columns within [0, 1], built row by row. */
export class LinearProgram {
  readonly #costs: number[] = [];
  readonly #integer: number[] = [];
  readonly #starts: number[] = [0];
  readonly #indices: number[] = [];
  readonly #values: number[] = [];
  readonly #lower: number[] = [];
  readonly #upper: number[] = [];

  get columns(): number {
    return this.#costs.length;
  }

  get rows(): number {
    return this.#lower.length;
  }

  /** Adds a column; its index. */
  column(cost: number, integer: boolean): number {
    this.#integer.push(integer ? 1 : 0);
    return this.#costs.push(cost) - 1;
  }

  /** Adds lower <= sum of value * column <= upper; each column once. */
  row(entries: Iterable<readonly [column: number, value: number]>, lower: number, upper: number): void {
    for (const [column, value] of entries) {
      this.#indices.push(column);
      this.#values.push(value);
    }
    this.#starts.push(this.#indices.length);
    this.#lower.push(lower);
    this.#upper.push(upper);
  }

  arrays() {
    return {
      columns: this.columns,
      rows: this.rows,
      costs: Float64Array.from(this.#costs),
      integrality: Int32Array.from(this.#integer),
      rowLower: Float64Array.from(this.#lower),
      rowUpper: Float64Array.from(this.#upper),
      starts: Int32Array.from(this.#starts),
      indices: Int32Array.from(this.#indices),
      values: Float64Array.from(this.#values),
    };
  }
}

export interface ProgramOptions {
  /** A value for each column to start from. */
  start?: Float64Array;
  seconds?: number;
  /** Relative gap at which an answer counts as optimal. */
  gap?: number;
  seed?: number;
  signal?: AbortSignal;
  /** Every better solution and every report of the search; the bound is that of the whole program. */
  onProgress?: (progress: { solution?: Float64Array; bound: number }) => void;
}

export interface ProgramAnswer {
  status: "optimal" | "infeasible" | "limit";
  solution?: Float64Array;
  /** No solution costs less; -Infinity where nothing is known. */
  bound: number;
}

/** A worker that was stopped gets this long to hand over what it has before it is ended. */
const graceSeconds = 0.5;

/**
 * Solves a program with HiGHS on a worker thread, streaming what it finds.
 * @throws MpoptError E_CANCELLED when the signal aborts, E_SOLVER when the worker fails
 */
export async function solveProgram(
  program: LinearProgram,
  options: ProgramOptions = {},
): Promise<ProgramAnswer> {
  const { start, seconds = Number.POSITIVE_INFINITY, gap = 1e-9, seed = 0, signal, onProgress } = options;
  let bound = Number.NEGATIVE_INFINITY;
  let solution: Float64Array | undefined;
  const raise = (found: number) => {
    // HiGHS writes its infinity as 1e30 or more.
    if (found > -1e20) bound = Math.max(bound, found);
  };
  const milp = { ...program.arrays(), start, seconds: Math.min(seconds, 1e9), gap, seed };
  const reply = await runTask(
    { milp },
    {
      signal,
      seconds: seconds + graceSeconds,
      onProgress: (progress) => {
        raise(progress.bound);
        solution = progress.solution ?? solution;
        onProgress?.({ solution: progress.solution, bound });
      },
    },
  );
  if (!reply) return { status: "limit", solution, bound };
  raise(reply.bound);
  return { status: reply.status, solution: reply.solution ?? solution, bound };
}
