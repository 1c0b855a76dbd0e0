import { type LayeredGraph, type LayeredVariant, neighbours } from "../../models/layered.js";
import { type Machine, ringLink, ringSeconds, sendSeconds } from "./machine.js";
import type { InterStage } from "./solution.js";
import type { InterModelOptions } from "./stageModel.js";

/** What a plan costs by the definition in `stageModel.ts`, and every rule that it breaks. */
export interface InterEvaluation {
  objective: number;
  memoryBytes: number[];
  violations: string[];
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
  const violations = placementViolations(graph, stages, machine);
  const memoryBytes: number[] = [];
  let sum = 0;
  let slowestSteady = 0;
  let slowestRepeat = 0;
  let slowestSync = 0;
  stages.forEach((stage, s) => {
    const { nodes, replicas, tensor, devices } = stage;
    const chosen = nodes.map((node) => variantOf(graph, node, tensor, stage.recomputed.includes(node)));
    const missing = chosen.findIndex((variant) => !variant);
    if (missing >= 0) {
      violations.push(`Node ${graph.nodes[nodes[missing]!]!.id} has no variant of degree ${tensor}.`);
      return;
    }
    const total = (figure: (variant: LayeredVariant) => number) =>
      chosen.reduce((all, variant) => all + figure(variant!), 0);
    const slow = Math.max(...devices.map((device) => machine.slowdown[device]!));
    const backward = slow * total((variant) => variant.backwardSeconds);
    let latency = slow * total((variant) => variant.forwardSeconds) + backward;
    const next = stages[s + 1];
    if (next)
      latency += sendSeconds(machine, bytesAfter(graph, stages, s), devices.at(-1)!, next.devices[0]!);
    const previous = stages[s - 1];
    if (previous) {
      latency += sendSeconds(
        machine,
        bytesAfter(graph, stages, s - 1),
        devices[0]!,
        previous.devices.at(-1)!,
      );
    }
    const gradients = total((variant) => variant.parameterBytes);
    const sync = Math.max(
      0,
      ringSeconds(gradients, replicas, ringLink(machine, devices[0]!, replicas, tensor)) - overlap * backward,
    );
    const later = stages.slice(s).reduce((all, each) => all + each.replicas, 0);
    const inFlight = Math.min(Math.ceil(microBatches / replicas), Math.ceil(later / replicas));
    const memory =
      total((variant) => variant.fixedBytes) + inFlight * total((variant) => variant.activationBytes);
    memoryBytes.push(memory);
    const limit = Math.min(...devices.map((device) => machine.memoryBytes[device]!));
    if (memory > limit * (1 + 1e-12)) violations.push(`Stage ${s} needs ${memory} of ${limit} bytes.`);
    sum += latency;
    slowestSteady = Math.max(slowestSteady, latency / replicas + sync / microBatches);
    slowestRepeat = Math.max(slowestRepeat, (Math.ceil(microBatches / replicas) - 1) * latency);
    slowestSync = Math.max(slowestSync, sync);
  });
  const value = objective === "steady" ? slowestSteady : sum + slowestRepeat + slowestSync;
  return { objective: value, memoryBytes, violations };
}

/** Every node once, stages in the order of the edges, runs of devices one after the other. */
function placementViolations(graph: LayeredGraph, stages: readonly InterStage[], machine: Machine): string[] {
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
  for (const { devices, replicas, tensor } of stages) {
    const first = devices[0]!;
    const inRun = devices.every((device, i) => device === first + i && device < machine.devices);
    if (!inRun || devices.length !== replicas * tensor || (free !== undefined && first !== free)) {
      violations.push(
        `Devices ${devices.join(", ")} are no run of ${replicas} x ${tensor} behind the stage before.`,
      );
    }
    free = first + devices.length;
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
