import { MpoptError } from "../contracts/index.js";

/**
 * A DAG of layers with tables of what each costs: the input of inter-operator planning. Profiles of other
 * planners are read into it, and any `mpopt.model/1` can be turned into it. Times are seconds and sizes bytes,
 * whatever the source wrote.
 */
export interface LayeredGraph {
  name: string;
  format: "pipedream" | "dnn-partitioning" | "piper" | "aceso" | "model";
  nodes: LayeredNode[];
  edges: LayeredEdge[];
  /** What the file says of the machine and the batch; options of the caller go before it. */
  header: LayeredHeader;
  /** Remarks for the user: units that look mixed up, fields that were left out. */
  warnings: string[];
}

export interface LayeredHeader {
  devices?: number;
  /** Host processors that may hold nodes too. */
  processors?: number;
  memoryBytes?: number;
  bytesPerSecond?: number;
  microBatches?: number;
}

export interface LayeredNode {
  /** As in the source. */
  id: string;
  name: string;
  /** At least one; the choices of tensor-parallel degree and recomputation. */
  variants: LayeredVariant[];
  /** Nodes of one colour must share a device. */
  color?: number;
  /** The node belongs to the backward pass (sources that list both passes). */
  backward?: boolean;
  /** Seconds on a host processor, where the node may run there. */
  processorSeconds?: number;
  /** False where the node cannot run on an accelerator. */
  accelerated?: boolean;
}

export interface LayeredVariant {
  /** Devices that the layer is split over. */
  tensor: number;
  recompute: boolean;
  /** One micro-batch; sources that give only the sum put it into `forwardSeconds`. */
  forwardSeconds: number;
  backwardSeconds: number;
  parameterBytes: number;
  /** Kept for every micro-batch in flight. */
  activationBytes: number;
  /** Held whatever is in flight: parameters, gradients, optimizer state, workspace. */
  fixedBytes: number;
  /** Bytes that tensor parallelism adds to an edge, by predecessor and by successor id (Piper). */
  syncBytes?: { forward: Map<string, number>; backward: Map<string, number> };
}

/** Indices into `nodes`; `bytes` cross the edge in one direction for one micro-batch. */
export interface LayeredEdge {
  from: number;
  to: number;
  bytes: number;
  /** Given instead of a bandwidth by sources that price transfers in time. */
  seconds?: number;
}

/**
 * Checks what every source must hold: ids once, edges between known nodes, no cycle, no negative or
 * non-finite figure.
 * @throws MpoptError E_FIELD with one sentence that names the place.
 */
export function checkLayeredGraph(graph: LayeredGraph, where: string): void {
  const fail = (what: string): never => {
    throw new MpoptError("E_FIELD", `${where}: expected ${what}.`);
  };
  if (graph.nodes.length === 0) fail("at least one node but found none");
  const ids = new Set<string>();
  for (const node of graph.nodes) {
    if (ids.has(node.id)) fail(`each node once but found ${node.id} twice`);
    ids.add(node.id);
    if (node.variants.length === 0) fail(`a cost for node ${node.id} but found none`);
    const figures: Record<string, number | undefined> = { processorSeconds: node.processorSeconds };
    for (const variant of node.variants) {
      if (!Number.isInteger(variant.tensor) || variant.tensor < 1) {
        fail(`a tensor-parallel degree of at least 1 for node ${node.id} but found ${variant.tensor}`);
      }
      const { forwardSeconds, backwardSeconds, parameterBytes, activationBytes, fixedBytes } = variant;
      Object.assign(figures, {
        forwardSeconds,
        backwardSeconds,
        parameterBytes,
        activationBytes,
        fixedBytes,
      });
      for (const [name, value] of Object.entries(figures)) {
        if (value !== undefined && !(Number.isFinite(value) && value >= 0)) {
          fail(`a figure of at least 0 for ${name} of node ${node.id} but found ${value}`);
        }
      }
    }
  }
  for (const { from, to, bytes, seconds = 0 } of graph.edges) {
    const known = graph.nodes[from] && graph.nodes[to];
    if (!known) fail(`edges between nodes of the graph but found one from ${from} to ${to}`);
    if (!(bytes >= 0 && seconds >= 0 && Number.isFinite(bytes) && Number.isFinite(seconds))) {
      fail(
        `a size of at least 0 for the edge ${graph.nodes[from]!.id} → ${graph.nodes[to]!.id} but found ${bytes}`,
      );
    }
  }
  const cycle = findCycle(graph);
  if (cycle) fail(`a graph without cycles but found ${cycle.map((i) => graph.nodes[i]!.id).join(" → ")}`);
}

/** Predecessors and successors of every node, each neighbour once. */
export function neighbours(graph: LayeredGraph): { before: number[][]; after: number[][] } {
  const before = graph.nodes.map(() => new Set<number>());
  const after = graph.nodes.map(() => new Set<number>());
  for (const { from, to } of graph.edges) {
    before[to]!.add(from);
    after[from]!.add(to);
  }
  return { before: before.map((set) => [...set]), after: after.map((set) => [...set]) };
}

/** Indices in an order that respects every edge; ties go to the smaller index. Undefined for a cyclic graph. */
export function topologicalOrder(graph: LayeredGraph): number[] | undefined {
  const { before, after } = neighbours(graph);
  const waiting = before.map((list) => list.length);
  const ready: number[] = [];
  const push = (node: number) => {
    let at = ready.length;
    while (at > 0 && ready[at - 1]! < node) at--;
    ready.splice(at, 0, node);
  };
  waiting.forEach((count, node) => {
    if (count === 0) push(node);
  });
  const order: number[] = [];
  while (ready.length > 0) {
    const node = ready.pop()!;
    order.push(node);
    for (const next of after[node]!) {
      waiting[next]! -= 1;
      if (waiting[next] === 0) push(next);
    }
  }
  return order.length === graph.nodes.length ? order : undefined;
}

/** Nodes of one cycle, first node repeated at the end; undefined where there is none. */
function findCycle(graph: LayeredGraph): number[] | undefined {
  const order = topologicalOrder(graph);
  if (order) return undefined;
  const { before, after } = neighbours(graph);
  const left = new Set(graph.nodes.keys());
  // What a topological order can take away from either end lies on no cycle.
  let shrinking = true;
  while (shrinking) {
    shrinking = false;
    for (const node of left) {
      const open = (list: number[]) => list.some((other) => left.has(other));
      if (open(before[node]!) && open(after[node]!)) continue;
      left.delete(node);
      shrinking = true;
    }
  }
  const path: number[] = [];
  let node = [...left][0]!;
  while (!path.includes(node)) {
    path.push(node);
    node = after[node]!.find((next) => left.has(next))!;
  }
  return [...path.slice(path.indexOf(node)), node];
}
