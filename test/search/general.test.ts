import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { LayeredGraph } from "../../src/models/layered.js";
import { solveInter } from "../../src/search/inter/general.js";
import { evaluateInter, type InterEvaluation } from "../../src/search/inter/generalEvaluate.js";
import type { Machine } from "../../src/search/inter/machine.js";
import type { InterStage } from "../../src/search/inter/solution.js";
import type { InterModelOptions } from "../../src/search/inter/stageModel.js";

/** Random DAGs with every feature: degrees, recomputation, hosts of different size and speed, memory. */
const casesUpTo = (most: number) =>
  fc
    .record({ nodes: fc.integer({ min: 1, max: most }), devices: fc.integer({ min: 1, max: most }) })
    .chain(({ nodes, devices }) =>
      fc.record({
        nodes: fc.array(
          fc.record({
            seconds: fc.integer({ min: 0, max: 9 }),
            parameters: fc.integer({ min: 0, max: 9 }),
            activations: fc.integer({ min: 0, max: 6 }),
            degrees: fc.constantFrom([1], [1, 2], [1, 2], [2], [1, 3]),
            recompute: fc.boolean(),
            edges: fc.array(fc.nat({ max: 4 }), { maxLength: 2 }),
            bytes: fc.integer({ min: 0, max: 6 }),
          }),
          { minLength: nodes, maxLength: nodes },
        ),
        slowdown: fc.array(fc.constantFrom(1, 1, 1, 2), { minLength: devices, maxLength: devices }),
        memory: fc.array(fc.integer({ min: 10, max: 60 }), { minLength: devices, maxLength: devices }),
        hosts: fc.array(fc.boolean(), { minLength: devices, maxLength: devices }),
        bandwidth: fc.constantFrom(1, 4),
        microBatches: fc.integer({ min: 1, max: 6 }),
        objective: fc.constantFrom("steady", "step" as const),
        overlap: fc.constantFrom(0, 0.5),
        replicate: fc.boolean(),
        chunks: fc.constantFrom(2, 2, 3),
      }),
    );
type Case = ReturnType<typeof casesUpTo> extends fc.Arbitrary<infer T> ? T : never;

function graphOf({ nodes }: Case): LayeredGraph {
  return {
    name: "random",
    format: "model",
    nodes: nodes.map((node, i) => ({
      id: `n${i}`,
      name: `n${i}`,
      variants: node.degrees.flatMap((tensor) =>
        (node.recompute ? [false, true] : [false]).map((recompute) => ({
          tensor,
          recompute,
          forwardSeconds: node.seconds / tensor,
          backwardSeconds: ((recompute ? 3 : 2) * node.seconds) / tensor + (tensor - 1),
          parameterBytes: node.parameters / tensor,
          activationBytes: recompute ? 1 : node.activations / tensor,
          fixedBytes: (2 * node.parameters) / tensor,
        })),
      ),
    })),
    edges: nodes.flatMap((node, to) =>
      [...new Set(node.edges)]
        .filter((from) => from < to)
        .map((from) => ({ from, to, bytes: nodes[from]!.bytes })),
    ),
    header: {},
    warnings: [],
  };
}

function optionsOf(given: Case): InterModelOptions {
  const devices = given.slowdown.length;
  let host = 0;
  const hostOf = given.hosts.map((starts, i) => {
    if (i > 0 && starts) host++;
    return host;
  });
  const machine: Machine = {
    devices,
    memoryBytes: Float64Array.from(given.memory),
    slowdown: Float64Array.from(given.slowdown),
    levels: [
      {
        groupOf: Int32Array.from(hostOf),
        latencySeconds: hostOf.map(() => 0.1),
        bytesPerSecond: hostOf.map((_, i) => 4 + i),
      },
      {
        groupOf: new Int32Array(devices),
        latencySeconds: [0.5],
        bytesPerSecond: [given.bandwidth],
      },
    ],
  };
  const { microBatches, objective, overlap, replicate } = given;
  return { machine, microBatches, objective: objective as "step", overlap, replicate };
}

/** Whether a plan of the same value goes before another: stage times, then traffic, then memory. */
function goesBefore(a: InterEvaluation, b: InterEvaluation): boolean {
  const keys = ["stageSeconds", "trafficBytes", "peakBytes"] as const;
  const key = keys.find((each) => Math.abs(a[each] - b[each]) > 1e-9 * Math.max(1, b[each]));
  return key !== undefined && a[key] < b[key];
}

/**
 * Every plan: chains of cuts, runs of devices, shapes, several stages a run where asked; priced by the second
 * evaluator. Of those of the least value the one that goes first.
 */
function enumerate(graph: LayeredGraph, options: InterModelOptions): InterEvaluation | undefined {
  const count = graph.nodes.length;
  const before = graph.nodes.map((_, node) =>
    graph.edges.filter(({ to }) => to === node).map(({ from }) => from),
  );
  const degrees = [...new Set(graph.nodes.flatMap((node) => node.variants.map(({ tensor }) => tensor)))];
  const recomputes = graph.nodes.some((node) => node.variants.some(({ recompute }) => recompute))
    ? [false, true]
    : [false];
  let best: InterEvaluation | undefined;
  const { chunks = 1, machine } = options;
  const closed = (set: number) =>
    before.every((list, node) => !(set & (1 << node)) || list.every((from) => set & (1 << from)));
  const full = (1 << count) - 1;
  // From the last stage to the first; a new run ends where the runs so far start.
  const extend = (left: number, end: number, stages: InterStage[]) => {
    if (left === 0) {
      const found = evaluateInter(graph, stages, options);
      if (found.violations.length > 0) return;
      const tolerance = 1e-9 * Math.max(1, found.objective);
      const worse = best && found.objective > best.objective + tolerance;
      if (worse || (best && found.objective > best.objective - tolerance && !goesBefore(found, best))) return;
      best = found;
      return;
    }
    for (let set = 0; set < left; set++) {
      if ((set & left) !== set || !closed(set)) continue;
      const nodes = graph.nodes.map((_, node) => node).filter((node) => left & ~set & (1 << node));
      for (const recompute of recomputes) {
        const recomputed = recompute ? nodes : [];
        if (chunks > 1) {
          for (const old of new Map(stages.map((stage) => [stage.devices[0]!, stage])).values()) {
            extend(set, end, [{ ...old, nodes, recomputed }, ...stages]);
          }
        }
        for (const tensor of degrees) {
          for (let replicas = 1; replicas * tensor <= end; replicas++) {
            if (replicas > options.microBatches || (options.replicate === false && replicas > 1)) break;
            const first = end - replicas * tensor;
            const devices = Array.from({ length: replicas * tensor }, (_, i) => first + i);
            const stage = { nodes, replicas, tensor, recomputed, devices, seconds: 0, memoryBytes: 0 };
            extend(set, first, [stage, ...stages]);
          }
        }
      }
    }
  };
  for (let end = machine.devices; end > 0; end--) extend(full, end, []);
  return best;
}

/** Compares the answer with the best of all plans. */
function expectBest(graph: LayeredGraph, options: InterModelOptions): InterStage[] {
  const wanted = enumerate(graph, options);
  const found = solveInter(graph, options);
  if (!wanted) {
    expect(found.status).toBe("infeasible");
    expect(found.reason).toMatch(/^(Memory: a stage on|No tensor-parallel degree)/);
    return [];
  }
  const tolerance = 1e-9 * Math.max(1, wanted.objective);
  expect(found.status).toBe("optimal");
  expect(Math.abs(found.objective - wanted.objective)).toBeLessThanOrEqual(tolerance);
  const again = evaluateInter(graph, found.stages, options);
  expect(again.violations).toEqual([]);
  expect(Math.abs(again.objective - found.objective)).toBeLessThanOrEqual(tolerance);
  expect(goesBefore(wanted, again)).toBe(false);
  return found.stages;
}

describe("solveInter", () => {
  it.each([
    [5000, 4],
    [200, 5],
  ])(
    "equals exhaustive enumeration on %i random DAGs of up to %i nodes, with every feature, ties included",
    (numRuns, most) => {
      let feasible = 0;
      let replicated = 0;
      fc.assert(
        fc.property(casesUpTo(most), (given) => {
          const stages = expectBest(graphOf(given), optionsOf(given));
          if (stages.length > 0) feasible++;
          if (stages.some((stage) => stage.replicas > 1)) replicated++;
        }),
        { numRuns, seed: 11, endOnFailure: true },
      );
      expect(feasible).toBeGreaterThan(numRuns / 4);
      expect(replicated).toBeGreaterThan(numRuns / 25);
    },
  );

  it.each([
    [4000, 3],
    [1000, 4],
  ])(
    "equals exhaustive enumeration on %i random DAGs of up to %i nodes with several stages a run",
    (numRuns, most) => {
      let shared = 0;
      fc.assert(
        fc.property(casesUpTo(most), (given) => {
          const stages = expectBest(graphOf(given), { ...optionsOf(given), chunks: given.chunks });
          const runs = new Set(stages.map((stage) => stage.devices[0]));
          if (runs.size < stages.length) shared++;
        }),
        { numRuns, seed: 12, endOnFailure: true },
      );
      expect(shared).toBeGreaterThan(20);
    },
  );
});
