import { MpoptError } from "../../contracts/index.js";
import type { LayeredGraph } from "../../models/layered.js";

/** How one graph is to be placed; what is left out comes from the graph's header. */
export interface PlacementLimits {
  contiguous: boolean;
  /** Accelerators. */
  devices?: number;
  /** Host processors, which pay no communication. */
  processors?: number;
  /** Of one accelerator. */
  memoryBytes?: number;
}

/**
 * The placement of blocks (nodes that must share a device) on identical accelerators and processors, in
 * milliseconds. An accelerator pays for a tensor that it sends or receives once, so it pays exactly where it
 * holds some but not all of the blocks that produce or consume the tensor: tensors are nets of a hypergraph,
 * and nets with the same blocks are one net.
 */
export interface PlacementProblem {
  /** Node indices of each block. */
  blocks: number[][];
  /** Infinity where the block cannot run on an accelerator. */
  acceleratorMs: Float64Array;
  processorMs: Float64Array;
  bytes: Float64Array;
  nets: Net[];
  netsOf: number[][];
  /** Blocks that must not be on an earlier stage than this one (contiguous placements; acyclic). */
  after: number[][];
  before: number[][];
  devices: number;
  processors: number;
  /** Infinity where all blocks together fit. */
  memoryBytes: number;
}

export interface Net {
  cost: number;
  /** At least two blocks, ascending. */
  members: number[];
}

/**
 * The problem of a graph. Blocks are colour classes; where placements are contiguous, classes on a cycle of
 * the forward pass are one block too, because no chain of stages could part them. A class of backward nodes
 * alone follows the mirrored order of its edges, as in the paper's dynamic program.
 * @throws MpoptError E_FIELD for a graph with variants, E_USAGE for limits that make no sense
 */
export function placementProblem(graph: LayeredGraph, limits: PlacementLimits): PlacementProblem {
  const { devices, processors, memoryBytes } = resolveLimits(graph, limits);
  const classOf = colorClasses(graph);
  const order = limits.contiguous ? stageOrder(graph, classOf) : [];

  const blocks: number[][] = [];
  for (const [node, block] of classOf.entries()) {
    blocks[block] ??= [];
    blocks[block].push(node);
  }
  const total = (of: (node: number) => number) =>
    Float64Array.from(blocks, (nodes) => nodes.reduce((sum, node) => sum + of(node), 0));
  const bytes = total((node) => graph.nodes[node]!.variants[0]!.fixedBytes);
  const nets = tensors(graph).map(({ cost, nodes }) => ({
    cost,
    members: nodes.map((node) => classOf[node]!),
  }));
  const edges = order.map(([from, to]): [number, number] => [classOf[from]!, classOf[to]!]);
  const all = bytes.reduce((sum, value) => sum + value, 0);
  return merge(
    {
      blocks,
      acceleratorMs: total((node) => acceleratorMs(graph, node)),
      processorMs: total((node) => (graph.nodes[node]!.processorSeconds ?? Number.POSITIVE_INFINITY) * 1000),
      bytes,
      devices,
      processors,
      memoryBytes: all <= memoryBytes ? Number.POSITIVE_INFINITY : memoryBytes,
    },
    nets,
    edges,
    components(blocks.length, edges),
  );
}

/**
 * The problem in which blocks of one group must share a device; groups are numbered from 0. Groups on a cycle
 * of the stages' order become one block.
 */
export function mergeBlocks(problem: PlacementProblem, groupOf: ArrayLike<number>): PlacementProblem {
  const edges = problem.after.flatMap((list, from) => list.map((to): [number, number] => [from, to]));
  // A group is tied together by edges both ways, so that cycles through groups are found as well.
  const first = new Map<number, number>();
  const ties: [number, number][] = [];
  for (let block = 0; block < problem.blocks.length; block++) {
    const head = first.get(groupOf[block]!);
    if (head === undefined) first.set(groupOf[block]!, block);
    else ties.push([head, block], [block, head]);
  }
  return merge(problem, problem.nets, edges, components(problem.blocks.length, [...edges, ...ties]));
}

function merge(
  base: Omit<PlacementProblem, "nets" | "netsOf" | "after" | "before">,
  nets: Net[],
  edges: [number, number][],
  groupOf: number[],
): PlacementProblem {
  const blocks: number[][] = [];
  for (const [block, group] of groupOf.entries()) {
    blocks[group] ??= [];
    blocks[group].push(...base.blocks[block]!);
  }
  const sums = (values: Float64Array) => {
    const result = new Float64Array(blocks.length);
    for (const [block, group] of groupOf.entries()) result[group]! += values[block]!;
    return result;
  };
  const mergedNets = mergeNets(
    nets.map(({ cost, members }) => ({
      cost,
      members: [...new Set(members.map((block) => groupOf[block]!))].sort((a, b) => a - b),
    })),
  );
  const netsOf = blocks.map((): number[] => []);
  for (const [index, { members }] of mergedNets.entries()) {
    for (const block of members) netsOf[block]!.push(index);
  }
  const after = blocks.map(() => new Set<number>());
  const before = blocks.map(() => new Set<number>());
  for (const [first, second] of edges) {
    const [from, to] = [groupOf[first]!, groupOf[second]!];
    if (from === to) continue;
    after[from]!.add(to);
    before[to]!.add(from);
  }
  return {
    ...base,
    blocks,
    acceleratorMs: sums(base.acceleratorMs),
    processorMs: sums(base.processorMs),
    bytes: sums(base.bytes),
    nets: mergedNets,
    netsOf,
    after: after.map((set) => [...set]),
    before: before.map((set) => [...set]),
  };
}

/** The caller's limits, else the header's; one accelerator and unbounded memory where neither says. */
export function resolveLimits(graph: LayeredGraph, limits: PlacementLimits): Required<PlacementLimits> {
  const { header } = graph;
  const devices = limits.devices ?? header.devices ?? 1;
  const processors = limits.processors ?? header.processors ?? 0;
  const memoryBytes = limits.memoryBytes ?? header.memoryBytes ?? Number.POSITIVE_INFINITY;
  const whole = (value: number) => Number.isInteger(value) && value >= 0;
  if (!whole(devices) || !whole(processors) || devices + processors === 0) {
    throw new MpoptError(
      "E_USAGE",
      `Expected whole numbers of accelerators and processors, at least one device in all, but found ${devices} and ${processors}.`,
    );
  }
  if (!(memoryBytes >= 0)) {
    throw new MpoptError("E_USAGE", `Expected a memory of at least 0 bytes but found ${memoryBytes}.`);
  }
  if (graph.nodes.some((node) => node.variants.length !== 1)) {
    throw new MpoptError(
      "E_FIELD",
      `Expected one variant of each node in ${graph.name} but found several: this cost model knows no tensor parallelism.`,
    );
  }
  return { contiguous: limits.contiguous, devices, processors, memoryBytes };
}

function acceleratorMs(graph: LayeredGraph, node: number): number {
  const { accelerated = true, variants } = graph.nodes[node]!;
  const { forwardSeconds, backwardSeconds } = variants[0]!;
  return accelerated ? (forwardSeconds + backwardSeconds) * 1000 : Number.POSITIVE_INFINITY;
}

/** Numbers the classes of equal colour in the order of their first node. */
function colorClasses(graph: LayeredGraph): number[] {
  const numbers = new Map<number | string, number>();
  return graph.nodes.map(({ color, id }) => {
    const key = color ?? `node ${id}`;
    const number = numbers.get(key) ?? numbers.size;
    numbers.set(key, number);
    return number;
  });
}

/** Every node with consumers: its cost in milliseconds, itself and its consumers. */
function tensors(graph: LayeredGraph): { cost: number; nodes: number[] }[] {
  const consumers = new Map<number, { cost: number; nodes: number[] }>();
  for (const { from, to, seconds = 0 } of graph.edges) {
    const tensor = consumers.get(from) ?? { cost: seconds * 1000, nodes: [from] };
    tensor.nodes.push(to);
    consumers.set(from, tensor);
  }
  return [...consumers.values()];
}

/** Drops what costs nothing or cannot be cut, and sums nets of the same blocks. */
function mergeNets(nets: Net[]): Net[] {
  const merged = new Map<string, Net>();
  for (const { cost, members } of nets) {
    if (cost === 0 || members.length < 2) continue;
    const key = members.join();
    const known = merged.get(key);
    if (known) known.cost += cost;
    else merged.set(key, { cost, members });
  }
  return [...merged.values()];
}

/**
 * Pairs of nodes that a chain of stages keeps in order: forward edges, and the mirror image of backward edges
 * at classes without a forward node.
 */
function stageOrder(graph: LayeredGraph, classOf: number[]): [number, number][] {
  const forward = new Set<number>();
  for (const [node, { backward }] of graph.nodes.entries()) if (!backward) forward.add(classOf[node]!);
  const orphan = (node: number) => !forward.has(classOf[node]!);
  const order: [number, number][] = [];
  for (const { from, to } of graph.edges) {
    const [first, second] = [graph.nodes[from]!.backward ?? false, graph.nodes[to]!.backward ?? false];
    if (!first && !second) order.push([from, to]);
    else if (first && second && (orphan(from) || orphan(to))) order.push([to, from]);
  }
  return order;
}

/** Strongly connected components, numbered in the order of their first member; the component of each vertex. */
function components(size: number, edges: [number, number][]): number[] {
  const next = Array.from({ length: size }, (): number[] => []);
  for (const [from, to] of edges) next[from]!.push(to);
  const index = new Int32Array(size).fill(-1);
  const low = new Int32Array(size);
  const component = new Int32Array(size).fill(-1);
  const stack: number[] = [];
  let counter = 0;
  let found = 0;
  // Tarjan's algorithm, with its own stack because chains are as long as the graph.
  for (let root = 0; root < size; root++) {
    if (index[root]! >= 0) continue;
    const path: { at: number; rest: number[] }[] = [];
    const enter = (at: number) => {
      index[at] = low[at] = counter++;
      stack.push(at);
      path.push({ at, rest: [...next[at]!] });
    };
    enter(root);
    while (path.length > 0) {
      const { at, rest } = path[path.length - 1]!;
      const to = rest.pop();
      if (to !== undefined) {
        if (index[to]! < 0) enter(to);
        else if (component[to]! < 0) low[at] = Math.min(low[at]!, index[to]!);
        continue;
      }
      path.pop();
      const parent = path[path.length - 1];
      if (parent) low[parent.at] = Math.min(low[parent.at]!, low[at]!);
      if (low[at] !== index[at]) continue;
      for (let member = -1; member !== at; ) {
        member = stack.pop()!;
        component[member] = found;
      }
      found++;
    }
  }
  const renumbered = new Map<number, number>();
  return Array.from(component, (value) => {
    const number = renumbered.get(value) ?? renumbered.size;
    renumbered.set(value, number);
    return number;
  });
}
