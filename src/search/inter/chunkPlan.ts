import { sendSeconds } from "./machine.js";
import type { InterStage } from "./solution.js";
import type { StageModel } from "./stageModel.js";

/** A run of devices and what the stages on it need together. */
export interface ChunkRun {
  first: number;
  tensor: number;
  replicas: number;
  /** Stages on the run so far. */
  stages: number;
  /** T: sum of L. */
  seconds: number;
  /** M: largest L of a stage. */
  largestSeconds: number;
  syncSeconds: number;
  memoryBytes: number;
}

/**
 * A partial plan with several stages a run: the stages from a cut to the end. Runs tile a part of the line, and
 * are numbered from the last device to the first, in the order in which they are met from the last stage.
 */
export interface ChunkLabel {
  /** Replicas of all stages. */
  replicas: number;
  /** Sum of L. */
  sum: number;
  /** Bytes sent in a step. */
  traffic: number;
  /** Memory of the fullest device. */
  memoryBytes: number;
  /** Device in front of which the next run ends. */
  device: number;
  runs: ChunkRun[];
  /** Run of the first stage; -1 for none. */
  front: number;
  stage?: { from: number; to: number; recompute: boolean; seconds: number; memoryBytes: number };
  next?: ChunkLabel;
}

export function emptyChunkLabel(device: number): ChunkLabel {
  return { replicas: 0, sum: 0, traffic: 0, memoryBytes: 0, device, runs: [], front: -1 };
}

/** Value of the objective over the runs so far; no plan that ends in these stages is below it. */
export function chunkObjective(model: StageModel, { runs, sum }: ChunkLabel): number {
  const { microBatches, objective } = model.options;
  let worst = 0;
  let sync = 0;
  let fill = 0;
  for (const run of runs) {
    if (objective === "steady") {
      worst = Math.max(worst, run.seconds / run.replicas + run.syncSeconds / microBatches);
      continue;
    }
    fill += run.largestSeconds;
    worst = Math.max(worst, Math.ceil(microBatches / run.replicas) * run.seconds - run.largestSeconds);
    sync = Math.max(sync, run.syncSeconds);
  }
  return objective === "steady" ? worst : Math.max(sum, fill + worst) + sync;
}

/**
 * A stage before the others, on run `at`, or on a new run of `shape` where `at` is the number of runs.
 * @param how.reuse changes the runs of `label` instead of a copy.
 * @param how.short is told how much is missing where the memory ends.
 * @returns undefined where some node lacks the variant, the line ends, or the memory does.
 */
export function growChunk(
  model: StageModel,
  label: ChunkLabel,
  from: number,
  to: number,
  at: number,
  shape: { tensor: number; replicas: number },
  recompute: boolean,
  how: {
    reuse?: boolean;
    short?: (needed: number, limit: number, first: number, width: number) => void;
  } = {},
): ChunkLabel | undefined {
  const old = label.runs[at];
  const { tensor, replicas } = old ?? shape;
  const width = tensor * replicas;
  const first = old ? old.first : label.device - width;
  if (first < 0) return undefined;
  const work = model.work(from, to, first, { tensor, replicas, recompute }, label.replicas);
  if (!work) return undefined;
  const memoryBytes = (old ? old.memoryBytes : 0) + work.memoryBytes;
  if (memoryBytes > work.limitBytes) {
    how.short?.(memoryBytes, work.limitBytes, first, width);
    return undefined;
  }
  const front = label.runs[label.front];
  const sent = front ? passSeconds(model, to, { first, tensor, replicas }, front) : 0;
  const seconds = work.workSeconds + sent;
  const runs = how.reuse ? label.runs : label.runs.slice();
  // The stage in front of which this one is put sends its gradients back.
  if (front) {
    runs[label.front] = {
      ...front,
      seconds: front.seconds + sent,
      largestSeconds: Math.max(front.largestSeconds, label.stage!.seconds + sent),
    };
  }
  runs[at] = {
    first,
    tensor,
    replicas,
    stages: (old ? old.stages : 0) + 1,
    seconds: (old ? old.seconds : 0) + seconds,
    largestSeconds: Math.max(old ? old.largestSeconds : 0, seconds),
    syncSeconds: (old ? old.syncSeconds : 0) + work.syncSeconds,
    memoryBytes,
  };
  return {
    replicas: label.replicas + replicas,
    sum: label.sum + seconds + sent,
    traffic: label.traffic + model.traffic(from, front && to, { tensor, replicas, recompute }),
    memoryBytes: Math.max(label.memoryBytes, memoryBytes),
    device: old ? label.device : first,
    runs,
    front: at,
    stage: { from, to, recompute, seconds, memoryBytes: work.memoryBytes },
    next: label,
  };
}

type Place = Pick<ChunkRun, "first" | "tensor" | "replicas">;

/** Seconds that a cut takes to pass between two runs, over the devices of each that are nearest to the other. */
function passSeconds(model: StageModel, cut: number, a: Place, b: Place): number {
  const [left, right] = a.first < b.first ? [a, b] : [b, a];
  const lastOfLeft = left.first + left.tensor * left.replicas - 1;
  return sendSeconds(model.options.machine, model.liveBytes[cut]!, lastOfLeft, right.first);
}

/** Stages first to last; `memoryBytes` of a stage is its own part of its run's. */
export function stagesOfChunks(model: StageModel, plan: ChunkLabel): InterStage[] {
  const stages: InterStage[] = [];
  let before: ChunkRun | undefined;
  for (let label: ChunkLabel | undefined = plan; label?.stage; label = label.next) {
    const { from, to, recompute, memoryBytes } = label.stage;
    const run = plan.runs[label.front]!;
    const nodes = model.nodesBetween(from, to);
    const width = run.replicas * run.tensor;
    const seconds = label.stage.seconds + (before ? passSeconds(model, from, before, run) : 0);
    stages.push({
      nodes,
      replicas: run.replicas,
      tensor: run.tensor,
      recomputed: recompute ? nodes : [],
      devices: Array.from({ length: width }, (_, i) => run.first + i),
      seconds,
      memoryBytes,
    });
    before = run;
  }
  return stages;
}
