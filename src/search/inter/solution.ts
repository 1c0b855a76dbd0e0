/** One stage of an inter-operator plan. */
export interface InterStage {
  /** Indices into the graph's nodes. */
  nodes: number[];
  /** Data-parallel copies of the stage. */
  replicas: number;
  /** Tensor-parallel degree of one copy. */
  tensor: number;
  /** Nodes of the stage that are recomputed. */
  recomputed: number[];
  /** Indices into the variants of each of `nodes`, where degree and recomputation do not name one alone. */
  variants?: number[];
  /** Devices, numbered level by level from the innermost; empty where the cost model does not name them. */
  devices: number[];
  /** Seconds of the stage in the objective's model. */
  seconds: number;
  /** Bytes of the fullest device of the stage. */
  memoryBytes: number;
}

/** An answer with its certificate. */
export interface InterSolution {
  status: "optimal" | "feasible" | "infeasible";
  /** Value of the cost model's objective, in `unit`. */
  objective: number;
  /** No plan within `restriction` is better. */
  bound: number;
  /** (objective - bound) / objective. */
  gap: number;
  unit: "seconds" | "milliseconds";
  /** Processor time of the search. */
  cpuSeconds: number;
  stages: InterStage[];
  /** What the bound relies on, in words: "contiguous stages of one linear order". Empty for none. */
  restriction: string;
  /** Why there is no plan, where there is none: the tightest constraint, in one sentence. */
  reason?: string;
}
