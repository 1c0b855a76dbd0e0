import { type LayeredGraph, type LayeredVariant, neighbours } from "../../models/layered.js";
import { type Machine, ringLink, ringSeconds, sendSeconds } from "./machine.js";
import type { InterStage } from "./solution.js";
import type { InterModelOptions } from "./stageModel.js";

/** What a plan costs by the definition in `stageModel.ts`, and every rule that it breaks. */
export interface InterEvaluation {
  objective: number;
  /** Of each stage. */
  memoryBytes: number[];
  /** Ties are broken by these three, in this order: sum of stage times, bytes sent in a step, fullest device. */
  stageSeconds: number;
  trafficBytes: number;
  peakBytes: number;
  violations: string[];
}

/** A run of devices with the stages on it, first to last. */
interface Run {
  devices: readonly number[];
  replicas: number;
  tensor: number;
  stages: number[];
}

/**
 * Prices stages one after the other from the graph alone: the second evaluator, which shares no tables with
 * the search.
 */
export function evaluateInter(
  graph: LayeredGraph,
  stages: readonly InterStage[],
  options: InterModelOptions,
): InterEvaluation {
  const { machine, microBatches, objective, overlap = 0 } = options;
  const runs = runsOf(stages);
  const violations = placementViolations(graph, stages, runs, options);
  const memoryBytes: number[] = [];
  const latency: number[] = [];
  const sync: number[] = [];
  let trafficBytes = 0;
  for (const [s, stage] of stages.entries()) {
    const { nodes, replicas, tensor, devices } = stage;
    const chosen = nodes.map((node) => variantOf(graph, node, tensor, stage.recomputed.includes(node)));
    const missing = chosen.findIndex((variant) => !variant);
    if (missing >= 0) {
      violations.push(`Node ${graph.nodes[nodes[missing]!]!.id} has no variant of degree ${tensor}.`);
      continue;
    }
    const total = (figure: (variant: LayeredVariant) => number) =>
      chosen.reduce((all, variant) => all + figure(variant!), 0);
    const slow = Math.max(...devices.map((device) => machine.slowdown[device]!));
    const backward = slow * total((variant) => variant.backwardSeconds);
    latency[s] = slow * total((variant) => variant.forwardSeconds) + backward;
    const next = stages[s + 1];
    if (next) {
      const bytes = bytesAfter(graph, stages, s);
      latency[s] += sendBetween(machine, bytes, devices, next.devices);
      trafficBytes += 2 * microBatches * bytes;
    }
    const previous = stages[s - 1];
    if (previous) {
      latency[s] += sendBetween(machine, bytesAfter(graph, stages, s - 1), devices, previous.devices);
    }
    const gradients = total((variant) => variant.parameterBytes);
    trafficBytes += 2 * (replicas - 1) * tensor * gradients;
    const ring = ringSeconds(gradients, replicas, ringLink(machine, devices[0]!, replicas, tensor));
    sync[s] = Math.max(0, ring - overlap * backward);
    const later = stages.slice(s).reduce((all, each) => all + each.replicas, 0);
    const inFlight = Math.min(Math.ceil(microBatches / replicas), Math.ceil(later / replicas));
    memoryBytes[s] =
      total((variant) => variant.fixedBytes) + inFlight * total((variant) => variant.activationBytes);
  }
  const sumOver = (list: readonly number[], figures: readonly number[]) =>
    list.reduce((sum, s) => sum + figures[s]!, 0);
  const stageSeconds = sumOver([...stages.keys()], latency);
  let peakBytes = 0;
  let fill = 0;
  let slowest = 0;
  let slowestSync = 0;
  for (const run of runs) {
    const memory = sumOver(run.stages, memoryBytes);
    peakBytes = Math.max(peakBytes, memory);
    const limit = Math.min(...run.devices.map((device) => machine.memoryBytes[device]!));
    if (memory > limit * (1 + 1e-12)) {
      violations.push(`Stage ${run.stages.join(" with ")} needs ${memory} of ${limit} bytes.`);
    }
    const seconds = sumOver(run.stages, latency);
    const reduced = sumOver(run.stages, sync);
    if (objective === "steady") {
      slowest = Math.max(slowest, seconds / run.replicas + reduced / microBatches);
      continue;
    }
    const largest = Math.max(...run.stages.map((s) => latency[s]!));
    fill += largest;
    slowest = Math.max(slowest, Math.ceil(microBatches / run.replicas) * seconds - largest);
    slowestSync = Math.max(slowestSync, reduced);
  }
  const value = objective === "steady" ? slowest : Math.max(stageSeconds, fill + slowest) + slowestSync;
  return { objective: value, memoryBytes, stageSeconds, trafficBytes, peakBytes, violations };
}

/** Seconds between two runs, over the devices of each that are nearest to the other. */
function sendBetween(
  machine: Machine,
  bytes: number,
  from: readonly number[],
  to: readonly number[],
): number {
  return from[0]! < to[0]!
    ? sendSeconds(machine, bytes, from.at(-1)!, to[0]!)
    : sendSeconds(machine, bytes, from[0]!, to.at(-1)!);
}

/** Runs by their last stages, last one first. */
function runsOf(stages: readonly InterStage[]): Run[] {
  const runs = new Map<string, Run>();
  for (let s = stages.length - 1; s >= 0; s--) {
    const { devices, replicas, tensor } = stages[s]!;
    const key = `${devices.join()} ${replicas} ${tensor}`;
    const run = runs.get(key) ?? { devices, replicas, tensor, stages: [] };
    run.stages.unshift(s);
    runs.set(key, run);
  }
  return [...runs.values()];
}

/** Every node once, stages in the order of the edges, runs of devices one before the other. */
function placementViolations(
  graph: LayeredGraph,
  stages: readonly InterStage[],
  runs: readonly Run[],
  { machine, chunks = 1 }: InterModelOptions,
): string[] {
  const violations: string[] = [];
  const stageOf = new Map<number, number>();
  stages.forEach((stage, s) => {
    for (const node of stage.nodes) {
      if (stageOf.has(node)) violations.push(`Node ${graph.nodes[node]!.id} is placed twice.`);
      stageOf.set(node, s);
    }
  });
  for (const [node, { id }] of graph.nodes.entries()) {
    if (!stageOf.has(node)) violations.push(`Node ${id} is placed nowhere.`);
  }
  for (const { from, to } of graph.edges) {
    if (stageOf.get(from)! > stageOf.get(to)!) {
      violations.push(`Edge ${graph.nodes[from]!.id} → ${graph.nodes[to]!.id} runs against the stages.`);
    }
  }
  let free: number | undefined;
  for (const { devices, replicas, tensor, stages: own } of runs) {
    const first = devices[0]!;
    const inRun = devices.every((device, i) => device === first + i && device < machine.devices);
    const behind = first + devices.length;
    if (!inRun || devices.length !== replicas * tensor || (free !== undefined && behind !== free)) {
      violations.push(
        `Devices ${devices.join(", ")} are no run of ${replicas} x ${tensor} before the run of later stages.`,
      );
    }
    const { domainOf } = machine;
    if (domainOf && devices.some((device, i) => domainOf[device] !== domainOf[devices[i - (i % tensor)]!])) {
      violations.push(`Devices ${devices.join(", ")} hold a tensor-parallel group over slow links.`);
    }
    if (own.length > chunks) {
      violations.push(`Devices ${devices.join(", ")} hold ${own.length} stages of at most ${chunks}.`);
    }
    if (own.some((s, i) => s === own[i - 1]! + 1)) {
      violations.push(`Devices ${devices.join(", ")} hold two stages in a row.`);
    }
    free = first;
  }
  return violations;
}

function variantOf(
  graph: LayeredGraph,
  node: number,
  tensor: number,
  recompute: boolean,
): LayeredVariant | undefined {
  const ofDegree = graph.nodes[node]!.variants.filter((variant) => variant.tensor === tensor);
  return ofDegree.find((variant) => variant.recompute === recompute) ?? (recompute ? ofDegree[0] : undefined);
}

/** Bytes that pass from stage s to the next one: made up to s, read behind it, each tensor once. */
function bytesAfter(graph: LayeredGraph, stages: readonly InterStage[], s: number): number {
  const made = new Set(stages.slice(0, s + 1).flatMap((stage) => stage.nodes));
  const { after } = neighbours(graph);
  let sum = 0;
  for (const node of made) {
    if (after[node]!.every((reader) => made.has(reader))) continue;
    const sizes = graph.edges
      .filter(({ from, to }) => from === node && !made.has(to))
      .map(({ bytes }) => bytes);
    sum += Math.max(...sizes);
  }
  return sum;
}
