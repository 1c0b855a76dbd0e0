import { describe, expect, it } from "vitest";
import type { LayeredGraph } from "../../src/models/layered.js";
import { solveInter } from "../../src/search/inter/general.js";
import { evaluateInter } from "../../src/search/inter/generalEvaluate.js";
import { linkBetween, machineOf } from "../../src/search/inter/machine.js";
import type { InterStage } from "../../src/search/inter/solution.js";
import type { InterModelOptions } from "../../src/search/inter/stageModel.js";
import { clusterOf, link } from "../cluster/mixed.js";

const gigabyte = 1e9;

/** A chain of four equal layers of 50 GB each, with these gigabytes between them. */
function chainOf(sent: readonly number[]): LayeredGraph {
  return {
    name: "chain",
    format: "model",
    nodes: Array.from({ length: 4 }, (_, i) => ({
      id: `n${i}`,
      name: `n${i}`,
      variants: [
        {
          tensor: 1,
          recompute: false,
          forwardSeconds: 1,
          backwardSeconds: 2,
          parameterBytes: gigabyte,
          activationBytes: 0,
          fixedBytes: 50 * gigabyte,
        },
      ],
    })),
    edges: sent.map((size, i) => ({ from: i, to: i + 1, bytes: size * gigabyte })),
    header: {},
    warnings: [],
  };
}

/** Every way to cut the chain, to replicate its stages and to place them, priced by the second evaluator. */
function placements(graph: LayeredGraph, options: InterModelOptions) {
  const { devices } = options.machine;
  const found: { stages: InterStage[]; objective: number }[] = [];
  const extend = (node: number, device: number, stages: InterStage[]) => {
    if (node === graph.nodes.length) {
      const { objective, violations } = evaluateInter(graph, stages, options);
      if (violations.length === 0) found.push({ stages, objective });
      return;
    }
    for (let end = node + 1; end <= graph.nodes.length; end++) {
      for (let replicas = 1; device + replicas <= devices; replicas++) {
        const stage: InterStage = {
          nodes: Array.from({ length: end - node }, (_, i) => node + i),
          replicas,
          tensor: 1,
          recomputed: [],
          devices: Array.from({ length: replicas }, (_, i) => device + i),
          seconds: 0,
          memoryBytes: 0,
        };
        extend(end, device + replicas, [...stages, stage]);
      }
    }
  };
  for (let first = 0; first < devices; first++) extend(0, first, []);
  return found;
}

/** By cut of the chain, the bandwidth that the solution's stages have there. */
function bandwidths(stages: readonly InterStage[], { machine }: InterModelOptions): number[] {
  return stages
    .slice(1)
    .map(({ devices }, i) => linkBetween(machine, stages[i]!.devices.at(-1)!, devices[0]!).bandwidth);
}

const orders = [
  [1, 4, 9],
  [1, 9, 4],
  [4, 1, 9],
  [4, 9, 1],
  [9, 1, 4],
  [9, 4, 1],
];

/**
 * Devices of 80 GiB hold one layer each, and no host has four of them: the chain is cut over hosts. `least` is
 * the slowest link that the pair that talks most may be left with.
 */
const clusters = {
  "hosts of three and three": {
    count: 6,
    least: 100,
    levels: [
      { name: "node", groupSize: 3, link: link(100 * gigabyte, 1e-3) },
      { name: "network", groupSize: 2, link: link(10 * gigabyte, 2e-3) },
    ],
  },
  "hosts of two and three": {
    count: 5,
    least: 100,
    levels: [
      { name: "node", groupSizes: [2, 3], link: link(100 * gigabyte, 1e-3) },
      { name: "network", groupSize: 2, link: link(10 * gigabyte, 2e-3) },
    ],
  },
  "three hosts of two, the last one with a slower network card": {
    count: 6,
    least: 20,
    levels: [
      { name: "node", groupSize: 2, link: link(100 * gigabyte) },
      {
        name: "network",
        groupSize: 3,
        memberLinks: [link(20 * gigabyte), link(20 * gigabyte), link(5 * gigabyte)],
      },
    ],
  },
};

describe.each(Object.entries(clusters))("stages over %s", (_name, { count, least, levels }) => {
  const cluster = clusterOf("h100-sxm:8x1", levels, [count]);
  it.each(orders)("with %i, %i and %i GB between layers are placed as well as any placement", (...sent) => {
    const graph = chainOf(sent);
    for (const objective of ["step", "steady"] as const) {
      for (const replicate of [false, true]) {
        const options = { machine: machineOf(cluster, 1), microBatches: 8, objective, replicate };
        const all = placements(graph, options).filter(
          ({ stages }) => replicate || stages.every(({ replicas }) => replicas === 1),
        );
        const best = Math.min(...all.map((each) => each.objective));
        const found = solveInter(graph, options);
        expect(found.status).toBe("optimal");
        expect(Math.abs(found.objective / best - 1)).toBeLessThan(1e-9);
        const again = evaluateInter(graph, found.stages, options);
        expect(again.violations).toEqual([]);
        expect(Math.abs(again.objective / best - 1)).toBeLessThan(1e-9);
        // Some placements are worse, so that the search had something to find.
        expect(Math.max(...all.map((each) => each.objective))).toBeGreaterThan(best * 1.01);
      }
    }
  });

  it.each(orders)("with %i, %i and %i GB between layers talk most over a fast link", (...sent) => {
    const graph = chainOf(sent);
    const options: InterModelOptions = {
      machine: machineOf(cluster, 1),
      microBatches: 8,
      objective: "step",
      replicate: false,
    };
    const { stages, objective } = solveInter(graph, options);
    expect(stages).toHaveLength(4);
    const { groupOf } = options.machine.levels[0]!;
    expect(new Set(stages.map(({ devices }) => groupOf[devices[0]!])).size).toBeGreaterThan(1);
    const heaviest = sent.indexOf(9);
    const rate = (each: readonly InterStage[]) => bandwidths(each, options)[heaviest]! / gigabyte;
    expect(rate(stages)).toBeGreaterThanOrEqual(least);
    const others = placements(graph, options).filter((each) => rate(each.stages) < least);
    for (const other of others) expect(other.objective).toBeGreaterThan(objective * 1.001);
    // In some order at least, the pair could have ended up on a slower link.
    if (heaviest === 1) expect(others.length).toBeGreaterThan(0);
  });
});
