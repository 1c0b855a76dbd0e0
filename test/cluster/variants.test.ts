import { describe, expect, it } from "vitest";
import {
  clusterPreset,
  deviceCount,
  evenLevels,
  withDeviceSpeed,
  withDevices,
  withLinkSpeed,
  withPart,
} from "../../src/cluster/index.js";
import { type Cluster, checkDocument } from "../../src/contracts/index.js";
import { CommunicationModel } from "../../src/cost/communication.js";

/** A preset that a person has changed, so that it is no preset any more. */
function measured(reference: string): Cluster {
  const cluster = clusterPreset(reference);
  return { ...cluster, source: "cluster.json", environment: { ...cluster.environment, host: "node-1" } };
}

describe("withDevices", () => {
  it("gives the preset of that size", () => {
    expect(withDevices(clusterPreset("h100-sxm:8x4"), 128)).toEqual(clusterPreset("h100-sxm:8x16"));
    expect(withDevices(clusterPreset("h100-sxm:8x4"), 4)).toEqual(clusterPreset("h100-sxm:4x1"));
    expect(withDevices(clusterPreset("h100-sxm"), 16)).toEqual(clusterPreset("h100-sxm:8x2"));
    const cluster = clusterPreset("a100-80:8x2");
    expect(withDevices(cluster, 16)).toBe(cluster);
  });

  it("adds and takes groups of a file's outermost level, and drops levels that join nothing any more", () => {
    const sizes = (cluster: Cluster) => evenLevels(cluster).map(({ groupSize }) => groupSize);
    const four = measured("h100-sxm:8x4");
    for (const [devices, expected] of [
      [128, [8, 16]],
      [16, [8, 2]],
      [8, [8]],
      [2, [2]],
    ] as const) {
      const other = withDevices(four, devices);
      expect(sizes(other)).toEqual(expected);
      expect(deviceCount(other)).toBe(devices);
      expect(other.environment.host).toBe("node-1");
      checkDocument("cluster", other, "variant");
    }
    const racks = measured("gb200:4x36");
    expect(sizes(racks)).toEqual([4, 18, 2]);
    expect(sizes(withDevices(racks, 4 * 18 * 8))).toEqual([4, 18, 8]);
    expect(sizes(withDevices(racks, 24))).toEqual([4, 6]);
  });

  it("refuses parts of nodes, and nodes whose links nobody knows", () => {
    expect(() => withDevices(clusterPreset("h100-sxm:8x4"), 12)).toThrow(
      /whole nodes of 8 devices.*found 12/,
    );
    expect(() => withDevices(measured("h100-sxm:8x1"), 16)).toThrow(/at most 8 devices.*found 16/);
    expect(() => withDevices(measured("gb200:4x36"), 4 * 20)).toThrow(/whole groups of 18 at level domain/);
  });
});

describe("withLinkSpeed", () => {
  const cluster = clusterPreset("h100-sxm:8x4");
  const across = { size: 4, stride: 8 };
  const inside = { size: 8, stride: 1 };
  const seconds = (on: Cluster, group: typeof inside, bytes: number) =>
    new CommunicationModel(on).collectiveSeconds("allReduce", bytes, group);

  it("changes the pace of one level and no other", () => {
    const fast = withLinkSpeed(cluster, 2);
    expect(seconds(fast, across, 8e9)).toBeCloseTo(seconds(cluster, across, 8e9) / 2, 3);
    expect(seconds(fast, inside, 8e9)).toBe(seconds(cluster, inside, 8e9));
    const node = withLinkSpeed(cluster, 0.5, "node");
    expect(seconds(node, across, 8e9)).toBe(seconds(cluster, across, 8e9));
    expect(seconds(node, inside, 8e9)).toBeCloseTo(2 * seconds(cluster, inside, 8e9), 3);
  });

  it("leaves latencies, and says that the figure is assumed", () => {
    const fast = withLinkSpeed(cluster, 1000);
    expect(seconds(fast, across, 8)).toBeGreaterThan(0.9 * seconds(cluster, across, 8));
    const { link } = fast.topology.levels.at(-1)!;
    expect(link!.bytesPerSecond).toMatchObject({ provenance: "assumed", value: 46e12 });
    expect(link!.bytesPerSecond.source).toContain("1000 times");
  });

  it("divides what measured collectives take beyond the smallest", () => {
    const points = [
      { bytes: 1024, seconds: 1e-5 },
      { bytes: 1e9, seconds: 1e-5 + 0.04 },
    ];
    const curve = {
      collective: "allReduce" as const,
      ranks: 4,
      points,
      provenance: "measured" as const,
      source: "probe",
    };
    const levels = cluster.topology.levels.map((level, i) =>
      i === 1 ? { ...level, collectives: [curve] } : level,
    );
    const fast = withLinkSpeed({ ...cluster, topology: { levels } }, 4);
    const { collectives } = fast.topology.levels[1]!;
    expect(collectives![0]!.points.map((point) => point.seconds)).toEqual([1e-5, 1e-5 + 0.01]);
    expect(collectives![0]!.provenance).toBe("assumed");
  });

  it("drops the calibration, which other device counts keep", () => {
    const calibration = { rows: 20, bias: 0, p50: 0.02, p90: 0.05, source: "runs.csv" };
    const calibrated = { ...measured("h100-sxm:8x4"), calibration };
    expect(withLinkSpeed(calibrated, 2).calibration).toBeUndefined();
    expect(withDeviceSpeed(calibrated, 2, ["gemm"]).calibration).toBeUndefined();
    expect(withDevices(calibrated, 64).calibration).toEqual(calibration);
  });

  it("refuses a level that is not there", () => {
    expect(() => withLinkSpeed(cluster, 2, "rail")).toThrow(
      /one of the levels node, network .* found "rail"/,
    );
  });
});

describe("withPart", () => {
  it("takes as many devices of another part", () => {
    const cluster = measured("h100-sxm:8x4");
    expect(withPart(cluster, "b200")).toEqual(clusterPreset("b200:8x4"));
    expect(withPart(cluster, "gb200:4")).toEqual(clusterPreset("gb200:4x8"));
    expect(() => withPart(cluster, "gb200:5")).toThrow(/divide the 32 devices/);
    expect(() => withPart(cluster, "h900")).toThrow(/found "h900:8x4"/);
  });
});
