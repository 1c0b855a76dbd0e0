import { describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import { checkValue, jobSchema } from "../../src/contracts/index.js";
import { loadModel } from "../../src/models/index.js";
import { layeredGraphOf } from "../../src/search/inter/fromModel.js";
import { solveInter } from "../../src/search/inter/general.js";
import { evaluateInter } from "../../src/search/inter/generalEvaluate.js";
import { machineOf } from "../../src/search/inter/machine.js";

const cluster = clusterPreset("h100-sxm:4x2");
const job = checkValue(jobSchema, { schema: "mpopt.job/1", globalBatch: 64, sequence: 2048 }, "job");

describe("layeredGraphOf", () => {
  it("turns a model into a chain with every degree, recomputed and not", async () => {
    const model = loadModel("mini-llama");
    const graph = await layeredGraphOf(model, cluster, job, 2);
    expect(graph.nodes).toHaveLength(10);
    expect(graph.edges).toHaveLength(9);
    const [embedding, block] = graph.nodes;
    expect(embedding!.variants.map(({ tensor }) => tensor)).toEqual([1, 2, 4]);
    expect(block!.variants.map(({ tensor, recompute }) => [tensor, recompute])).toEqual(
      [1, 2, 4].flatMap((tensor) => [
        [tensor, false],
        [tensor, true],
      ]),
    );
    const [plain, recomputed] = block!.variants;
    expect(recomputed!.backwardSeconds).toBeGreaterThan(plain!.backwardSeconds);
    expect(recomputed!.activationBytes).toBeLessThan(plain!.activationBytes / 4);
    // Activations between blocks: 2 sequences x 2048 tokens x 512 features in bf16.
    expect(graph.edges[3]!.bytes).toBe(2 * 2048 * 512 * 2);
    const parameters = graph.nodes.reduce((sum, node) => sum + node.variants[0]!.parameterBytes / 4, 0);
    expect(parameters).toBe(model.parameterCount);
  });

  it("feeds the stage search, on a cluster whose second host is slower too", async () => {
    const graph = await layeredGraphOf(loadModel("mini-llama"), cluster, job, 2);
    const machine = machineOf(cluster, 0.94);
    const options = { machine, microBatches: 32, objective: "step" as const };
    const even = solveInter(graph, options);
    expect(even.status).toBe("optimal");
    expect(evaluateInter(graph, even.stages, options).violations).toEqual([]);
    const slower = { ...machine, slowdown: machine.slowdown.map((each, i) => (i < 4 ? each : 3 * each)) };
    const uneven = solveInter(graph, { ...options, machine: slower });
    expect(uneven.objective).toBeGreaterThan(even.objective);
    // Leaving the slow host out is a plan too, so it costs at most as much.
    const alone = solveInter(graph, { ...options, machine: machineOf(clusterPreset("h100-sxm:4x1"), 0.94) });
    expect(uneven.objective).toBeLessThanOrEqual(alone.objective * (1 + 1e-12));
  });
});

describe("layeredGraphOf on a mixed cluster", () => {
  const model = loadModel("mini-llama");
  const times = async (preset: string) => {
    const graph = await layeredGraphOf(model, clusterPreset(preset), job, 2);
    return graph.nodes.map(({ variants }) => variants);
  };

  it("prices layers on the kind that machineOf gives slowdown 1", async () => {
    const alone = await times("h100-sxm:4x2");
    expect(await times("h100-sxm:4x1+a100-80:4x2")).toEqual(alone);
    expect(machineOf(clusterPreset("h100-sxm:4x1+a100-80:4x2"), 1).slowdown[0]).toBe(1);
    const slow = await times("a100-80:4x2+h100-sxm:4x1");
    expect(slow).toEqual(await times("a100-80:4x2"));
    const [fast] = alone[1]!;
    expect(slow[1]![0]!.forwardSeconds).toBeGreaterThan(1.3 * fast!.forwardSeconds);
  });

  it("knows every degree that a host of some size can take", async () => {
    const degrees = async (preset: string) => [
      ...new Set((await times(preset))[1]!.map(({ tensor }) => tensor)),
    ];
    // Three, five and six divide none of the model's sizes; a part of the larger host does.
    expect(await degrees("h100-sxm:3x1+h100-sxm:6x1")).toEqual([1, 2, 4]);
    expect(await degrees("h100-sxm:1x1+h100-sxm:5x1")).toEqual([1, 2, 4]);
  });

  it("prices a degree on the slowest links that so many devices of that kind share", async () => {
    const link = (name: string, rate: number) => {
      const known = clusterPreset(name).topology.levels[0]!.link!;
      return { ...known, bytesPerSecond: { ...known.bytesPerSecond, value: rate } };
    };
    const uneven = (rates: number[]) => ({
      ...clusterPreset("h100-sxm:2x1+h100-sxm:4x2"),
      topology: {
        levels: [
          { name: "node", groupSizes: [2, 4, 4], links: rates.map((rate) => link("h100-sxm", rate)) },
          { name: "network", groupSize: 3, link: link("h100-sxm", 1e9) },
        ],
      },
    });
    const seconds = async (rates: number[], tensor: number) => {
      const graph = await layeredGraphOf(model, uneven(rates), job, 2);
      return graph.nodes[1]!.variants.find((variant) => variant.tensor === tensor)!.forwardSeconds;
    };
    const base = await seconds([100e9, 100e9, 100e9], 4);
    expect(await seconds([10e9, 100e9, 100e9], 4)).toBe(base);
    expect(await seconds([100e9, 100e9, 50e9], 4)).toBeGreaterThan(base);
    expect(await seconds([10e9, 100e9, 100e9], 2)).toBeGreaterThan(await seconds([100e9, 100e9, 100e9], 2));
  });

  it("feeds an exact search that agrees with the second evaluator, slow hosts included", async () => {
    const mixed = clusterPreset("h100-sxm:2x1+a100-80:3x1");
    const graph = await layeredGraphOf(model, mixed, job, 2);
    const options = { machine: machineOf(mixed, 0.94), microBatches: 16, objective: "step" as const };
    const found = solveInter(graph, options);
    expect(found.status).toBe("optimal");
    const again = evaluateInter(graph, found.stages, options);
    expect(again.violations).toEqual([]);
    expect(Math.abs(again.objective / found.objective - 1)).toBeLessThan(1e-9);
    const fast = clusterPreset("h100-sxm:2x1");
    const alone = solveInter(graph, { ...options, machine: machineOf(fast, 0.94) });
    expect(found.objective).toBeLessThanOrEqual(alone.objective * (1 + 1e-12));
  });
});
