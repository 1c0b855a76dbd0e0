import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  clusterPreset,
  clusterPresetNames,
  crossings,
  deviceCount,
  evenLevels,
  fastDomain,
  loadCluster,
} from "../../src/cluster/index.js";
import { parts } from "../../src/cluster/parts.js";
import { checkDocument } from "../../src/contracts/index.js";

describe("cluster presets", () => {
  it.each(clusterPresetNames)(
    "%s is a valid document whose every figure is sourced, and assumed but for collectives",
    (name) => {
      const cluster = clusterPreset(`${name}:8x16`);
      checkDocument("cluster", JSON.parse(JSON.stringify(cluster)), name);
      expect(deviceCount(cluster)).toBe(128);
      expect(cluster.topology.levels.reduce((product, level) => product * level.groupSize!, 1)).toBe(128);
      const levels = cluster.topology.levels.map(({ collectives: _, ...level }) => level);
      const quantities = JSON.stringify({ ...cluster, topology: { levels } }).match(
        /"provenance":"(\w+)","source":"([^"]*)"/g,
      )!;
      expect(quantities.length).toBeGreaterThan(20);
      for (const quantity of quantities) expect(quantity).toMatch(/"assumed","source":"[^"]{10,}"/);
    },
  );

  it("has the parts that the documentation names", () => {
    expect(Object.keys(parts)).toEqual([
      "v100-32",
      "a100-40",
      "a100-80",
      "a800-80",
      "h100-sxm",
      "h100-96",
      "h100-pcie",
      "h20",
      "h200-sxm",
      "b200",
      "b300",
      "gb200",
      "gb300",
      "mi300x",
    ]);
  });

  it("never promises a rate above the data sheet's peak", () => {
    for (const name of clusterPresetNames) {
      const device = clusterPreset(name).devices[0]!;
      for (const table of device.compute) {
        const peak =
          table.unit === "flop"
            ? device.peakFlopsPerSecond[table.dtype]!.value
            : device.memoryBytesPerSecond.value;
        for (const point of table.points) expect(point.rate).toBeLessThan(peak);
      }
    }
  });

  it("never promises a collective above the data sheet's link", () => {
    // One direction, bytes per second: NVLink 3, 4 and 5. Sums in the switch (NVLink SHARP) halve what ranks send.
    const lines = { "a100-80": 300e9, "h200-sxm": 450e9, b200: 900e9 };
    for (const [name, line] of Object.entries(lines)) {
      const [level] = clusterPreset(name).topology.levels;
      expect(level!.link!.bytesPerSecond.value).toBeLessThan(line);
      expect(level!.collectives!.map(({ ranks }) => ranks)).toContain(8);
      for (const { ranks, points } of level!.collectives!) {
        expect(points.map(({ bytes }) => bytes)).toEqual(
          points.map(({ bytes }) => bytes).sort((a, b) => a - b),
        );
        for (const { bytes, seconds } of points) {
          expect((2 * (ranks - 1) * bytes) / ranks / seconds).toBeLessThan(1.1 * line);
        }
      }
    }
  });

  it("calls curves measured on the part that was measured, and assumed on one with the same links", () => {
    const provenance = (name: string) => [
      ...new Set(clusterPreset(name).topology.levels[0]!.collectives?.map((curve) => curve.provenance) ?? []),
    ];
    expect(provenance("a100-80")).toEqual(["measured"]);
    expect(provenance("h200-sxm")).toEqual(["fitted", "measured"]);
    expect(provenance("h100-sxm")).toEqual(["assumed"]);
    expect(provenance("h100-pcie")).toEqual([]);
  });

  it("joins an NVL72 rack by its fast links", () => {
    expect(fastDomain(clusterPreset("gb200:4x18"))).toBe(72);
    expect(fastDomain(clusterPreset("gb200:4x36"))).toBe(72);
    expect(fastDomain(clusterPreset("h100-sxm:8x4"))).toBe(8);
  });

  it.each(["h100", "h100-sxm:8", "h100-sxm:0x4", "h100-sxm:8x-1", "v100:8x8"])("refuses %s", (reference) => {
    expect(() => loadCluster(reference)).toThrow(
      /^Expected a cluster file or PART:GPUSxNODES such as h100-sxm:8x16 but found/,
    );
  });
});

describe("sums of presets", () => {
  const network = (name: string) => parts[name]!.networkBytesPerSecond;

  it("join hosts of two kinds, each with its own network card", () => {
    const cluster = clusterPreset("h100-sxm:8x2+a100-80:4x3");
    checkDocument("cluster", JSON.parse(JSON.stringify(cluster)), "sum");
    expect(cluster.name).toBe("h100-sxm:8x2+a100-80:4x3");
    expect(cluster.devices.map(({ kind, count }) => [kind, count])).toEqual([
      ["h100-sxm", 16],
      ["a100-80", 12],
    ]);
    const [node, outer, ...others] = cluster.topology.levels;
    expect(others).toEqual([]);
    expect(node!.groupSizes).toEqual([8, 8, 4, 4, 4]);
    expect(node!.links!.map((each) => each.bytesPerSecond.value)).toEqual(
      ["h100-sxm", "h100-sxm", "a100-80", "a100-80", "a100-80"].map(
        (name) => parts[name]!.nodeBytesPerSecond,
      ),
    );
    expect(outer!.groupSize).toBe(5);
    expect(outer!.memberLinks!.map((each) => each.bytesPerSecond.value)).toEqual(
      ["h100-sxm", "h100-sxm", "a100-80", "a100-80", "a100-80"].map(network),
    );
  });

  it("merge equal kinds and say equal links once", () => {
    const cluster = clusterPreset("h100-sxm:8x1+h100-sxm:6x1");
    expect(cluster.devices).toHaveLength(1);
    expect(deviceCount(cluster)).toBe(14);
    expect(cluster.topology.levels).toMatchObject([
      { name: "node", groupSizes: [8, 6], link: {} },
      { name: "network", groupSize: 2, link: {} },
    ]);
  });

  it("are the plain cluster where all hosts are equal", () => {
    const { topology, devices } = clusterPreset("a100-sxm-80:8x1+a100-80:8x2");
    const plain = clusterPreset("a100-80:8x3");
    expect(topology).toEqual(plain.topology);
    expect(devices).toEqual(plain.devices);
  });

  it("keep the order that was written, and the domain of each rack", () => {
    const cluster = clusterPreset("gb200:4x2+h100-sxm+gb200:4x3");
    expect(cluster.devices.map(({ kind, count }) => [kind, count])).toEqual([
      ["gb200", 8],
      ["h100-sxm", 8],
      ["gb200", 12],
    ]);
    expect(
      cluster.topology.levels.map(({ name, groupSize, groupSizes }) => [name, groupSizes ?? groupSize]),
    ).toEqual([
      ["node", [4, 4, 8, 4, 4, 4]],
      ["domain", [2, 1, 3]],
      ["network", 3],
    ]);
    checkDocument("cluster", JSON.parse(JSON.stringify(cluster)), "sum");
  });

  it.each([
    ["h100-sxm:8x2+", 'on both sides of every + but found "" in "h100-sxm:8x2+".'],
    ["h100-sxm:8x2+v100:8x1", 'on both sides of every + but found "v100:8x1" in "h100-sxm:8x2+v100:8x1".'],
    ["h100-sxm:8x0+b200", 'on both sides of every + but found "h100-sxm:8x0" in "h100-sxm:8x0+b200".'],
    [
      "h100-sxm+mi300x",
      'Expected parts that one communication library joins but found h100-sxm (cuda) and mi300x (rocm) in "h100-sxm+mi300x".',
    ],
  ])("refuse %s", (reference, sentence) => {
    expect(() => loadCluster(reference)).toThrow(sentence);
  });
});

describe("crossings", () => {
  const levels = evenLevels(clusterPreset("h100-sxm:8x16"));

  it("keeps a tensor group inside its node", () => {
    expect(crossings(levels, { size: 8, stride: 1 }).map(({ level, units }) => [level.name, units])).toEqual([
      ["node", 8],
    ]);
  });

  it("sees one rank a node in a data group behind full tensor groups", () => {
    const found = crossings(levels, { size: 16, stride: 8 });
    expect(found.map(({ level, units, ranksPerUnit }) => [level.name, units, ranksPerUnit])).toEqual([
      ["network", 16, 1],
    ]);
  });

  it("sees both levels in the whole world", () => {
    const found = crossings(levels, { size: 128, stride: 1 });
    expect(found.map(({ level, units, ranksPerUnit }) => [level.name, units, ranksPerUnit])).toEqual([
      ["node", 8, 1],
      ["network", 16, 8],
    ]);
  });

  it("sends groups that straddle nodes over the network", () => {
    expect(crossings(levels, { size: 6, stride: 1 }).some(({ level }) => level.name === "network")).toBe(
      true,
    );
  });

  it("accounts for every rank of a group", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 7 }), fc.integer({ min: 0, max: 7 }), (a, b) => {
        const [size, stride] = [2 ** a, 2 ** b];
        if (size * stride > 128) return;
        const product = crossings(levels, { size, stride }).reduce((all, { units }) => all * units, 1);
        expect(product).toBe(size);
      }),
    );
  });
});
