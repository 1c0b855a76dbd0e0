import type { Core, MilpTask } from "./protocol.js";

/** Beyond this many columns HiGHS in WASM nears the end of its 2 GiB heap. */
export const maximumColumns = 250_000;

/** A row over strategy columns: sum of value * s <= upper. */
interface ExtraRow {
  indices: number[];
  values: number[];
  upper: number;
}

/**
 * The mixed-integer program of Alpa (OSDI'22, section 4.2): s[v,p] is 1 where variable v takes strategy p,
 * exactly one a variable; e[p,q] in [0, 1] is continuous and tied to its ends by the tight equalities
 * sum_q e[p,q] = s[a,p] and sum_p e[p,q] = s[b,q]. Forbidden choices have no column. Memory rows are added
 * one time step at a time: few of them bind.
 */
export class Milp {
  readonly columns: number;
  /** A variable has no strategy left: nothing to solve. */
  readonly impossible: boolean = false;
  /** Strategies' columns per variable: column of s[v,p], or -1 where it is forbidden. */
  private readonly strategyColumns: Int32Array;
  private readonly first: Int32Array;
  private readonly costs: number[] = [];
  private readonly starts: number[] = [0];
  private readonly indices: number[] = [];
  private readonly values: number[] = [];
  private readonly lower: number[] = [];
  private readonly upper: number[] = [];
  private readonly edgeColumns: number[][] = [];
  /** Costs are divided by this, so that the program's are O(1). */
  private readonly scale: number;
  private readonly memorySteps = new Set<number>();
  private readonly tail: ExtraRow[] = [];
  private readonly binary: number;

  constructor(
    private readonly core: Core,
    ceiling = Number.POSITIVE_INFINITY,
  ) {
    const { counts, costs, ends, tables } = core;
    this.first = new Int32Array(counts.length + 1);
    for (const [v, count] of counts.entries()) this.first[v + 1] = this.first[v]! + count;
    // Where nothing is negative, an entry above a known objective is in no better assignment.
    const least = [costs, tables].reduce(
      (low, list) => list.reduce((x, y) => Math.min(x, y), low),
      core.constant,
    );
    const most = least >= 0 ? ceiling * (1 + 1e-9) - core.constant : Number.POSITIVE_INFINITY;
    const open = (cost: number) => Number.isFinite(cost) && cost <= most;
    let largest = 0;
    for (const list of [costs, tables]) {
      for (const cost of list) if (open(cost)) largest = Math.max(largest, Math.abs(cost));
    }
    this.scale = largest > 0 ? largest / 100 : 1;

    this.strategyColumns = new Int32Array(costs.length).fill(-1);
    for (let v = 0; v < counts.length; v++) {
      const row: number[] = [];
      for (let i = this.first[v]!; i < this.first[v + 1]!; i++) {
        if (!open(costs[i]!)) continue;
        this.strategyColumns[i] = this.column(costs[i]!);
        row.push(this.strategyColumns[i]!);
      }
      if (row.length === 0) this.impossible = true;
      this.row(row, new Array(row.length).fill(1), 1, 1);
    }
    this.binary = this.costs.length;

    let at = 0;
    for (let e = 0; e < ends.length / 2; e++) {
      const [a, b] = [ends[2 * e]!, ends[2 * e + 1]!];
      const [rows, width] = [counts[a]!, counts[b]!];
      const byRow = Array.from({ length: rows }, (): number[] => []);
      const byColumn = Array.from({ length: width }, (): number[] => []);
      const columns = new Array<number>(rows * width).fill(-1);
      for (let p = 0; p < rows; p++) {
        for (let q = 0; q < width; q++, at++) {
          const ends = [this.strategyColumns[this.first[a]! + p]!, this.strategyColumns[this.first[b]! + q]!];
          if (!open(tables[at]!) || ends[0]! < 0 || ends[1]! < 0) continue;
          const column = this.column(tables[at]!);
          columns[p * width + q] = column;
          byRow[p]!.push(column);
          byColumn[q]!.push(column);
        }
      }
      this.edgeColumns.push(columns);
      this.tie(byRow, a);
      this.tie(byColumn, b);
    }
    this.columns = this.costs.length;
  }

  private column(cost: number): number {
    return this.costs.push(cost / this.scale) - 1;
  }

  private row(indices: number[], values: number[], lower: number, upper: number): void {
    for (const index of indices) this.indices.push(index);
    for (const value of values) this.values.push(value);
    this.starts.push(this.indices.length);
    this.lower.push(lower);
    this.upper.push(upper);
  }

  /** sum of the entries = s[v,p], for each p. */
  private tie(entries: number[][], v: number): void {
    for (const [p, columns] of entries.entries()) {
      const strategy = this.strategyColumns[this.first[v]! + p]!;
      if (strategy < 0) continue;
      this.row([...columns, strategy], [...columns.map(() => 1), -1], 0, 0);
    }
  }

  /**
   * Adds the rows that an assignment breaks: the worst step of each run of broken steps, or, where the row is
   * there already and rounding let it pass, a cover cut that excludes just these choices at that step.
   * Returns how many were added: 0 means that the assignment respects the memory.
   */
  cut(chosen: ArrayLike<number>): number {
    const { uses, usages, limits, counts } = this.core;
    const usage = new Float64Array(limits.length + 1);
    let at = 0;
    for (let u = 0; u < uses.length; u += 3) {
      const amount = usages[at + chosen[uses[u]!]!]!;
      for (let t = uses[u + 1]!; t < uses[u + 2]!; t++) usage[t]! += amount;
      at += counts[uses[u]!]!;
    }
    let added = 0;
    let worst = -1;
    for (let t = 0; t <= limits.length; t++) {
      const over = t < limits.length && usage[t]! > limits[t]!;
      if (over && (worst < 0 || usage[t]! - limits[t]! > usage[worst]! - limits[worst]!)) worst = t;
      if (over || worst < 0) continue;
      this.addStep(worst, chosen);
      added++;
      worst = -1;
    }
    return added;
  }

  /** Adds the memory rows of all steps where they are few. */
  addAllSteps(atMost: number): void {
    const { uses, limits } = this.core;
    let entries = 0;
    for (let u = 0; u < uses.length; u += 3) entries += uses[u + 2]! - uses[u + 1]!;
    if (entries > atMost) return;
    for (let t = 0; t < limits.length; t++) this.addStep(t);
  }

  private addStep(step: number, broken?: ArrayLike<number>): void {
    const { uses, usages, limits, counts } = this.core;
    const indices: number[] = [];
    const amounts: number[] = [];
    const cover = this.memorySteps.has(step) ? broken : undefined;
    let at = 0;
    for (let u = 0; u < uses.length; u += 3) {
      const v = uses[u]!;
      if (uses[u + 1]! <= step && step < uses[u + 2]!) {
        for (let p = 0; p < counts[v]!; p++) {
          const column = this.strategyColumns[this.first[v]! + p]!;
          const amount = usages[at + p]!;
          if (amount === 0 || column < 0 || (cover && cover[v] !== p)) continue;
          indices.push(column);
          amounts.push(amount);
        }
      }
      at += counts[v]!;
    }
    this.memorySteps.add(step);
    if (cover) {
      this.tail.push({ indices, values: indices.map(() => 1), upper: indices.length - 1 });
      return;
    }
    const unit = Math.max(
      limits[step]!,
      amounts.reduce((most, amount) => Math.max(most, amount), 0),
    );
    if (!(unit > 0)) return;
    this.tail.push({ indices, values: amounts.map((amount) => amount / unit), upper: limits[step]! / unit });
  }

  /** The program with the memory rows so far. */
  task(seconds: number, gap: number, seed: number, start?: ArrayLike<number>): MilpTask {
    const rows = this.lower.length + this.tail.length;
    const indices = [...this.tail.flatMap((row) => row.indices)];
    const starts = new Int32Array(rows + 1);
    starts.set(this.starts);
    let end = this.indices.length;
    for (const [index, row] of this.tail.entries()) {
      end += row.indices.length;
      starts[this.lower.length + 1 + index] = end;
    }
    const allIndices = new Int32Array(end);
    allIndices.set(this.indices);
    allIndices.set(indices, this.indices.length);
    const allValues = new Float64Array(end);
    allValues.set(this.values);
    allValues.set(
      this.tail.flatMap((row) => row.values),
      this.values.length,
    );
    const rowLower = new Float64Array(rows).fill(Number.NEGATIVE_INFINITY);
    rowLower.set(this.lower);
    const rowUpper = new Float64Array(rows);
    rowUpper.set(this.upper);
    rowUpper.set(
      this.tail.map((row) => row.upper),
      this.lower.length,
    );
    const integrality = new Int32Array(this.columns);
    integrality.fill(1, 0, this.binary);
    return {
      columns: this.columns,
      rows,
      costs: Float64Array.from(this.costs),
      integrality,
      rowLower,
      rowUpper,
      starts,
      indices: allIndices,
      values: allValues,
      start: start && this.columnValues(start),
      seconds,
      gap,
      seed,
    };
  }

  private columnValues(chosen: ArrayLike<number>): Float64Array {
    const { counts, ends } = this.core;
    const values = new Float64Array(this.columns);
    for (let v = 0; v < counts.length; v++) {
      const column = this.strategyColumns[this.first[v]! + chosen[v]!]!;
      if (column >= 0) values[column] = 1;
    }
    for (const [e, columns] of this.edgeColumns.entries()) {
      const column = columns[chosen[ends[2 * e]!]! * counts[ends[2 * e + 1]!]! + chosen[ends[2 * e + 1]!]!]!;
      if (column >= 0) values[column] = 1;
    }
    return values;
  }

  /** The strategies that column values choose: the largest of each variable. */
  read(solution: ArrayLike<number>): Int32Array {
    const chosen = new Int32Array(this.core.counts.length);
    for (let v = 0; v < chosen.length; v++) {
      let most = Number.NEGATIVE_INFINITY;
      for (let p = 0; p < this.core.counts[v]!; p++) {
        const column = this.strategyColumns[this.first[v]! + p]!;
        if (column < 0 || solution[column]! <= most) continue;
        most = solution[column]!;
        chosen[v] = p;
      }
    }
    return chosen;
  }

  /** A bound of the program as a cost of the problem, less a margin for HiGHS's tolerances. */
  unscale(bound: number): number {
    const cost = bound * this.scale;
    return cost - 1e-9 * Math.abs(cost) + this.core.constant;
  }
}
