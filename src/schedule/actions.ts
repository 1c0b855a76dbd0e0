/**
 * A pipeline schedule as data: what every pipeline rank does, in which order. Nothing here says when; the
 * simulator finds that out from the stages' times.
 */
export type ActionKind = "forward" | "backward";

export interface Action {
  kind: ActionKind;
  stage: number;
  microBatch: number;
}

export interface ScheduleTable {
  /** `1f1b`, `gpipe`, or whatever the maker calls it. */
  name: string;
  /** Stages 0 to stages - 1 in the order of the forward pass. */
  stages: number;
  microBatches: number;
  /** One ordered list a pipeline rank. A rank may hold several stages; a stage lives on one rank. */
  ranks: Action[][];
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
