import { describe, expect, test } from "vitest";
import type { LayeredGraph } from "../../src/models/layered.js";
import { type PipedreamOptions, problemOf, solvePipedream } from "../../src/search/inter/pipedream.js";
import { cutTable } from "../../src/search/inter/pipedreamCuts.js";
import { checkPlacement, evaluatePipedream } from "../../src/search/inter/pipedreamEvaluate.js";
import { PipedreamTables } from "../../src/search/inter/pipedreamTables.js";
import { randomOf } from "../../src/search/inter/random.js";
import { bruteForce, layeredGraph } from "./pipedreamBrute.js";

/** A random DAG of `least` nodes or up to `more - 1` more; zero figures, several sources and sinks included. */
function randomGraph(random: (below: number) => number, least: number, more: number) {
  const count = least + random(more);
  const dense = 1 + random(4);
  const figure = (scale: number) => (random(4) === 0 ? 0 : random(scale));
  const figures = Array.from({ length: count }, (): [number, number, number] => [
    figure(1000) / 1000,
    figure(50) * 1e7,
    figure(50) * 1e7,
  ]);
  // Names in another order than the graph's.
  const place = figures.map((_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = random(i + 1);
    [place[i], place[j]] = [place[j]!, place[i]!];
  }
  const edges: [number, number][] = [];
  for (let i = 0; i < count; i++) {
    for (let j = i + 1; j < count; j++) if (random(4) < dense) edges.push([place[i]!, place[j]!]);
  }
  return layeredGraph(figures, edges);
}

const shapes = [[1], [2], [3], [4], [2, 2], [3, 2], [2, 3], [1, 2], [2, 1], [2, 2, 2]];
const bandwidths = [0.1e9, 1e9, 4e9];

function randomOptions(random: (below: number) => number): PipedreamOptions {
  const machines = shapes[random(shapes.length)]!;
  const options: PipedreamOptions = {
    machines,
    bandwidths: machines.map(() => bandwidths[random(bandwidths.length)]!),
    straight: random(4) === 0,
    freeTransfers: random(4) === 0,
  };
  const memory = random(4);
  if (memory > 1) {
    options.memoryBytes = (1 + random(300)) * 1e7;
    options.peerMemory = memory === 3;
  }
  return options;
}

/** Solves, compares with enumeration and checks the plan; whether there is one. */
function compare(graph: LayeredGraph, options: PipedreamOptions, context: string): boolean {
  const expected = bruteForce(graph, options);
  const solution = solvePipedream(graph, options);
  if (expected === Number.POSITIVE_INFINITY) {
    expect(solution.status, context).toBe("infeasible");
    expect(solution.reason, context).toMatch(/^Expected /);
    return false;
  }
  expect(solution.status, context).toBe("optimal");
  expect(Math.abs(solution.objective - expected), context).toBeLessThanOrEqual(1e-9 * expected);
  const value = evaluatePipedream(graph, solution, options);
  expect(Math.abs(value - expected), context).toBeLessThanOrEqual(1e-9 * expected);
  checkPlacement(graph, solution);
  const devices = options.machines.reduce((a, b) => a * b, 1);
  const used = solution.stages.flatMap((stage) => stage.devices).sort((a, b) => a - b);
  expect(used, context).toEqual(Array.from({ length: devices }, (_, d) => d));
  const slowest = Math.max(...solution.stages.map((stage) => stage.seconds));
  expect(Math.abs(slowest - expected), context).toBeLessThanOrEqual(1e-9 * expected);
  if (options.memoryBytes !== undefined && !options.peerMemory) {
    for (const stage of solution.stages) {
      expect(stage.memoryBytes, context).toBeLessThanOrEqual(options.memoryBytes);
    }
  }
  // Whatever cap the coarse searches leave, the best plan survives it.
  const problem = problemOf(cutTable(graph), options);
  for (const cap of [expected, expected * 1.1, expected * 2]) {
    const capped = new PipedreamTables(problem, cap).solve();
    expect(Math.abs(capped - expected), `cap ${cap}, ${context}`).toBeLessThanOrEqual(1e-9 * expected);
  }
  if (expected > 0) expect(new PipedreamTables(problem, expected * 0.99).solve(), context).toBe(1 / 0);
  return true;
}

describe("solvePipedream equals enumeration", () => {
  test("on 2,000 small random graphs and machines", () => {
    const random = randomOf(20);
    let infeasible = 0;
    for (let i = 0; i < 2000; i++) {
      const options = randomOptions(random);
      const graph = randomGraph(random, 1, 5);
      if (!compare(graph, options, `case ${i}: ${JSON.stringify({ options, graph })}`)) infeasible++;
    }
    // Both outcomes are exercised.
    expect(infeasible).toBeGreaterThan(100);
    expect(infeasible).toBeLessThan(1000);
  });

  test("on random graphs with enough cuts for coarse searches", () => {
    const random = randomOf(21);
    for (let i = 0; i < 150; i++) {
      const options = randomOptions(random);
      const graph = randomGraph(random, 8, 2);
      compare(graph, options, `case ${i}: ${JSON.stringify({ options, graph })}`);
    }
  });
});
