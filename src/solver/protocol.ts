/** Messages between the solver and its worker thread (worker.mjs): flat arrays, cheap to clone. */

/** A problem for the kernel; the arrays are those of `mpopt_problem` in native/include/mpopt/solver.h. */
export interface FlatProblem {
  counts: Int32Array;
  /** Node after node. */
  costs: Float64Array;
  usages: Float64Array;
  /** Start and end of each node; equal where it uses nothing. */
  intervals: Int32Array;
  ends: Int32Array;
  /** Edge after edge, row-major. */
  tables: Float64Array;
  usageLimit: number;
}

export interface KernelTask extends FlatProblem {
  wasm: string;
  seconds: number;
  gap: number;
  /** Limit on branch-and-bound nodes, 0: none. */
  searchNodes: number;
  /** Limit on elimination table entries, 0: the kernel's default. */
  tableEntries: number;
  /** Return the reduced problem where the kernel does not finish. */
  wantCore: boolean;
}

/**
 * A reduced problem (`mpopt_core`): variables with costs and edges, and usages that hold over ranges of time
 * steps, one row of memory a step.
 */
export interface Core {
  constant: number;
  counts: Int32Array;
  costs: Float64Array;
  ends: Int32Array;
  tables: Float64Array;
  /** Variable, first step, step past the last. */
  uses: Int32Array;
  /** Use after use, one a strategy of its variable. */
  usages: Float64Array;
  limits: Float64Array;
  /** Variable of each node, -1 where the node is fixed. */
  nodeVariables: Int32Array;
  /** Node after node: its strategy for each strategy of its variable (one where fixed). */
  nodeStrategies: Int32Array;
}

export interface KernelReply {
  status: "optimal" | "feasible" | "infeasible" | "unknown";
  variables: number;
  timeSteps: number;
  objective: number;
  bound: number;
  searchNodes: number;
  tableEntries: number;
  exactTables: boolean;
  assignment?: Int32Array;
  core?: Core;
}

/** A mixed-integer program with all columns in [0, 1]; rows in compressed form. */
export interface MilpTask {
  columns: number;
  rows: number;
  costs: Float64Array;
  integrality: Int32Array;
  rowLower: Float64Array;
  rowUpper: Float64Array;
  starts: Int32Array;
  indices: Int32Array;
  values: Float64Array;
  /** A value for each column to start from. */
  start?: Float64Array;
  seconds: number;
  gap: number;
  seed: number;
}

export interface MilpReply {
  status: "optimal" | "infeasible" | "limit";
  solution?: Float64Array;
  bound: number;
}

export interface Progress {
  objective?: number;
  bound: number;
  /** Column values of a better solution of the program. */
  solution?: Float64Array;
}
