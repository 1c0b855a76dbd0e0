import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { LayeredGraph } from "../../src/models/layered.js";
import { type AlpaOptions, evaluateAlpa, solveAlpa, submeshes } from "../../src/search/inter/alpa.js";
import type { InterStage } from "../../src/search/inter/solution.js";

const cases = fc.record({
  layers: fc.array(
    fc.record({
      seconds: fc.integer({ min: 1, max: 9 }),
      parameters: fc.integer({ min: 0, max: 9 }),
      activations: fc.integer({ min: 0, max: 5 }),
      degrees: fc.constantFrom([1], [1, 2], [1, 2, 4]),
    }),
    { minLength: 1, maxLength: 5 },
  ),
  hosts: fc.integer({ min: 1, max: 3 }),
  devicesPerHost: fc.constantFrom(1, 2, 4),
  microBatches: fc.integer({ min: 1, max: 8 }),
  memoryBytes: fc.constantFrom(undefined, 15, 30),
});
type Case = typeof cases extends fc.Arbitrary<infer T> ? T : never;

function graphOf({ layers }: Case): LayeredGraph {
  return {
    name: "random",
    format: "model",
    nodes: layers.map((layer, i) => ({
      id: `n${i}`,
      name: `n${i}`,
      variants: layer.degrees.map((tensor) => ({
        tensor,
        recompute: false,
        forwardSeconds: layer.seconds / tensor,
        backwardSeconds: (2 * layer.seconds) / tensor + 0.3 * (tensor - 1),
        parameterBytes: layer.parameters / tensor,
        activationBytes: layer.activations / tensor,
        fixedBytes: layer.parameters / tensor,
      })),
    })),
    edges: layers.slice(1).map((_, i) => ({ from: i, to: i + 1, bytes: 1 })),
    header: {},
    warnings: [],
  };
}

/** Every cut, submesh and configuration, priced from the definition. */
function enumerate(graph: LayeredGraph, options: AlpaOptions): number {
  const layers = graph.nodes.length;
  const total = options.hosts * options.devicesPerHost;
  let best = Number.POSITIVE_INFINITY;
  const extend = (start: number, used: number, stages: InterStage[]) => {
    if (start === layers) {
      if (used === total) best = Math.min(best, evaluateAlpa(graph, stages, options));
      return;
    }
    for (let end = start + 1; end <= layers; end++) {
      for (const size of submeshes(options)) {
        if (used + size > total) break;
        for (const tensor of [1, 2, 4]) {
          if (size % tensor !== 0) continue;
          const nodes = Array.from({ length: end - start }, (_, i) => start + i);
          const stage = {
            nodes,
            replicas: size / tensor,
            tensor,
            recomputed: [],
            devices: [],
            seconds: 0,
            memoryBytes: 0,
          };
          extend(end, used + size, [...stages, stage]);
        }
      }
    }
  };
  extend(0, 0, []);
  return best;
}

describe("solveAlpa", () => {
  it("equals exhaustive enumeration on 1,000 random chains", () => {
    let feasible = 0;
    fc.assert(
      fc.property(cases, (given) => {
        const graph = graphOf(given);
        const { hosts, devicesPerHost, microBatches, memoryBytes } = given;
        const options: AlpaOptions = {
          hosts,
          devicesPerHost,
          microBatches,
          memoryBytes,
          bandwidths: [20, 3],
        };
        const wanted = enumerate(graph, options);
        const found = solveAlpa(graph, options);
        if (wanted === Number.POSITIVE_INFINITY) {
          expect(found.status).toBe("infeasible");
          return;
        }
        feasible++;
        expect(found.objective).toBeCloseTo(wanted, 9);
        expect(evaluateAlpa(graph, found.stages, options)).toBeCloseTo(found.objective, 9);
        const devices = found.stages.flatMap((stage) => stage.devices).sort((a, b) => a - b);
        expect(devices).toEqual(Array.from({ length: hosts * devicesPerHost }, (_, i) => i));
        const nodes = found.stages.flatMap((stage) => stage.nodes);
        expect(nodes).toEqual(graph.nodes.map((_, node) => node));
      }),
      { numRuns: 1000, seed: 21, endOnFailure: true },
    );
    expect(feasible).toBeGreaterThan(500);
  });

  it("refuses hosts of three devices, as Alpa does", () => {
    const graph = graphOf({
      layers: [{ seconds: 1, parameters: 1, activations: 1, degrees: [1] }],
      hosts: 1,
      devicesPerHost: 1,
      microBatches: 1,
      memoryBytes: undefined,
    });
    expect(() =>
      solveAlpa(graph, { hosts: 1, devicesPerHost: 3, bandwidths: [1, 1], microBatches: 1 }),
    ).toThrow("Expected a power of two devices a host for Alpa's model but found 3.");
  });
});
