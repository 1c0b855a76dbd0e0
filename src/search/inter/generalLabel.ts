import type { InterStage } from "./solution.js";
import type { StageCost, StageModel, StageShape } from "./stageModel.js";

/** A partial plan: the stages from a cut to the end, on the devices from a place in the line. */
export interface Label {
  replicas: number;
  /** Sum of L. */
  sum: number;
  /** `step`: max (ceil(m / d) - 1) L; `steady`: max L / d + G / m. */
  worst: number;
  /** max G; 0 for `steady`, where it is part of `worst`. */
  sync: number;
  /** Bytes sent in a step. */
  traffic: number;
  /** Memory of the fullest device. */
  memoryBytes: number;
  /** First device of the first stage; for an empty plan, the device after the last one in use. */
  device: number;
  stage?: { cut: number; shape: StageShape; seconds: number; memoryBytes: number };
  next?: Label;
}

export function emptyLabel(device: number): Label {
  return { replicas: 0, sum: 0, worst: 0, sync: 0, traffic: 0, memoryBytes: 0, device };
}

/** Objective of a whole plan. */
export function objectiveOf(label: Label, steady: boolean): number {
  return steady ? label.worst : label.sum + label.worst + label.sync;
}

/** Figures closer than this share of themselves are one figure: sums differ by their order alone. */
export const sameFigure = 1e-12;

/**
 * Which of two plans of one value goes first: the one with the smaller sum of stage times, then with less
 * traffic, then with less memory on the fullest device.
 */
export function comesBefore(a: TieFigures, b: TieFigures): boolean {
  if (differ(a.sum, b.sum)) return a.sum < b.sum;
  if (differ(a.traffic, b.traffic)) return a.traffic < b.traffic;
  return differ(a.memoryBytes, b.memoryBytes) && a.memoryBytes < b.memoryBytes;
}

/** Sum of the stage times, bytes sent in a step, bytes of the fullest device. */
export interface TieFigures {
  sum: number;
  traffic: number;
  memoryBytes: number;
}

function differ(a: number, b: number): boolean {
  return Math.abs(a - b) > sameFigure * Math.max(Math.abs(a), Math.abs(b));
}

/** A stage before the others. */
export function grow(
  model: StageModel,
  label: Label,
  from: number,
  first: number,
  shape: StageShape,
  cost: StageCost,
): Label {
  const { microBatches, objective } = model.options;
  const steady = objective === "steady";
  const { latencySeconds, syncSeconds, memoryBytes } = cost;
  const own = steady
    ? latencySeconds / shape.replicas + syncSeconds / microBatches
    : (Math.ceil(microBatches / shape.replicas) - 1) * latencySeconds;
  return {
    replicas: label.replicas + shape.replicas,
    sum: label.sum + latencySeconds,
    worst: Math.max(label.worst, own),
    sync: steady ? 0 : Math.max(label.sync, syncSeconds),
    traffic: label.traffic + model.traffic(from, label.stage?.cut, shape),
    memoryBytes: Math.max(label.memoryBytes, memoryBytes),
    device: first,
    stage: { cut: from, shape, seconds: latencySeconds, memoryBytes },
    next: label,
  };
}

export function stagesOf(model: StageModel, label: Label): InterStage[] {
  const stages: InterStage[] = [];
  let from = 0;
  for (let each: Label | undefined = label; each?.stage; each = each.next) {
    const { shape, seconds, memoryBytes } = each.stage;
    const { device } = each;
    const to = each.next?.stage ? each.next.stage.cut : model.cuts - 1;
    const nodes = model.nodesBetween(from, to);
    const width = shape.replicas * shape.tensor;
    stages.push({
      nodes,
      replicas: shape.replicas,
      tensor: shape.tensor,
      recomputed: shape.recompute ? nodes : [],
      devices: Array.from({ length: width }, (_, i) => device + i),
      seconds,
      memoryBytes,
    });
    from = to;
  }
  return stages;
}

/** What a run of devices misses, for the user. */
export function memorySentence(needed: number, limit: number, first: number, width: number): string {
  const gib = (bytes: number) => `${(bytes / 2 ** 30).toPrecision(6)} GiB`;
  const devices = width === 1 ? `device ${first}` : `devices ${first} to ${first + width - 1}`;
  return `Memory: a stage on ${devices} needs ${gib(needed)} of ${gib(limit)}.`;
}
