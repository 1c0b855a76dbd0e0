import { describe, expect, it } from "vitest";
import type { LayeredGraph } from "../../src/models/layered.js";
import { evaluateDnnPartitioning } from "../../src/search/inter/dnnPartitioningEvaluate.js";
import type { InterSolution } from "../../src/search/inter/solution.js";

/** a (2 ms, tensor 0.5 ms) feeds b (3 ms) and c (4 ms); b (tensor 0.25 ms) feeds d (1 ms). */
function diamond(): LayeredGraph {
  const node = (id: string, milliseconds: number) => ({
    id,
    name: id,
    variants: [
      {
        tensor: 1,
        recompute: false,
        forwardSeconds: milliseconds / 1000,
        backwardSeconds: 0,
        parameterBytes: 0,
        activationBytes: 0,
        fixedBytes: 10,
      },
    ],
    processorSeconds: milliseconds / 100,
    accelerated: true,
  });
  return {
    name: "diamond",
    format: "dnn-partitioning",
    nodes: [node("a", 2), node("b", 3), node("c", 4), node("d", 1)],
    edges: [
      { from: 0, to: 1, bytes: 0, seconds: 0.0005 },
      { from: 0, to: 2, bytes: 0, seconds: 0.0005 },
      { from: 1, to: 3, bytes: 0, seconds: 0.00025 },
    ],
    header: { devices: 3, processors: 1, memoryBytes: 30 },
    warnings: [],
  };
}

function solution(stages: [device: number, nodes: number[], milliseconds: number][]): InterSolution {
  return {
    status: "feasible",
    objective: Math.max(...stages.map(([, , load]) => load)),
    bound: 0,
    gap: 1,
    unit: "milliseconds",
    cpuSeconds: 0,
    restriction: "",
    stages: stages.map(([device, nodes, load]) => ({
      nodes,
      replicas: 1,
      tensor: 1,
      recomputed: [],
      devices: [device],
      seconds: load / 1000,
      memoryBytes: 10 * nodes.length,
    })),
  };
}

const evaluate = (stages: Parameters<typeof solution>[0], contiguous = true, graph = diamond()) =>
  evaluateDnnPartitioning(graph, solution(stages), { contiguous });

describe("evaluateDnnPartitioning", () => {
  it("charges a tensor once to each device that sends or receives it", () => {
    // Two consumers of a on one device, and b's tensor stays inside.
    expect(
      evaluate([
        [0, [0], 2.5],
        [1, [1, 2, 3], 8.5],
      ]),
    ).toBeCloseTo(8.5, 12);
    // a goes to two devices: its own pays once, each reader once.
    expect(
      evaluate([
        [0, [0], 2.5],
        [1, [1, 3], 4.5],
        [2, [2], 4.5],
      ]),
    ).toBeCloseTo(4.5, 12);
    // One consumer is at home, the other is not.
    expect(
      evaluate([
        [0, [0, 1, 3], 6.5],
        [2, [2], 4.5],
      ]),
    ).toBeCloseTo(6.5, 12);
  });

  it("charges a processor its nodes' time only", () => {
    expect(
      evaluate([
        [0, [0, 1, 2], 9.25],
        [3, [3], 10],
      ]),
    ).toBeCloseTo(10, 12);
  });

  it.each<[string, Parameters<typeof solution>[0], RegExp]>([
    [
      "a node twice",
      [
        [0, [0, 1, 2], 9.25],
        [1, [2, 3], 5.75],
      ],
      /each node once but found node c twice/,
    ],
    ["a node nowhere", [[0, [0, 1, 2], 9.25]], /node d nowhere/],
    [
      "a device twice",
      [
        [0, [0], 2.5],
        [0, [1, 2, 3], 8.5],
      ],
      /two for device 0/,
    ],
    [
      "a device too many",
      [
        [0, [0], 2.5],
        [4, [1, 2, 3], 8.5],
      ],
      /devices from 0 to 3 but found 4/,
    ],
    ["too little memory", [[0, [0, 1, 2, 3], 10]], /at most 30 bytes on accelerator 0 but found 40/],
    [
      "a circle of stages",
      [
        [0, [0, 3], 3.75],
        [1, [1, 2], 7.75],
      ],
      /contiguous stages but found devices 0, 1/,
    ],
    [
      "a wrong load",
      [
        [0, [0], 2.5],
        [1, [1, 2, 3], 8],
      ],
      /seconds of device 1/,
    ],
  ])("finds %s", (_, stages, message) => {
    expect(() => evaluate(stages)).toThrow(message);
  });

  it("asks for contiguity only where it is wanted", () => {
    expect(
      evaluate(
        [
          [0, [0, 3], 3.75],
          [1, [1, 2], 7.75],
        ],
        false,
      ),
    ).toBeCloseTo(7.75, 12);
  });

  it("finds a split colour class and an accelerator that cannot run a node", () => {
    const graph = diamond();
    graph.nodes[1]!.color = graph.nodes[2]!.color = 5;
    expect(() =>
      evaluate(
        [
          [0, [0, 1, 3], 6.5],
          [1, [2], 4.5],
        ],
        true,
        graph,
      ),
    ).toThrow(/colour class 5/);
    graph.nodes[1]!.accelerated = false;
    expect(() =>
      evaluate(
        [
          [0, [0], 2.5],
          [1, [1, 2, 3], 8.5],
        ],
        true,
        graph,
      ),
    ).toThrow(/a processor for node b/);
  });

  it("mirrors the edges of backward nodes without a forward twin", () => {
    // Forward, a comes before b and c, and b before d: a and d on one device enclose b. As backward nodes
    // alone they follow d, b, a, and enclose it as well; with forward twins elsewhere they are free.
    const stages: Parameters<typeof solution>[0] = [
      [0, [0, 3], 3.75],
      [1, [1, 2], 7.75],
    ];
    const backward = diamond();
    for (const node of backward.nodes) node.backward = true;
    expect(() => evaluate(stages, true, backward)).toThrow(/contiguous/);
    const twins = diamond();
    for (const [index, node] of twins.nodes.entries()) {
      node.backward = true;
      node.color = index;
      twins.nodes.push({ ...structuredClone(node), id: `${node.id} forward`, backward: false });
      const [only] = twins.nodes.at(-1)!.variants;
      only!.forwardSeconds = only!.fixedBytes = 0;
      if (index === 3) break;
    }
    const withTwins = stages.map(([device, nodes, load]): (typeof stages)[number] => {
      return [device, nodes.flatMap((node) => [node, node + 4]), load];
    });
    const placed = solution(withTwins);
    for (const stage of placed.stages) stage.memoryBytes /= 2;
    expect(evaluateDnnPartitioning(twins, placed, { contiguous: true })).toBeCloseTo(7.75, 12);
  });
});
