import { describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import { parts } from "../../src/cluster/parts.js";
import type { Cluster } from "../../src/contracts/index.js";
import {
  DeviceRuns,
  linkBetween,
  type Machine,
  machineOf,
  ringLink,
} from "../../src/search/inter/machine.js";
import { clusterOf, link } from "../cluster/mixed.js";

/** Bandwidth between every two devices, row by row; a dot on the diagonal. */
function bandwidths(machine: Machine): (number | string)[][] {
  const all = Array.from({ length: machine.devices }, (_, i) => i);
  return all.map((a) => all.map((b) => (a === b ? "." : linkBetween(machine, a, b).bandwidth)));
}

/** Every run of devices asked of the tables and of the links themselves. */
function expectRuns(machine: Machine): void {
  const runs = new DeviceRuns(machine);
  for (let tensor = 1; tensor <= machine.devices; tensor++) {
    for (let first = 0; first < machine.devices; first++) {
      for (let replicas = 1; first + replicas * tensor <= machine.devices; replicas++) {
        const end = first + replicas * tensor;
        expect(runs.run(first, replicas, tensor)).toEqual({
          slowdown: Math.max(...machine.slowdown.slice(first, end)),
          memoryBytes: Math.min(...machine.memoryBytes.slice(first, end)),
          link: ringLink(machine, first, replicas, tensor),
        });
        const groups = Array.from({ length: replicas }, (_, i) =>
          machine.domainOf?.slice(first + i * tensor, first + (i + 1) * tensor),
        );
        const inside = groups.every((group) => new Set(group).size <= 1);
        expect(runs.inDomains(first, replicas, tensor)).toBe(inside);
      }
    }
  }
}

describe("machineOf", () => {
  it("keeps hosts of three and five devices apart", () => {
    const cluster = clusterOf("h100-sxm:8x1", [
      { name: "node", groupSizes: [3, 5], links: [link(300, 3e-6), link(200, 2e-6)] },
      { name: "network", groupSize: 2, link: link(20, 9e-6) },
    ]);
    const machine = machineOf(cluster, 0.5);
    expect(machine.levels.map(({ groupOf }) => [...groupOf])).toEqual([
      [0, 0, 0, 1, 1, 1, 1, 1],
      [0, 0, 0, 0, 0, 0, 0, 0],
    ]);
    expect(linkBetween(machine, 0, 2)).toEqual({ latency: 3e-6, bandwidth: 300 });
    expect(linkBetween(machine, 7, 3)).toEqual({ latency: 2e-6, bandwidth: 200 });
    expect(linkBetween(machine, 2, 3)).toEqual({ latency: 9e-6, bandwidth: 20 });
    expect([...machine.slowdown]).toEqual(new Array(8).fill(1));
    const { contextBytes, fragmentation } = cluster.memoryOverheads;
    const left = (parts["h100-sxm"]!.memoryBytes / 2 - contextBytes.value) / fragmentation.value;
    expect([...machine.memoryBytes]).toEqual(new Array(8).fill(left));
    expect(new DeviceRuns(machine).period).toBe(8);
    expectRuns(machine);
  });

  it("gives every kind its memory, and its speed in the data type that is trained in", () => {
    const cluster = clusterPreset("a100-80:2x1+h100-sxm:3x1");
    const machine = machineOf(cluster, 1);
    const { "a100-80": a100, "h100-sxm": h100 } = parts;
    const best = (device: number) =>
      Math.max(
        ...cluster.devices[device]!.compute.filter(
          ({ operator, dtype }) => operator === "gemm" && dtype === "bf16",
        ).flatMap(({ points }) => points.map(({ rate }) => rate)),
      );
    const ratio = best(0) / best(1);
    expect([...machine.slowdown].map((each) => each / ratio)).toEqual(
      [1 / ratio, 1 / ratio, 1, 1, 1].map((each) => expect.closeTo(each, 3)),
    );
    const { contextBytes, fragmentation } = cluster.memoryOverheads;
    const left = (bytes: number) => (bytes - contextBytes.value) / fragmentation.value;
    expect([...machine.memoryBytes]).toEqual(
      [2, 3].flatMap((n, i) => new Array(n).fill(left([a100, h100][i]!.memoryBytes))),
    );
    // The H100's single precision is not in the same ratio.
    const single = machineOf(cluster, 1, "f32").slowdown[4]!;
    expect(single).toBeCloseTo((19.5 / 312 / (66.9 / 989.4)) * machine.slowdown[4]!, 6);
    expectRuns(machine);
  });

  it("compares kinds in a data type that both were measured in, and refuses where there is none", () => {
    const only = (cluster: Cluster, ...dtypes: string[]): Cluster => ({
      ...cluster,
      devices: cluster.devices.map((device, i) => ({
        ...device,
        compute: device.compute.filter(({ dtype }) => dtype === dtypes[i]),
      })),
    });
    const cluster = clusterPreset("a100-80:2x1+h100-sxm:2x1");
    expect(machineOf(only(cluster, "f32", "f32"), 1).slowdown[2]).toBe(
      machineOf(cluster, 1, "f32").slowdown[2],
    );
    expect(() => machineOf(only(cluster, "bf16", "f32"), 1)).toThrow(
      "a100-80:2x1+h100-sxm:2x1: expected gemm tables in a data type that all devices share for field devices but found none.",
    );
  });

  it("sends over the slower of two network cards, and over the fast ones between fast hosts", () => {
    const cluster = clusterOf("h100-sxm:2x3", [
      { name: "node", groupSize: 2, link: link(100, 1) },
      { name: "network", groupSize: 3, memberLinks: [link(10, 5), link(4, 2), link(8, 3)] },
    ]);
    const machine = machineOf(cluster, 1);
    expect(bandwidths(machine)).toEqual([
      [".", 100, 4, 4, 8, 8],
      [100, ".", 4, 4, 8, 8],
      [4, 4, ".", 100, 4, 4],
      [4, 4, 100, ".", 4, 4],
      [8, 8, 4, 4, ".", 100],
      [8, 8, 4, 4, 100, "."],
    ]);
    // The longer latency of the two, which may be the faster card's.
    expect(linkBetween(machine, 0, 5).latency).toBe(5);
    expect(linkBetween(machine, 2, 4).latency).toBe(3);
    expect(new DeviceRuns(machine).period).toBe(6);
    expectRuns(machine);
  });

  it("nests three levels of uneven groups", () => {
    const cluster = clusterOf("h100-sxm:9x1", [
      { name: "node", groupSizes: [1, 2, 3, 1, 2], link: link(100) },
      { name: "rack", groupSizes: [3, 2], links: [link(50), link(40)] },
      { name: "network", groupSize: 2, link: link(5) },
    ]);
    const machine = machineOf(cluster, 1);
    const node = [0, 1, 1, 2, 2, 2, 3, 4, 4];
    const rack = [0, 0, 0, 0, 0, 0, 1, 1, 1];
    const wanted = node.map((_, a) =>
      node.map((_, b) => {
        if (a === b) return ".";
        if (node[a] === node[b]) return 100;
        return rack[a] === rack[b] ? [50, 40][rack[a]!]! : 5;
      }),
    );
    expect(bandwidths(machine)).toEqual(wanted);
    expectRuns(machine);
  });

  it("sees that equal hosts repeat", () => {
    expect(new DeviceRuns(machineOf(clusterPreset("h100-sxm:4x3"), 1)).period).toBe(4);
    expect(new DeviceRuns(machineOf(clusterPreset("h100-sxm:4x1+h100-sxm:4x2"), 1)).period).toBe(4);
    expect(new DeviceRuns(machineOf(clusterPreset("h100-sxm:4x1+h100-sxm:2x2"), 1)).period).toBe(8);
  });
});
