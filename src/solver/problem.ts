/**
 * The discrete problem that intra-operator planning solves: choose one strategy a node, pay for the choice
 * and for each edge's pair of choices, and stay under a memory limit at every time step. It is the problem
 * of Alpa's intra-operator ILP (OSDI'22, section 4.2) in the form of the ASPLOS 2025 contest (google/iopddl).
 */
export interface Problem {
  nodes: ProblemNode[];
  edges: ProblemEdge[];
  /** Limit on the sum of usages at every time step; undefined is none. */
  usageLimit?: number;
}

export interface ProblemNode {
  /** Cost of each strategy, at least one; Infinity forbids it. */
  costs: number[];
  /** Usage of each strategy while the interval lasts. */
  usages: number[];
  /** Half-open interval of time steps; undefined where the node uses nothing. */
  interval?: [start: number, end: number];
}

export interface ProblemEdge {
  from: number;
  to: number;
  /** Row-major table, `from`'s strategies by `to`'s; Infinity forbids a pair. Parallel edges add up. */
  costs: number[];
}

export interface SolveLimits {
  /** Wall-clock limit. */
  seconds?: number;
  /** Stop when (objective - bound) / objective is at most this; default 1e-9. */
  gap?: number;
  seed?: number;
  signal?: AbortSignal;
  onProgress?: (progress: { objective: number; bound: number; seconds: number }) => void;
}

/** Every answer carries a bound: no assignment costs less. */
export interface Solution {
  status: "optimal" | "feasible" | "infeasible" | "unknown";
  /** Cost of `assignment`; Infinity where there is none. */
  objective: number;
  bound: number;
  /** (objective - bound) / max(|objective|, tiny); Infinity without an assignment. */
  gap: number;
  seconds: number;
  /** Strategy of each node; empty where there is none. */
  assignment: number[];
  /** Which engine answered. */
  engine: string;
}
