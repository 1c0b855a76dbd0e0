/**
 * A pipeline schedule as data: what every pipeline rank does, in which order. Nothing here says when; the
 * simulator finds that out from the stages' times.
 *
 * A stage is one model chunk on one rank ("virtual stage" where a rank holds several). `backward` is the whole
 * backward pass; `backward-input` and `backward-weight` are its halves (Qi et al., "Zero Bubble Pipeline
 * Parallelism", ICLR 2024, section 2): the gradient that the stage before waits for, and the one that only the
 * optimizer waits for.
 */
export type ComputeKind = "forward" | "backward" | "backward-input" | "backward-weight";

/**
 * `send` and `receive` move one micro-batch's activation or gradient between neighbouring stages; a table
 * without them leaves transfers to the runtime, which posts them early. `all-gather` (unshard), `reshard` and
 * `reduce` are those of a sharded stage's parameters and gradients. These and `optimizer` are actions of a
 * whole stage.
 */
export type ActionKind = ComputeKind | "send" | "receive" | "all-gather" | "reshard" | "reduce" | "optimizer";

export interface Action {
  kind: ActionKind;
  stage: number;
  /** -1 for actions of a whole stage. */
  microBatch: number;
  /** What a `send` or `receive` moves. */
  payload?: "activation" | "gradient";
  /**
   * The action runs side by side with the next one on its rank (DualPipe's overlapped forward and backward). The
   * two start together, when both have their inputs, and hand on their outputs together.
   */
  overlapped?: boolean;
}

/** Stages that some micro-batches pass, first to last. A stage lies on one route, a micro-batch takes one. */
export interface Route {
  stages: number[];
  microBatches: number[];
}

export interface ScheduleTable {
  /** `1f1b`, `gpipe`, or whatever the maker calls it. */
  name: string;
  /** Stages of all routes together. */
  stages: number;
  microBatches: number;
  /** One ordered list a pipeline rank. A rank may hold several stages; a stage lives on one rank. */
  ranks: Action[][];
  /** Bidirectional pipelines have two routes; by default every micro-batch passes 0 to stages - 1. */
  routes?: Route[];
  /**
   * Layers that each stage holds, as an index: stages with the same index are copies, whose gradients are
   * summed. By default each stage has its own.
   */
  layersOf?: number[];
  /**
   * Schedules without a flush: versions of its weights that each stage keeps (PipeDream, SOSP'19, section 3.3;
   * 2BW, ICML'21, section 3.1). Absent for synchronous ones, which keep one.
   */
  weightVersions?: number[];
}

export { type CheckOptions, checkActions, type MemoryLimit } from "./check.js";
