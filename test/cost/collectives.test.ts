import { describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import type { Cluster } from "../../src/contracts/index.js";
import { type Collective, CommunicationModel } from "../../src/cost/communication.js";

const mebibyte = 2 ** 20;
const gibibyte = 2 ** 30;

const inside = (cluster: Cluster, collective: Collective, bytes: number, size: number) =>
  new CommunicationModel(cluster).collectiveSeconds(collective, bytes, { size, stride: 1 });

describe("collectives of a preset's node", () => {
  const a100 = clusterPreset("a100-80:8x1");

  it("take the published times: 2 and 8 A100, H200 under NVLink SHARP", () => {
    // vTrain trace/a100: 44.21 us for 1 MiB over 2 GPUs; stas00: 43.83 us for 32 KiB over 8.
    expect(inside(a100, "allReduce", mebibyte, 2)).toBeCloseTo(44.21e-6, 8);
    expect(inside(a100, "allReduce", 32768, 8)).toBeCloseTo(43.83e-6, 6);
    const h200 = clusterPreset("h200-sxm:8x1");
    const bus = (bytes: number, n: number, seconds: number) => (2 * (n - 1) * bytes) / n / seconds / 1e9;
    expect(bus(16 * gibibyte, 8, inside(h200, "allReduce", 16 * gibibyte, 8))).toBeCloseTo(482.26, 2);
    // Four H200 reach 363 GB/s where eight reach 473.
    expect(bus(8 * gibibyte, 4, inside(h200, "allReduce", 8 * gibibyte, 4))).toBeCloseTo(366, -1);
  });

  it("go on below the smallest size like the curve that reaches lower, and above the largest at its rate", () => {
    const [small, smallest] = [inside(a100, "allReduce", mebibyte / 8, 4), inside(a100, "allReduce", 1, 4)];
    expect(small).toBeLessThan(inside(a100, "allReduce", mebibyte, 4));
    expect(smallest).toBeLessThan(small);
    expect(smallest).toBeGreaterThan(10e-6);
    const large = inside(a100, "allReduce", 2 * gibibyte, 4) - inside(a100, "allReduce", gibibyte, 4);
    expect((1.5 * gibibyte) / large / 1e9).toBeGreaterThan(215);
    expect((1.5 * gibibyte) / large / 1e9).toBeLessThan(235);
  });

  it("derive others from half an all-reduce, at the ring's rate at most", () => {
    const h200 = clusterPreset("h200-sxm:8x1");
    // nccl-tests on H200, ring, 16 GiB: all-gather 361.4 GB/s, reduce-scatter 362.9 GB/s.
    for (const [collective, rate] of [
      ["allGather", 361.4],
      ["reduceScatter", 362.9],
    ] as const) {
      const seconds = inside(h200, collective, 16 * gibibyte, 8);
      expect(((7 / 8) * 16 * gibibyte) / seconds / 1e9).toBeGreaterThan(0.97 * rate);
      expect(((7 / 8) * 16 * gibibyte) / seconds / 1e9).toBeLessThan(1.03 * rate);
    }
    expect(inside(h200, "allGather", 32768, 8)).toBeCloseTo(inside(h200, "allReduce", 32768, 8) / 2, 12);
    expect(inside(h200, "allToAll", gibibyte, 8)).toBeGreaterThan(inside(h200, "allGather", gibibyte, 8));
    const model = new CommunicationModel(h200);
    model.collectiveSeconds("allReduce", gibibyte, { size: 8, stride: 1 });
    expect(model.provenance).toBe("measured");
    model.collectiveSeconds("allGather", gibibyte, { size: 8, stride: 1 });
    expect(model.provenance).toBe("fitted");
  });

  it("follow the level's link where it is not the one that was measured", () => {
    const slow = structuredClone(a100);
    const link = slow.topology.levels[0]!.link!;
    link.bytesPerSecond = { value: link.bytesPerSecond.value / 2, provenance: "fitted", source: "a test" };
    const [large, latency] = [inside(a100, "allReduce", gibibyte, 8), inside(a100, "allReduce", 32768, 8)];
    expect(inside(slow, "allReduce", gibibyte, 8)).toBeCloseTo(latency + 2 * (large - latency), 9);
    expect(inside(slow, "allReduce", 32768, 8)).toBeCloseTo(latency, 12);
    link.latencySeconds = { value: 3 * link.latencySeconds.value, provenance: "fitted", source: "a test" };
    expect(inside(slow, "allReduce", 32768, 8)).toBeCloseTo(3 * latency, 12);
    // An A800 is an A100 with two thirds of its links.
    const ratio = inside(clusterPreset("a800-80"), "allReduce", gibibyte, 8) / large;
    expect(ratio).toBeGreaterThan(1.45);
    expect(ratio).toBeLessThan(1.5);
  });
});

describe("collectives across nodes", () => {
  const cluster = clusterPreset("h100-sxm:8x4");
  const [node, network] = cluster.topology.levels.map((level) => level.link!.bytesPerSecond.value);
  const across = (collective: Collective, bytes: number, size: number, stride: number) =>
    new CommunicationModel(cluster).collectiveSeconds(collective, bytes, { size, stride });

  it("send an all-to-all's bytes that leave the node over each rank's own card", () => {
    const bytes = gibibyte;
    const leaving = (24 / 32) * bytes;
    const whole = across("allToAll", bytes, 32, 1);
    expect(whole).toBeGreaterThan(leaving / network!);
    expect(whole).toBeLessThan((1.3 * leaving) / network!);
    // A ring of the same ranks has eight cards a node.
    expect(across("allGather", bytes, 32, 1)).toBeLessThan(whole / 4);
    // One rank a node: everything but its own part leaves.
    expect(across("allToAll", bytes, 4, 8)).toBeGreaterThan(((3 / 4) * bytes) / network!);
    expect(across("allToAll", bytes, 8, 1)).toBeLessThan((1.5 * (7 / 8) * bytes) / node!);
  });

  it("take a tree for short all-reduces and a ring's volume for long ones", () => {
    const wide = clusterPreset("h100-sxm:8x64");
    const seconds = (bytes: number) => inside(wide, "allReduce", bytes, 512);
    // A ring of 512 ranks has 1022 hops of 3 us and more.
    expect(seconds(8)).toBeLessThan(200e-6);
    const volume = (2 * (511 / 512) * 64 * gibibyte) / Math.min(node!, 8 * network!);
    expect(seconds(64 * gibibyte)).toBeGreaterThan(volume);
    expect(seconds(64 * gibibyte)).toBeLessThan(1.02 * volume);
  });

  it("are within a fifth of 32 B200 from 512 MiB on (stas00, 4 nodes of 8, 8 x 50 GB/s)", () => {
    const b200 = clusterPreset("b200:8x4");
    const measured = { 29: 326.9, 30: 361.99, 31: 372.42, 32: 377.34, 34: 381.8 };
    for (const [exponent, bus] of Object.entries(measured)) {
      const bytes = 2 ** Number(exponent);
      const found = (2 * (31 / 32) * bytes) / inside(b200, "allReduce", bytes, 32) / 1e9;
      expect(Math.abs(found / bus - 1)).toBeLessThan(0.2);
    }
  });
});
