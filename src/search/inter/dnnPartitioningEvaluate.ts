import { MpoptError } from "../../contracts/index.js";
import type { LayeredEdge, LayeredGraph } from "../../models/layered.js";
import type { PlacementLimits } from "./dnnPartitioningProblem.js";
import type { InterSolution } from "./solution.js";

/** Sums in another order differ in the last digits. */
const agreement = 1e-9;

/**
 * Maximum load in milliseconds of a solution, from the definition of the NeurIPS'20 paper and from the graph
 * alone: an accelerator takes the time of its nodes, plus the cost of every tensor that it sends or receives,
 * each once; a processor takes the time of its nodes. Stages name one device each: accelerators from 0, then
 * processors.
 * @throws MpoptError E_PLAN_INVALID for the first thing that does not hold: a node placed twice or nowhere, a
 *   device used twice, a colour class that is split, memory, support, contiguity, figures that disagree
 */
export function evaluateDnnPartitioning(
  graph: LayeredGraph,
  solution: InterSolution,
  options: PlacementLimits,
): number {
  const { header, nodes, edges } = graph;
  const devices = options.devices ?? header.devices ?? 1;
  const processors = options.processors ?? header.processors ?? 0;
  const memoryBytes = options.memoryBytes ?? header.memoryBytes ?? Number.POSITIVE_INFINITY;

  const deviceOf = new Map<number, number>();
  const used = new Set<number>();
  for (const stage of solution.stages) {
    const [device] = stage.devices;
    if (stage.devices.length !== 1 || stage.replicas !== 1 || stage.tensor !== 1 || stage.recomputed.length) {
      invalid(`one device for each stage, neither replicated nor split nor recomputed`, "another stage");
    }
    if (!Number.isInteger(device) || device! < 0 || device! >= devices + processors) {
      invalid(`devices from 0 to ${devices + processors - 1}`, String(device));
    }
    if (used.has(device!)) invalid("one stage for each device", `two for device ${device}`);
    used.add(device!);
    for (const node of stage.nodes) {
      if (!nodes[node]) invalid(`nodes from 0 to ${nodes.length - 1}`, String(node));
      if (deviceOf.has(node)) invalid("each node once", `node ${nodes[node]!.id} twice`);
      deviceOf.set(node, device!);
    }
  }
  for (const [node, { id }] of nodes.entries()) {
    if (!deviceOf.has(node)) invalid("each node once", `node ${id} nowhere`);
  }

  const deviceOfColor = new Map<number, number>();
  for (const [node, { color, id }] of nodes.entries()) {
    if (color === undefined) continue;
    const device = deviceOf.get(node)!;
    if ((deviceOfColor.get(color) ?? device) !== device) {
      invalid(`colour class ${color} on one device`, `node ${id} on another`);
    }
    deviceOfColor.set(color, device);
  }

  const load = new Map<number, number>();
  const add = (device: number, milliseconds: number) =>
    load.set(device, (load.get(device) ?? 0) + milliseconds);
  for (const [node, { accelerated = true, variants, processorSeconds, id }] of nodes.entries()) {
    const device = deviceOf.get(node)!;
    if (device >= devices) {
      add(device, (processorSeconds ?? Number.POSITIVE_INFINITY) * 1000);
      continue;
    }
    if (!accelerated) invalid(`a processor for node ${id}`, `accelerator ${device}`);
    add(device, (variants[0]!.forwardSeconds + variants[0]!.backwardSeconds) * 1000);
  }
  const outgoing = nodes.map((): LayeredEdge[] => []);
  for (const edge of edges) outgoing[edge.from]!.push(edge);
  for (const [producer, node] of nodes.entries()) {
    const own = outgoing[producer]!;
    const home = deviceOf.get(producer)!;
    const readers = new Set(own.map((edge) => deviceOf.get(edge.to)!));
    readers.delete(home);
    const cost = (own[0]?.seconds ?? 0) * 1000;
    if (readers.size === 0) continue;
    for (const device of [home, ...readers]) if (device < devices) add(device, cost);
    if (!Number.isFinite(cost)) invalid(`a finite cost of node ${node.id}`, String(cost));
  }

  for (const stage of solution.stages) {
    const device = stage.devices[0]!;
    const bytes = stage.nodes.reduce((sum, node) => sum + nodes[node]!.variants[0]!.fixedBytes, 0);
    if (device < devices && bytes > memoryBytes) {
      invalid(`at most ${memoryBytes} bytes on accelerator ${device}`, String(bytes));
    }
    agree(`bytes of device ${device}`, bytes, stage.memoryBytes);
    agree(`seconds of device ${device}`, (load.get(device) ?? 0) / 1000, stage.seconds);
  }
  if (options.contiguous) checkChain(graph, deviceOf);
  const most = Math.max(0, ...load.values());
  agree("objective", most, solution.objective);
  return most;
}

/**
 * Stages are contiguous where the devices can be put in an order that every forward edge follows, as the
 * differences of a growing chain of ideals can. Classes of backward nodes alone follow the mirror image of
 * their edges.
 */
function checkChain({ nodes, edges }: LayeredGraph, deviceOf: Map<number, number>): void {
  const forward = new Set(
    nodes.flatMap(({ color, backward }) => (backward || color === undefined ? [] : [color])),
  );
  const alone = (node: number) => {
    const { color } = nodes[node]!;
    return color === undefined || !forward.has(color);
  };
  const next = new Map<number, Set<number>>();
  const link = (from: number, to: number) => {
    const [first, second] = [deviceOf.get(from)!, deviceOf.get(to)!];
    if (first === second) return;
    if (!next.has(first)) next.set(first, new Set());
    next.get(first)!.add(second);
  };
  for (const { from, to } of edges) {
    const [first, second] = [nodes[from]!.backward ?? false, nodes[to]!.backward ?? false];
    if (!first && !second) link(from, to);
    if (first && second && (alone(from) || alone(to))) link(to, from);
  }
  const left = new Set(deviceOf.values());
  for (;;) {
    const reached = new Set([...left].flatMap((device) => [...(next.get(device) ?? [])]));
    const free = [...left].filter((device) => !reached.has(device));
    if (left.size === 0) return;
    if (free.length === 0) {
      invalid("contiguous stages", `devices ${[...left].sort((a, b) => a - b).join(", ")} in a circle`);
    }
    for (const device of free) left.delete(device);
  }
}

function agree(what: string, expected: number, found: number): void {
  if (Math.abs(expected - found) <= agreement * Math.max(Math.abs(expected), Math.abs(found))) return;
  invalid(`${expected} for the ${what}`, String(found));
}

function invalid(expected: string, found: string): never {
  throw new MpoptError("E_PLAN_INVALID", `Expected ${expected} but found ${found}.`);
}
