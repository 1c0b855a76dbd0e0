import type { LayeredGraph } from "../../src/models/layered.js";
import type { PlacementLimits } from "../../src/search/inter/dnnPartitioningProblem.js";
import { randomOf } from "../../src/search/inter/random.js";

/** A small graph with everything the format has: colours, backward nodes, unsupported nodes, tight memory. */
export function randomGraph(seed: number): LayeredGraph {
  const random = randomOf(seed);
  const pick = <T>(...values: T[]): T => values[random(values.length)]!;
  const count = 1 + random(7);
  const training = random(3) === 0;
  const forward = training ? Math.ceil(count / 2) : count;
  const colors = random(3) === 0 ? 0 : 1 + random(count);
  const devices = random(8) === 0 ? 0 : 1 + random(3);
  const processors = devices === 0 ? 1 + random(2) : random(3);
  const costly = pick(0, 1, 1, 4, 20);
  const costs = Array.from({ length: count }, () => costly * pick(0, 0.001, 0.5, 1, 1, 2));
  const density = 1 + random(5);
  const graph: LayeredGraph = {
    name: `random ${seed}`,
    format: "dnn-partitioning",
    nodes: Array.from({ length: count }, (_, node) => {
      const seconds = pick(0, 0.001, 0.002, 0.003, 0.003, 0.007);
      const backward = node >= forward;
      return {
        id: String(node),
        name: `node ${node}`,
        variants: [
          {
            tensor: 1,
            recompute: false,
            forwardSeconds: backward ? 0 : seconds,
            backwardSeconds: backward ? seconds : 0,
            parameterBytes: 0,
            activationBytes: 0,
            fixedBytes: pick(0, 1, 1, 2, 3),
          },
        ],
        color: colors > 0 && random(4) > 0 ? random(colors) : undefined,
        backward,
        processorSeconds: seconds * pick(0, 1, 2, 5),
        accelerated: processors === 0 || random(6) > 0,
      };
    }),
    edges: [],
    header: { devices, processors, memoryBytes: pick(1e9, 1e9, 3, 5) },
    warnings: [],
  };
  for (let from = 0; from < count; from++) {
    for (let to = from + 1; to < count; to++) {
      if (random(6) < density) graph.edges.push({ from, to, bytes: 1, seconds: costs[from]! / 1000 });
    }
  }
  return graph;
}

/** Least maximum load over every assignment of nodes to devices, straight from the definition. */
export function enumerate(graph: LayeredGraph, { contiguous }: PlacementLimits): number {
  const { nodes, edges, header } = graph;
  const { devices = 0, processors = 0, memoryBytes = 0 } = header;
  const deviceOf: number[] = [];
  let best = Number.POSITIVE_INFINITY;
  const price = () => {
    let most = 0;
    for (let device = 0; device < devices + processors; device++) {
      const accelerator = device < devices;
      let [load, bytes] = [0, 0];
      for (const [node, { variants, processorSeconds, accelerated }] of nodes.entries()) {
        if (deviceOf[node] !== device) continue;
        if (accelerator && !accelerated) return;
        bytes += variants[0]!.fixedBytes;
        load += accelerator ? variants[0]!.forwardSeconds + variants[0]!.backwardSeconds : processorSeconds!;
      }
      if (accelerator && bytes > memoryBytes) return;
      for (const producer of accelerator ? nodes.keys() : []) {
        const own = edges.filter(({ from }) => from === producer);
        const sends = deviceOf[producer] === device && own.some(({ to }) => deviceOf[to] !== device);
        const receives = deviceOf[producer] !== device && own.some(({ to }) => deviceOf[to] === device);
        if (sends || receives) load += own[0]!.seconds!;
      }
      most = Math.max(most, load * 1000);
    }
    if (most < best && (!contiguous || isChain(graph, deviceOf, devices + processors))) best = most;
  };
  const place = (node: number) => {
    if (node === nodes.length) {
      price();
      return;
    }
    const { color } = nodes[node]!;
    const twin = color === undefined ? -1 : nodes.findIndex((other) => other.color === color);
    for (let device = 0; device < devices + processors; device++) {
      if (twin >= 0 && twin < node && deviceOf[twin] !== device) continue;
      deviceOf[node] = device;
      place(node + 1);
    }
    deviceOf.length = node;
  };
  place(0);
  return best;
}

/** Whether some order of the devices puts every forward edge, and every mirrored one, the right way round. */
function isChain({ nodes, edges }: LayeredGraph, deviceOf: number[], count: number): boolean {
  const withForward = (node: number) => {
    const { color, backward } = nodes[node]!;
    if (!backward) return true;
    return color !== undefined && nodes.some((other) => other.color === color && !other.backward);
  };
  const pairs = edges.flatMap(({ from, to }): [number, number][] => {
    if (!nodes[from]!.backward && !nodes[to]!.backward) return [[deviceOf[from]!, deviceOf[to]!]];
    const mirrored = nodes[from]!.backward && !(withForward(from) && withForward(to));
    return mirrored ? [[deviceOf[to]!, deviceOf[from]!]] : [];
  });
  const permute = (order: number[]): boolean => {
    if (order.length === count) return pairs.every(([a, b]) => order.indexOf(a) <= order.indexOf(b));
    return Array.from({ length: count }, (_, device) => device).some(
      (device) => !order.includes(device) && permute([...order, device]),
    );
  };
  return permute([]);
}
