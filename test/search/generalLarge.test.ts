import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { LayeredGraph } from "../../src/models/layered.js";
import { solveInter } from "../../src/search/inter/general.js";
import { evaluateInter } from "../../src/search/inter/generalEvaluate.js";
import type { Machine } from "../../src/search/inter/machine.js";

function machineOf(devices: number, host: number, memory: number): Machine {
  const hosts = Math.ceil(devices / host);
  return {
    devices,
    memoryBytes: new Float64Array(devices).fill(memory),
    slowdown: new Float64Array(devices).fill(1),
    levels: [
      {
        groupOf: Int32Array.from({ length: devices }, (_, i) => Math.floor(i / host)),
        latencySeconds: new Array(hosts).fill(0.01),
        bytesPerSecond: new Array(hosts).fill(40),
      },
      { groupOf: new Int32Array(devices), latencySeconds: [0.02], bytesPerSecond: [5] },
    ],
  };
}

function chainOf(layers: { seconds: number; parameters: number; bytes: number }[]): LayeredGraph {
  return {
    name: "chain",
    format: "model",
    nodes: layers.map(({ seconds, parameters }, i) => ({
      id: `n${i}`,
      name: `n${i}`,
      variants: [1, 2].map((tensor) => ({
        tensor,
        recompute: false,
        forwardSeconds: seconds / tensor,
        backwardSeconds: (2 * seconds) / tensor + (tensor - 1) / 10,
        parameterBytes: parameters / tensor,
        activationBytes: 3 / tensor,
        fixedBytes: (4 * parameters) / tensor,
      })),
    })),
    edges: layers.slice(1).map((_, i) => ({ from: i, to: i + 1, bytes: layers[i]!.bytes })),
    header: {},
    warnings: [],
  };
}

const layer = fc.record({
  seconds: fc.integer({ min: 1, max: 9 }),
  parameters: fc.integer({ min: 0, max: 9 }),
  bytes: fc.integer({ min: 0, max: 4 }),
});
const even = Array.from({ length: 300 }, (_, i) => ({ seconds: 1 + (i % 7), parameters: 4, bytes: 2 }));

describe("solveInter beyond its work limit", () => {
  it("keeps its plan valid, its bound below the optimum and its gap true on mid-size chains", () => {
    let open = 0;
    fc.assert(
      fc.property(
        fc.record({
          layers: fc.array(layer, { minLength: 12, maxLength: 18 }),
          devices: fc.integer({ min: 6, max: 16 }),
          host: fc.constantFrom(2, 4, 5),
          memory: fc.constantFrom(150, 1000),
          objective: fc.constantFrom("steady" as const, "step" as const),
          workLimit: fc.constantFrom(200, 1000, 3000),
        }),
        ({ layers, devices, host, memory, objective, workLimit }) => {
          const graph = chainOf(layers);
          const options = { machine: machineOf(devices, host, memory), microBatches: 12, objective };
          const exact = solveInter(graph, { ...options, workLimit: 1e9 });
          const near = solveInter(graph, { ...options, workLimit });
          if (exact.status === "infeasible") {
            expect(near.stages).toEqual([]);
            return;
          }
          expect(exact.status).toBe("optimal");
          expect(near.bound).toBeLessThanOrEqual(exact.objective * (1 + 1e-9));
          if (near.stages.length === 0) return;
          if (near.status === "feasible") open++;
          const again = evaluateInter(graph, near.stages, options);
          expect(again.violations).toEqual([]);
          expect(again.objective).toBeCloseTo(near.objective, 9);
          expect(near.objective).toBeGreaterThanOrEqual(exact.objective * (1 - 1e-9));
          expect(near.objective * (1 - near.gap)).toBeLessThanOrEqual(exact.objective * (1 + 1e-9));
        },
      ),
      { numRuns: 60, seed: 5, endOnFailure: true },
    );
    expect(open).toBeGreaterThan(10);
  });

  it("plans 300 layers on 512 devices near the bound, the same each time", () => {
    const graph = chainOf(even);
    const options = { machine: machineOf(512, 8, 2000), microBatches: 1024, objective: "steady" as const };
    const first = solveInter(graph, options);
    expect(first.gap).toBeLessThan(0.02);
    expect(evaluateInter(graph, first.stages, options).violations).toEqual([]);
    const second = solveInter(graph, options);
    expect({ ...second, cpuSeconds: 0 }).toEqual({ ...first, cpuSeconds: 0 });
  });

  it("shares runs among stages within memory, never above one stage a run, never below its bound", () => {
    let shared = 0;
    fc.assert(
      fc.property(
        fc.record({
          layers: fc.array(layer, { minLength: 12, maxLength: 24 }),
          devices: fc.integer({ min: 4, max: 12 }),
          memory: fc.constantFrom(200, 1000),
          objective: fc.constantFrom("steady" as const, "step" as const),
          replicate: fc.boolean(),
          workLimit: fc.constantFrom(1e5, 2e6),
        }),
        ({ layers, devices, memory, objective, replicate, workLimit }) => {
          const graph = chainOf(layers);
          const machine = machineOf(devices, 4, memory);
          const options = { machine, microBatches: 24, objective, replicate };
          const single = solveInter(graph, options);
          const found = solveInter(graph, { ...options, chunks: 2, workLimit });
          if (found.stages.length === 0) return;
          const again = evaluateInter(graph, found.stages, { ...options, chunks: 2 });
          expect(again.violations).toEqual([]);
          expect(Math.abs(again.objective / found.objective - 1)).toBeLessThan(1e-9);
          expect(found.bound).toBeLessThanOrEqual(found.objective);
          // Every plan of one stage a run is one of several.
          expect(found.bound).toBeLessThanOrEqual(single.objective * (1 + 1e-9));
          if (new Set(found.stages.map((stage) => stage.devices[0])).size < found.stages.length) shared++;
        },
      ),
      { numRuns: 40, seed: 6, endOnFailure: true },
    );
    expect(shared).toBeGreaterThan(10);
  });

  it("stops when its signal is aborted", () => {
    const reason = new Error("stopped");
    // Aborted once the search is under way: the signal is asked between cuts.
    let asked = 0;
    const signal = {
      throwIfAborted() {
        if (++asked > 100) throw reason;
      },
    } as unknown as AbortSignal;
    const options = { machine: machineOf(512, 8, 2000), microBatches: 1024, objective: "step" as const };
    expect(() => solveInter(chainOf(even), { ...options, signal })).toThrow(reason);
    expect(asked).toBe(101);
  });
});
