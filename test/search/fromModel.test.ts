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
