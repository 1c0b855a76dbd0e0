import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { clusterPreset, loadCluster } from "../../src/cluster/index.js";
import { MpoptError, serialize } from "../../src/contracts/index.js";
import { link } from "../cluster/mixed.js";

const path = join(mkdtempSync(join(tmpdir(), "mpopt-cluster-")), "c.json");

/** Loads eight devices over these levels from a file. */
function load(levels: object[]) {
  writeFileSync(path, serialize({ ...clusterPreset("a100-80:8x1"), topology: { levels } }));
  return loadCluster(path);
}

const node = { name: "node", groupSizes: [3, 5], link: link(100) };
const network = { name: "network", groupSize: 2, link: link(10) };

describe("the levels of mpopt.cluster/1", () => {
  it("take hosts of different size, and links by group or by member", () => {
    const levels = [
      { ...node, link: undefined, links: [link(100), link(50)] },
      { ...network, link: undefined, memberLinks: [link(10), link(5)] },
    ];
    const cluster = load(levels);
    expect(cluster.topology.levels).toEqual(JSON.parse(JSON.stringify(levels)));
    expect(cluster.source).toBe(path);
  });

  it.each([
    [
      "sizes that miss a device",
      [{ ...node, groupSizes: [3, 4] }, network],
      "sizes that add up to the 8 devices, not to 7, for field topology.levels[0].groupSizes but found [3,4].",
    ],
    [
      "sizes that miss a group",
      [node, { name: "network", groupSizes: [3], link: link(1) }],
      "sizes that add up to the 2 groups of the level below, not to 3, for field topology.levels[1].groupSizes but found [3].",
    ],
    [
      "a size that does not divide",
      [{ name: "node", groupSize: 3, link: link(1) }],
      "a size that divides the 8 devices for field topology.levels[0].groupSize but found 3.",
    ],
    [
      "groups that nothing joins",
      [{ name: "node", groupSize: 2, link: link(1) }],
      "one group of the 8 devices, not 4, for field topology.levels[0].groupSize but found 2.",
    ],
    [
      "uneven groups that nothing joins",
      [node],
      "one group of the 8 devices, not 2, for field topology.levels[0].groupSizes but found [3,5].",
    ],
    [
      "both kinds of size",
      [{ ...node, groupSize: 4 }, network],
      "nothing beside groupSize for field topology.levels[0].groupSizes but found [3,5].",
    ],
    [
      "no size",
      [{ name: "node", link: link(1) }],
      "a number for field topology.levels[0].groupSize but found nothing.",
    ],
    [
      "no link",
      [{ ...node, link: undefined }, network],
      "an object for field topology.levels[0].link but found nothing.",
    ],
    [
      "a link beside links",
      [{ ...node, links: [link(1), link(2)] }, network],
      "nothing beside links or memberLinks for field topology.levels[0].link but found an object.",
    ],
    [
      "links of groups and of members",
      [{ ...node, link: undefined, links: [link(1), link(2)], memberLinks: [link(1)] }, network],
      "nothing beside memberLinks for field topology.levels[0].links but found a list of 2.",
    ],
    [
      "too few links",
      [{ ...node, link: undefined, links: [link(1)] }, network],
      "one link for each of 2 groups for field topology.levels[0].links but found a list of 1.",
    ],
    [
      "too many members' links",
      [node, { ...network, link: undefined, memberLinks: [link(1), link(1), link(1)] }],
      "one link for each of the 2 groups of the level below for field topology.levels[1].memberLinks but found a list of 3.",
    ],
    [
      "an empty host",
      [{ ...node, groupSizes: [8, 0] }, network],
      "more than 0 for field topology.levels[0].groupSizes[1] but found 0.",
    ],
  ])("refuse %s in one sentence", (_what, levels, sentence) => {
    let found: unknown;
    try {
      load(levels);
    } catch (error) {
      found = error;
    }
    expect(found).toBeInstanceOf(MpoptError);
    expect((found as MpoptError).code).toBe("E_FIELD");
    expect((found as MpoptError).message).toBe(`${path}: expected ${sentence}`);
  });
});
