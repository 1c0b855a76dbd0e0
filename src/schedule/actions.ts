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
  /** The action runs side by side with the next one on its rank (DualPipe's overlapped forward and backward). */
  overlapped?: boolean;
}

/** Stages that some micro-batches pass, first to last. */
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

/** How many violations `checkActions` lists before it stops. */
const maximumFindings = 20;

/**
 * Checks that a schedule does all work once and in an order that data allows on each rank: every micro-batch
 * passes every stage once in each direction, a stage stays on one rank, and on that rank a micro-batch's
 * backward follows its forward. Whether the ranks wait for each other in a circle shows in `compileSchedule`.
 * @returns one sentence a violation, at most 20; empty for a valid table.
 */
export function checkActions(table: ScheduleTable): string[] {
  const { stages, microBatches, ranks } = table;
  const findings: string[] = [];
  const report = (sentence: string) => {
    if (findings.length < maximumFindings) findings.push(sentence);
  };
  if (!Number.isInteger(stages) || stages < 1) report(`Expected at least 1 stage but found ${stages}.`);
  if (!Number.isInteger(microBatches) || microBatches < 1) {
    report(`Expected at least 1 micro-batch but found ${microBatches}.`);
  }
  if (findings.length) return findings;

  // Bit 1: forward seen; bit 2: backward seen.
  const seen = new Uint8Array(stages * microBatches);
  const rankOfStage = new Int32Array(stages).fill(-1);
  ranks.forEach((actions, rank) => {
    for (const { kind, stage, microBatch } of actions) {
      const where = `${kind} of micro-batch ${microBatch} at stage ${stage} on rank ${rank}`;
      if (kind !== "forward" && kind !== "backward") {
        report(`Expected a forward or a backward on rank ${rank} but found "${String(kind)}".`);
        continue;
      }
      if (!Number.isInteger(stage) || stage < 0 || stage >= stages) {
        report(`Expected a stage from 0 to ${stages - 1} but found the ${where}.`);
        continue;
      }
      if (!Number.isInteger(microBatch) || microBatch < 0 || microBatch >= microBatches) {
        report(`Expected a micro-batch from 0 to ${microBatches - 1} but found the ${where}.`);
        continue;
      }
      const home = rankOfStage[stage]!;
      if (home === -1) rankOfStage[stage] = rank;
      else if (home !== rank) report(`Expected stage ${stage} on rank ${home} alone but found the ${where}.`);
      const slot = stage * microBatches + microBatch;
      const bit = kind === "forward" ? 1 : 2;
      if (seen[slot]! & bit) report(`Expected each action once but found again the ${where}.`);
      if (bit === 2 && !(seen[slot]! & 1)) report(`Expected the forward first but found the ${where}.`);
      seen[slot] = seen[slot]! | bit;
    }
  });
  for (let stage = 0; stage < stages; stage++) {
    for (let microBatch = 0; microBatch < microBatches; microBatch++) {
      const bits = seen[stage * microBatches + microBatch]!;
      if (bits === 3) continue;
      const missing = bits === 0 ? "neither direction" : bits === 1 ? "no backward" : "no forward";
      report(`Expected micro-batch ${microBatch} to pass stage ${stage} both ways but found ${missing}.`);
    }
  }
  return findings;
}
