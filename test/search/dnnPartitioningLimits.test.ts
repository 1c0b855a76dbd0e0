import { describe, expect, it } from "vitest";
import { readDnnPartitioning } from "../../src/models/dnnPartitioning.js";
import type { LayeredGraph } from "../../src/models/layered.js";
import { solveDnnPartitioning } from "../../src/search/inter/dnnPartitioning.js";
import { evaluateDnnPartitioning } from "../../src/search/inter/dnnPartitioningEvaluate.js";
import { randomOf } from "../../src/search/inter/random.js";

const gnmt = () => readDnnPartitioning("test/data/dnn-partitioning/gnmt_training.json");

/** Layers of parallel branches with costly tensors: far too many ideals, and no bound that closes. */
function wide(layers: number, width: number): LayeredGraph {
  const random = randomOf(layers * width);
  const graph: LayeredGraph = {
    ...gnmt(),
    nodes: [],
    edges: [],
    header: { devices: 8, processors: 1, memoryBytes: 1e12 },
  };
  for (let node = 0; node < layers * width; node++) {
    const seconds = (1 + random(1000)) / 1e5;
    graph.nodes.push({
      id: String(node),
      name: String(node),
      variants: [
        {
          tensor: 1,
          recompute: false,
          forwardSeconds: seconds,
          backwardSeconds: 0,
          parameterBytes: 0,
          activationBytes: 0,
          fixedBytes: 1,
        },
      ],
      processorSeconds: 10 * seconds,
    });
    for (const before of node < width ? [] : [node - width, node - 1 - random(width)]) {
      graph.edges.push({ from: before, to: node, bytes: 1, seconds: 2e-4 * (1 + (before % 7)) });
    }
  }
  return graph;
}

describe("limits", () => {
  it.each([true, false])("hold the time and give a bound (contiguous: %s)", async (contiguous) => {
    const graph = wide(60, 12);
    const started = performance.now();
    const seen: { objective: number; bound: number; seconds: number }[] = [];
    const solution = await solveDnnPartitioning(graph, {
      contiguous,
      timeLimitSeconds: 3,
      onProgress: (progress) => seen.push(progress),
    });
    expect((performance.now() - started) / 1000).toBeLessThan(6);
    expect(solution.status).toBe("feasible");
    expect(solution.bound).toBeGreaterThan(0.5 * solution.objective);
    expect(solution.gap).toBeCloseTo(1 - solution.bound / solution.objective, 9);
    expect(evaluateDnnPartitioning(graph, solution, { contiguous })).toBeCloseTo(solution.objective, 9);
    for (const [i, { objective, bound }] of seen.entries()) {
      expect(bound).toBeLessThanOrEqual(objective);
      if (i > 0) expect(objective).toBeLessThanOrEqual(seen[i - 1]!.objective);
      if (i > 0) expect(bound).toBeGreaterThanOrEqual(seen[i - 1]!.bound);
    }
    expect(seen.at(-1)!.objective).toBeCloseTo(solution.objective, 9);
  });

  it.each([true, false])("an abort gives the best answer so far (contiguous: %s)", async (contiguous) => {
    const controller = new AbortController();
    const started = performance.now();
    setTimeout(() => controller.abort(), 1500);
    const solution = await solveDnnPartitioning(wide(60, 12), { contiguous, signal: controller.signal });
    expect((performance.now() - started) / 1000).toBeLessThan(4.5);
    expect(solution.status).toBe("feasible");
    expect(solution.bound).toBeGreaterThan(0);
  });

  it("overrides the devices, the processors and the memory of the file", async () => {
    const graph = gnmt();
    const one = await solveDnnPartitioning(graph, { contiguous: true, devices: 1, processors: 0 });
    // The authors' tool for one accelerator.
    expect(one.objective).toBeCloseTo(520.453, 9);
    expect(one.stages).toHaveLength(1);
    const nine = await solveDnnPartitioning(graph, { contiguous: true, devices: 9 });
    expect(nine.status).toBe("optimal");
    expect(nine.objective).toBeLessThan(107);
    const memoryBytes = 1.7e9;
    const tight = await solveDnnPartitioning(graph, { contiguous: true, processors: 0, memoryBytes });
    expect(tight.status).toBe("optimal");
    expect(Math.max(...tight.stages.map((stage) => stage.memoryBytes))).toBeLessThanOrEqual(memoryBytes);
    const none = await solveDnnPartitioning(graph, { contiguous: false, processors: 0, memoryBytes: 0.8e9 });
    expect(none).toMatchObject({ status: "infeasible", stages: [] });
    expect(none.reason).toMatch(/^Expected room for .* bytes .*\.$/);
  });

  it("refuses limits that make no sense", async () => {
    const wrong = [
      { devices: -1 },
      { devices: 1.5 },
      { devices: 0, processors: 0 },
      { memoryBytes: Number.NaN },
    ];
    for (const options of wrong) {
      await expect(solveDnnPartitioning(gnmt(), { contiguous: true, ...options })).rejects.toMatchObject({
        code: "E_USAGE",
      });
    }
  });
});
