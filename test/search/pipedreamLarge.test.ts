import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { readPipedream } from "../../src/models/pipedream.js";
import {
  allCuts,
  cutsAround,
  cutsFrom,
  linearOrders,
  narrowCuts,
  nodesOf,
  posetOf,
} from "../../src/search/inter/linearise.js";
import { solvePipedream } from "../../src/search/inter/pipedream.js";
import { checkPlacement, evaluatePipedream } from "../../src/search/inter/pipedreamEvaluate.js";
import { randomOf } from "../../src/search/inter/random.js";
import { layeredGraph } from "./pipedreamBrute.js";
import { nasnetProfile } from "./pipedreamNasnet.js";
import { settings } from "./pipedreamPublished.js";

describe("cuts", () => {
  test("are all down-sets, each once", () => {
    const random = randomOf(7);
    for (let i = 0; i < 300; i++) {
      const count = 1 + random(9);
      const edges: [number, number][] = [];
      for (let a = 0; a < count; a++) {
        for (let b = 0; b < a; b++) if (random(3) === 0) edges.push([b, a]);
      }
      const poset = posetOf(layeredGraph(Array(count).fill([1, 1, 1]), edges));
      const expected = new Set<string>();
      for (let set = 1; set < 1 << count; set++) {
        if (edges.every(([from, to]) => ((set >> to) & 1) === 0 || ((set >> from) & 1) === 1)) {
          expected.add(String(set));
        }
      }
      const cuts = allCuts(poset, expected.size)!;
      expect(new Set(Array.from({ length: cuts.count }, (_, j) => String(cuts.bits[j])))).toEqual(expected);
      expect(cuts.count).toBe(expected.size);
      expect(allCuts(poset, expected.size - 1)).toBeUndefined();
      // Every choice of cuts consists of cuts and ends with all nodes.
      const whole = String(2 ** count - 1);
      for (const some of [
        cutsFrom(
          poset,
          poset.before.findIndex((list) => list.length === 0),
          1000,
        )!,
        narrowCuts(poset, new Array(count).fill(1), 20),
        cutsAround(poset, cuts, 1, 1000),
      ]) {
        const found = Array.from({ length: some.count }, (_, j) => String(some.bits[j]));
        expect(found.filter((cut) => !expected.has(cut))).toEqual([]);
        expect(new Set(found).size).toBe(found.length);
        expect(found).toContain(whole);
      }
    }
  });

  test("PipeDream's own states of GNMT-8 are 99", () => {
    const graph = readPipedream(join(import.meta.dirname, "../data/pipedream/gnmt.txt"));
    expect(cutsFrom(posetOf(graph), 0, 1000)!.count).toBe(99);
    expect(allCuts(posetOf(graph), 1000)!.count).toBe(561);
  });

  test("linear orders respect every edge", () => {
    const graph = readPipedream(nasnetProfile(3));
    const poset = posetOf(graph);
    const orders = linearOrders(
      poset,
      graph.nodes.map(({ variants }) => variants[0]!.activationBytes),
    );
    expect(orders.length).toBe(3);
    for (const order of orders) {
      expect([...order].sort((a, b) => a - b)).toEqual(graph.nodes.map((_, node) => node));
      const place = new Map(order.map((node, at) => [node, at]));
      for (const { from, to } of graph.edges) expect(place.get(from)!).toBeLessThan(place.get(to)!);
    }
  });

  test("bit sets beyond one word", () => {
    expect(nodesOf(Uint32Array.of(0, 0x80000001, 2), 1, 2)).toEqual([0, 31, 33]);
  });
});

describe("graphs with too many cuts", () => {
  const graph = readPipedream(nasnetProfile(22));
  test("have NASNet's size", () => {
    expect(graph.nodes.length).toBeGreaterThan(1100);
    expect(graph.nodes.length).toBeLessThan(1400);
    expect(allCuts(posetOf(graph), 20_000)).toBeUndefined();
  });
  test.each(["F16", "A4x4", "B2x8"] as const)("are planned on %s in seconds", (setting) => {
    const solution = solvePipedream(graph, settings[setting]);
    expect(solution.restriction).toMatch(/^\d+ cuts: contiguous stages of up to three linear orders/);
    expect(solution.cpuSeconds).toBeLessThan(20);
    checkPlacement(graph, solution);
    const value = evaluatePipedream(graph, solution, settings[setting]);
    expect(Math.abs(value / solution.objective - 1)).toBeLessThanOrEqual(1e-9);
    expect(solution.unrestrictedBound).toBeLessThanOrEqual(solution.objective);
    // The further cuts and the exchange of nodes never lose against the orders alone.
    const alone = solvePipedream(graph, { ...settings[setting], maximumCuts: 1 });
    expect(solution.objective).toBeLessThanOrEqual(alone.objective * (1 + 1e-9));
  });
  test("are planned exactly once they are small enough", () => {
    const small = layeredGraph(
      Array.from({ length: 9 }, (_, i): [number, number, number] => [1 + i / 10, 1e6, (i % 3) * 1e8]),
      [],
    );
    const options = { machines: [3], bandwidths: [1e9] };
    const exact = solvePipedream(small, options);
    expect(exact.restriction).toBe("");
    const some = solvePipedream(small, { ...options, maximumCuts: 40 });
    expect(some.restriction).not.toBe("");
    expect(some.objective).toBeGreaterThanOrEqual(exact.objective * (1 - 1e-9));
    checkPlacement(small, some);
  });
});
