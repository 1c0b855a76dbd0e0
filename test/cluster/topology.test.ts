import { describe, expect, it } from "vitest";
import {
  clusterPreset,
  devicesPerNode,
  evenLevels,
  fastDomain,
  fastDomains,
  levelGroups,
  mixture,
} from "../../src/cluster/index.js";
import { checkValue, jobSchema } from "../../src/contracts/index.js";
import { CommunicationModel } from "../../src/cost/communication.js";
import { costModels } from "../../src/search/joint.js";
import { clusterOf, link } from "./mixed.js";

const hosts = clusterOf("h100-sxm:8x1", [
  { name: "node", groupSizes: [3, 5], link: link(100) },
  { name: "network", groupSize: 2, link: link(10) },
]);
const job = checkValue(jobSchema, { schema: "mpopt.job/1", globalBatch: 8, sequence: 128 }, "job");
const ranges = (list: { start: number; end: number }[]) => list.map(({ start, end }) => [start, end]);

describe("levels of hosts that differ", () => {
  it("have groups in the order of their devices", () => {
    const [node, network] = levelGroups(hosts);
    expect(ranges(node!)).toEqual([
      [0, 3],
      [3, 8],
    ]);
    expect(ranges(network!)).toEqual([[0, 8]]);
    expect(ranges(network![0]!.members)).toEqual(ranges(node!));
  });

  it("are equal groups where the figures are, however they are written", () => {
    const written = clusterOf("h100-sxm:8x1", [
      { name: "node", groupSizes: [4, 4], links: [link(100), link(100)] },
      { name: "network", groupSize: 2, memberLinks: [link(10), link(10)] },
    ]);
    expect(mixture(written)).toBeUndefined();
    expect(evenLevels(written).map(({ groupSize, link }) => [groupSize, link.bytesPerSecond.value])).toEqual([
      [4, 100],
      [2, 10],
    ]);
    expect(() => costModels(written, job)).not.toThrow();
  });

  it.each([
    ["groups of 5 and 3 at level node", hosts],
    [
      "links that differ at level node",
      clusterOf("h100-sxm:4x2", [
        { name: "node", groupSize: 4, links: [link(100), link(50)] },
        { name: "network", groupSize: 2, link: link(10) },
      ]),
    ],
    [
      "links that differ at level network",
      clusterOf("h100-sxm:4x2", [
        { name: "node", groupSize: 4, link: link(100) },
        { name: "network", groupSize: 2, memberLinks: [link(10), link(10, 1)] },
      ]),
    ],
  ])("are refused by what counts on equal groups: %s", (found, cluster) => {
    const expected = `Expected equal groups at every level of ${cluster.name} but found ${found}.`;
    for (const ask of [evenLevels, devicesPerNode, fastDomain]) expect(() => ask(cluster)).toThrow(expected);
    expect(() => new CommunicationModel(cluster)).toThrow(expected);
    expect(() => costModels(cluster, job)).toThrow(
      `Expected equal hosts of one device kind for a whole plan (\`mpopt solve MODEL --format model\` assigns stages on any cluster) but found ${found}.`,
    );
  });

  it("are refused for a whole plan where device kinds differ, equal hosts or not", () => {
    for (const preset of ["h100-sxm:8x1+a100-80:8x1", "h100-sxm:8x1+a100-80:4x1+b200:8x1"]) {
      expect(() => costModels(clusterPreset(preset), job)).toThrow(
        /but found devices of h100-sxm(, a100-80)? and \S+\.$/,
      );
    }
  });
});

describe("fastDomains", () => {
  it("merges groups under a level of at least half their bandwidth, each by itself", () => {
    const cluster = clusterOf("h100-sxm:16x1", [
      { name: "node", groupSizes: [3, 5, 4, 4], links: [100, 80, 100, 100].map((rate) => link(rate)) },
      { name: "rack", groupSize: 2, links: [link(50, 2), link(49)] },
      { name: "network", groupSize: 2, link: link(500) },
    ]);
    const found = fastDomains(cluster);
    // The second rack's link is too slow, and what fell apart is not joined again outside.
    expect(ranges(found)).toEqual([
      [0, 8],
      [8, 12],
      [12, 16],
    ]);
    expect(found[0]!.link).toMatchObject({ bytesPerSecond: { value: 50 }, latencySeconds: { value: 2 } });
  });

  it("keeps the racks of a preset", () => {
    expect(ranges(fastDomains(clusterPreset("gb200:4x18+h100-sxm:8x2")))).toEqual([
      [0, 72],
      [72, 80],
      [80, 88],
    ]);
  });
});
