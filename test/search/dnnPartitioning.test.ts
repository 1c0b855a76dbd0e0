import { describe, expect, it } from "vitest";
import { readDnnPartitioning } from "../../src/models/dnnPartitioning.js";
import { solveDnnPartitioning } from "../../src/search/inter/dnnPartitioning.js";
import { evaluateDnnPartitioning } from "../../src/search/inter/dnnPartitioningEvaluate.js";
import { enumerate, randomGraph } from "./dnnPartitioningRandom.js";

const input = (name: string) => readDnnPartitioning(`test/data/dnn-partitioning/${name}.json`);

describe("published inputs", () => {
  // Optimal contiguous loads of the authors' own dynamic program, run on the same files.
  it.each([
    ["bert24_training", 41.7458125],
    ["gnmt_training", 107.0044140625],
    ["bert_l-3_inference", 27.9185676799],
  ])("%s, contiguous: %f ms, proven over all ideals", async (name, load) => {
    const solution = await solveDnnPartitioning(input(name), { contiguous: true });
    expect(solution.status).toBe("optimal");
    expect(solution.objective).toBeCloseTo(load, 9);
    expect(solution.bound).toBeCloseTo(load, 7);
    expect(solution.restriction).toContain("contiguous");
  });

  // Loads of the authors' integer program with HiGHS: 73 s to a gap of 1 %, and 15 s to the optimum.
  it("bert24_training, not contiguous: 39.79 ms within 1 %", async () => {
    const solution = await solveDnnPartitioning(input("bert24_training"), { contiguous: false, gap: 0.01 });
    expect(solution.objective).toBeLessThanOrEqual(39.7895388795);
    expect(solution.gap).toBeLessThanOrEqual(0.01);
    expect(solution.bound).toBeGreaterThan(39.4176772373);
  });

  it("bert_l-3_inference, not contiguous: 21.91 ms, proven", async () => {
    const solution = await solveDnnPartitioning(input("bert_l-3_inference"), { contiguous: false });
    expect(solution).toMatchObject({ status: "optimal", restriction: "" });
    expect(solution.objective).toBeCloseTo(21.9083761057, 9);
  });

  it("gives the same placement every time", async () => {
    for (const contiguous of [true, false]) {
      const solutions = [];
      for (let i = 0; i < 2; i++) {
        const { cpuSeconds, ...solution } = await solveDnnPartitioning(input("bert24_training"), {
          contiguous,
          gap: 0.01,
        });
        expect(cpuSeconds).toBeGreaterThan(0);
        solutions.push(solution);
      }
      expect(solutions[1]).toEqual(solutions[0]);
    }
  });
});

describe("random graphs", () => {
  it.each([true, false])("equal enumeration (contiguous: %s)", { timeout: 240_000 }, async (contiguous) => {
    let [feasible, infeasible] = [0, 0];
    for (let seed = 0; seed < 1000; seed++) {
      const graph = randomGraph(seed);
      const expected = enumerate(graph, { contiguous });
      const solution = await solveDnnPartitioning(graph, { contiguous });
      const found = { seed, status: solution.status, objective: solution.objective };
      if (expected === Number.POSITIVE_INFINITY) {
        expect(found).toEqual({ seed, status: "infeasible", objective: expected });
        expect(solution.reason).toMatch(/^Expected .*\.$/);
        infeasible++;
        continue;
      }
      expect(found).toEqual({ seed, status: "optimal", objective: expect.closeTo(expected, 9) });
      const placed = solution.stages.flatMap(({ nodes }) => nodes).sort((a, b) => a - b);
      expect(placed).toEqual([...graph.nodes.keys()]);
      expect(evaluateDnnPartitioning(graph, solution, { contiguous })).toBeCloseTo(expected, 9);
      feasible++;
    }
    expect(feasible).toBeGreaterThan(600);
    expect(infeasible).toBeGreaterThan(20);
  });
});
