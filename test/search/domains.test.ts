import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import { checkValue, jobSchema } from "../../src/contracts/index.js";
import { loadModel } from "../../src/models/index.js";
import type { LayeredGraph } from "../../src/models/layered.js";
import { layeredGraphOf } from "../../src/search/inter/fromModel.js";
import { solveInter } from "../../src/search/inter/general.js";
import { evaluateInter } from "../../src/search/inter/generalEvaluate.js";
import { machineOf } from "../../src/search/inter/machine.js";
import type { InterStage } from "../../src/search/inter/solution.js";
import type { InterModelOptions } from "../../src/search/inter/stageModel.js";
import { clusterOf, link } from "../cluster/mixed.js";

/** A chain of layers that may be split over one, two or three devices. */
function chainOf(
  layers: readonly { seconds: number; bytes: number; degrees: readonly number[] }[],
): LayeredGraph {
  return {
    name: "chain",
    format: "model",
    nodes: layers.map(({ seconds, degrees }, i) => ({
      id: `n${i}`,
      name: `n${i}`,
      variants: degrees.map((tensor) => ({
        tensor,
        recompute: false,
        forwardSeconds: seconds / tensor,
        backwardSeconds: (2 * seconds) / tensor,
        parameterBytes: 12 / tensor,
        activationBytes: 1e9,
        fixedBytes: 30e9 / tensor,
      })),
    })),
    edges: layers.slice(1).map((_, i) => ({ from: i, to: i + 1, bytes: layers[i]!.bytes })),
    header: {},
    warnings: [],
  };
}

/** The best of all ways to cut and place a chain that the second evaluator accepts. */
function exhaustive(graph: LayeredGraph, options: InterModelOptions): number {
  const { devices } = options.machine;
  const degrees = [...new Set(graph.nodes.flatMap((node) => node.variants.map(({ tensor }) => tensor)))];
  let best = Number.POSITIVE_INFINITY;
  const extend = (node: number, device: number, stages: InterStage[]) => {
    if (node === graph.nodes.length) {
      const { objective, violations } = evaluateInter(graph, stages, options);
      if (violations.length === 0) best = Math.min(best, objective);
      return;
    }
    for (let end = node + 1; end <= graph.nodes.length; end++) {
      const nodes = Array.from({ length: end - node }, (_, i) => node + i);
      for (const tensor of degrees) {
        const most = Math.min(options.microBatches, Math.floor((devices - device) / tensor));
        for (let replicas = 1; replicas <= most; replicas++) {
          const own = Array.from({ length: replicas * tensor }, (_, i) => device + i);
          const stage = { nodes, replicas, tensor, recomputed: [], devices: own, seconds: 0, memoryBytes: 0 };
          extend(end, device + own.length, [...stages, stage]);
        }
      }
    }
  };
  for (let first = 0; first < devices; first++) extend(0, first, []);
  return best;
}

const layer = fc.record({
  seconds: fc.integer({ min: 1, max: 9 }),
  bytes: fc.integer({ min: 0, max: 20 }),
  degrees: fc.constantFrom([1], [1, 2], [2], [2, 3], [1, 2, 3]),
});

describe("tensor-parallel groups", () => {
  it("keep inside the fast links in exact plans, on hosts of any size", () => {
    let narrowed = 0;
    fc.assert(
      fc.property(
        fc.array(layer, { minLength: 1, maxLength: 3 }),
        fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 2, maxLength: 3 }),
        fc.constantFrom("steady", "step" as const),
        (layers, groupSizes, objective) => {
          const count = groupSizes.reduce((sum, size) => sum + size, 0);
          const levels = [
            { name: "node", groupSizes, link: link(100) },
            { name: "network", groupSize: groupSizes.length, link: link(10) },
          ];
          const machine = machineOf(clusterOf("h100-sxm:8x1", levels, [count]), 1);
          const options = { machine, microBatches: 4, objective: objective as "step" };
          const graph = chainOf(layers);
          const wanted = exhaustive(graph, options);
          const found = solveInter(graph, options);
          if (wanted === Number.POSITIVE_INFINITY) {
            expect(found.status).toBe("infeasible");
            return;
          }
          expect(found.status).toBe("optimal");
          expect(Math.abs(found.objective / wanted - 1)).toBeLessThan(1e-9);
          expect(evaluateInter(graph, found.stages, options).violations).toEqual([]);
          const free = { ...options, machine: { ...machine, domainOf: undefined } };
          if (solveInter(graph, free).objective < wanted * (1 - 1e-9)) narrowed++;
        },
      ),
      { numRuns: 400, seed: 5 },
    );
    expect(narrowed).toBeGreaterThan(20);
  });

  it("are refused across hosts by the evaluator", () => {
    const machine = machineOf(clusterPreset("h100-sxm:3x1+h100-sxm:5x1"), 1);
    const options = { machine, microBatches: 4, objective: "step" as const };
    const graph = chainOf([{ seconds: 1, bytes: 0, degrees: [2] }]);
    const placed = (first: number) => {
      const devices = [first, first + 1, first + 2, first + 3];
      const stage = {
        nodes: [0],
        replicas: 2,
        tensor: 2,
        recomputed: [],
        devices,
        seconds: 0,
        memoryBytes: 0,
      };
      return evaluateInter(graph, [stage], options).violations;
    };
    expect(placed(0)).toEqual(["Devices 0, 1, 2, 3 hold a tensor-parallel group over slow links."]);
    expect(placed(1)).toEqual([]);
    expect(placed(2)).toHaveLength(1);
    expect(placed(3)).toEqual([]);
  });

  it("of a real model keep to their hosts, whole racks of fast links included", async () => {
    const job = checkValue(jobSchema, { schema: "mpopt.job/1", globalBatch: 64, sequence: 4096 }, "job");
    for (const preset of ["h100-sxm:8x4", "h100-sxm:8x2+a100-80:6x3", "gb200:2x4+h100-sxm:3x3"]) {
      const cluster = clusterPreset(preset);
      const graph = await layeredGraphOf(loadModel("llama-3.1-70b"), cluster, job, 1);
      const machine = machineOf(cluster, 0.94);
      const options = { machine, microBatches: 64, objective: "step" as const };
      const { stages, restriction } = solveInter(graph, options);
      expect(restriction).toMatch(/, tensor-parallel groups inside fast links$/);
      expect(stages.some(({ tensor }) => tensor > 1)).toBe(true);
      for (const { devices, tensor } of stages) {
        for (let i = 0; i < devices.length; i += tensor) {
          expect(machine.domainOf![devices[i + tensor - 1]!]).toBe(machine.domainOf![devices[i]!]);
        }
      }
      expect(evaluateInter(graph, stages, options).violations).toEqual([]);
    }
  });
});
