import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Action, checkActions, type ScheduleTable } from "../../src/schedule/actions.js";
import { checkDeadlock } from "../../src/schedule/deadlock.js";
import {
  canonicalScheduleName,
  gpipe,
  oneForwardOneBackward,
  scheduleByName,
  scheduleNames,
  scheduleShape,
} from "../../src/schedule/named/index.js";
import { peakInFlight, routesOf, stageLinks } from "../../src/schedule/routes.js";
import { longestPath } from "./longestPath.js";
import { chunksOf, fits } from "./namedTables.js";

const letter: Readonly<Record<string, string>> = {
  forward: "F",
  backward: "B",
  "backward-input": "I",
  "backward-weight": "W",
  optimizer: "U",
};
const word = ({ kind, microBatch }: Action) => `${letter[kind]}${microBatch === -1 ? "" : microBatch + 1}`;
/** Rows such as "F1 B1", micro-batches from 1 as the papers' figures count them. */
const rows = (table: ScheduleTable) => table.ranks.map((list) => list.map(word).join(" "));
/** The same with the stage in front: "0F1". */
const stagedRows = (table: ScheduleTable) =>
  table.ranks.map((list) =>
    list.map((action) => `${action.stage}${word(action)}${action.overlapped ? "&" : ""}`).join(" "),
  );

describe("named schedules as their papers draw them", () => {
  it("GPipe does all forwards first", () => {
    expect(rows(gpipe(2, 3))).toEqual(["F1 F2 F3 B1 B2 B3", "F1 F2 F3 B1 B2 B3"]);
  });

  it("1F1B: Narayanan et al., SC'21, figure 4, p = 4", () => {
    expect(rows(oneForwardOneBackward(4, 5))).toEqual([
      "F1 F2 F3 F4 B1 F5 B2 B3 B4 B5",
      "F1 F2 F3 B1 F4 B2 F5 B3 B4 B5",
      "F1 F2 B1 F3 B2 F4 B3 F5 B4 B5",
      "F1 B1 F2 B2 F3 B3 F4 B4 F5 B5",
    ]);
  });

  it("1F1B with fewer micro-batches than ranks warms up with all of them", () => {
    expect(rows(oneForwardOneBackward(4, 2))).toEqual([
      "F1 F2 B1 B2",
      "F1 F2 B1 B2",
      "F1 F2 B1 B2",
      "F1 B1 F2 B2",
    ]);
  });

  it("PipeDream updates after every backward, 2BW after the last", () => {
    const pipeDream = scheduleByName("1f1b-async", { ranks: 3, microBatches: 4 });
    expect(rows(pipeDream)[1]).toBe("F1 F2 B1 U F3 B2 U F4 B3 U B4 U");
    expect(pipeDream.weightVersions).toEqual([3, 2, 1]);
    // As many versions as micro-batches in flight: SOSP'19, section 3.3.
    expect(pipeDream.weightVersions).toEqual(peakInFlight(pipeDream));
    const doubleBuffered = scheduleByName("2bw", { ranks: 3, microBatches: 4 });
    expect(rows(doubleBuffered)[1]).toBe("F1 F2 B1 F3 B2 F4 B3 B4 U");
    expect(doubleBuffered.weightVersions).toEqual([2, 2, 2]);
  });

  it("interleaved 1F1B: Narayanan et al., SC'21, figure 4, p = 4, v = 2, first and last rank", () => {
    const [first, , , last] = stagedRows(scheduleByName("interleaved", { ranks: 4, microBatches: 8 }));
    expect(first).toBe(
      "0F1 0F2 0F3 0F4 4F1 4F2 4F3 4F4 0F5 0F6 0F7 4B1 0F8 4B2 4F5 4B3 4F6 4B4 4F7 0B1 4F8 0B2 0B3 0B4 4B5 4B6 4B7 4B8 0B5 0B6 0B7 0B8",
    );
    expect(last).toBe(
      "3F1 3F2 3F3 3F4 7F1 7B1 7F2 7B2 7F3 7B3 7F4 7B4 3F5 3B1 3F6 3B2 3F7 3B3 3F8 3B4 7F5 7B5 7F6 7B6 7F7 7B7 7F8 7B8 3B5 3B6 3B7 3B8",
    );
  });

  it("breadth-first: every micro-batch through a stage before the next", () => {
    expect(stagedRows(scheduleByName("looped-bfs", { ranks: 2, microBatches: 2 }))).toEqual([
      "0F1 0F2 2F1 2F2 2B2 2B1 0B2 0B1",
      "1F1 1F2 3F1 3F2 3B2 3B1 1B2 1B1",
    ]);
  });

  it("ZB-H1 and ZB-H2: Qi et al., ICLR 2024, figure 3, p = 4", () => {
    expect(rows(scheduleByName("zb-h1", { ranks: 4, microBatches: 5 }))).toEqual([
      "F1 F2 F3 F4 I1 W1 F5 I2 W2 I3 W3 I4 W4 I5 W5",
      "F1 F2 F3 I1 F4 I2 W1 F5 I3 W2 I4 W3 I5 W4 W5",
      "F1 F2 I1 F3 I2 F4 I3 W1 F5 I4 W2 I5 W3 W4 W5",
      "F1 I1 F2 I2 F3 I3 F4 I4 W1 F5 I5 W2 W3 W4 W5",
    ]);
    expect(rows(scheduleByName("zb-h2", { ranks: 4, microBatches: 8 }))).toEqual([
      "F1 F2 F3 F4 F5 F6 F7 I1 W1 F8 I2 W2 I3 W3 I4 W4 I5 W5 I6 W6 I7 W7 I8 W8",
      "F1 F2 F3 F4 F5 I1 F6 I2 F7 I3 W1 F8 I4 W2 I5 W3 I6 W4 I7 W5 I8 W6 W7 W8",
      "F1 F2 F3 I1 F4 I2 F5 I3 F6 I4 F7 I5 W1 F8 I6 W2 I7 W3 I8 W4 W5 W6 W7 W8",
      "F1 I1 F2 I2 F3 I3 F4 I4 F5 I5 F6 I6 F7 I7 W1 F8 I8 W2 W3 W4 W5 W6 W7 W8",
    ]);
  });

  it("Chimera: Li and Hoefler, SC'21, figure 3, D = N = 4", () => {
    expect(rows(scheduleByName("chimera", { ranks: 4, microBatches: 4 }))).toEqual([
      "F1 F2 F3 B3 F4 B4 B1 B2",
      "F1 F3 F2 F4 B3 B1 B4 B2",
      "F3 F1 F4 F2 B1 B3 B2 B4",
      "F3 F4 F1 B1 F2 B2 B3 B4",
    ]);
  });

  it("DualPipe: DeepSeek-V3 report, figure 5, 8 ranks and 20 micro-batches, first and fourth rank", () => {
    const table = scheduleByName("dualpipe", { ranks: 8, microBatches: 20 });
    const [first, , , fourth, fifth] = stagedRows(table);
    expect(first).toBe(
      "0F1 0F2 0F3 0F4 0F5 0F6 0F7 15F11 15I11 15W11 15F12 15I12 15W12 15F13 15I13 15W13 15F14 " +
        "0F8& 15B14 15F15& 0B1 0F9& 15B15 15F16& 0B2 0F10& 15B16 15F17& 0B3 " +
        "15B17 15F18& 0B4 15B18 15F19& 0B5 15B19 15F20& 0B6 15B20 0I7 0W7 0I8 0W8 0I9 0W9 0I10 0W10",
    );
    expect(fourth!.startsWith("3F1 12F11 3F2 12F12 3F3 12F13 3F4 12F14 3F5 12B11 12F15& 3B1 ")).toBe(true);
    // The other half is the mirror: same kinds in the same places, the other direction's stages.
    expect(fifth!.startsWith("11F11 4F1 11F12 4F2 ")).toBe(true);
    const mirrored = table.ranks.map((list) => list.map(({ kind }) => kind));
    expect(mirrored.toReversed()).toEqual(mirrored);
  });
});

describe("scheduleByName", () => {
  it("knows its names in any case, and PyTorch's", () => {
    expect(scheduleNames).toEqual(
      "gpipe 1f1b 1f1b-async 2bw interleaved looped-bfs zb-h1 zb-h2 zbv interleaved-zb dualpipe dualpipev chimera".split(
        " ",
      ),
    );
    expect(scheduleByName("1F1B", { ranks: 3, microBatches: 4 })).toEqual(oneForwardOneBackward(3, 4));
    expect(scheduleByName("GPipe", { ranks: 3, microBatches: 4 })).toEqual(gpipe(3, 4));
    for (const [torch, own] of [
      ["Interleaved1F1B", "interleaved"],
      ["LoopedBFS", "looped-bfs"],
      ["InterleavedZeroBubble", "interleaved-zb"],
      ["ZBVZeroBubble", "zbv"],
      ["DualPipeV", "dualpipev"],
      ["GPipe", "gpipe"],
      ["1F1B", "1f1b"],
    ] as const) {
      expect(canonicalScheduleName(torch)).toBe(own);
      expect(canonicalScheduleName(torch.toUpperCase())).toBe(own);
    }
  });

  it.each([
    ["toString", { ranks: 3, microBatches: 4 }, 'Expected a known pipeline schedule but found "toString".'],
    ["1f1b", { ranks: 0, microBatches: 4 }, "Expected at least 1 for the number of ranks but found 0."],
    [
      "1f1b",
      { ranks: 2, microBatches: 1.5 },
      "Expected at least 1 for the number of micro-batches but found 1.5.",
    ],
    [
      "zbv",
      { ranks: 2, microBatches: 4, chunks: 0 },
      "Expected at least 1 for the number of chunks but found 0.",
    ],
    ["1f1b", { ranks: 2, microBatches: 4, chunks: 2 }, "Expected 1 chunk a rank for 1f1b but found 2."],
    ["zbv", { ranks: 2, microBatches: 4, chunks: 3 }, "Expected 2 chunks a rank for zbv but found 3."],
    [
      "dualpipe",
      { ranks: 2, microBatches: 4, chunks: 1 },
      "Expected 2 chunks a rank for dualpipe but found 1.",
    ],
    ["dualpipe", { ranks: 3, microBatches: 8 }, "Expected an even number of ranks for dualpipe but found 3."],
    [
      "dualpipe",
      { ranks: 2, microBatches: 5 },
      "Expected an even number of micro-batches for dualpipe but found 5.",
    ],
    [
      "dualpipe",
      { ranks: 4, microBatches: 6 },
      "at least as many micro-batches as stages (8) for dualpipe but found 6.",
    ],
    [
      "dualpipev",
      { ranks: 4, microBatches: 7 },
      "at least as many micro-batches as stages (8) for dualpipev but found 7.",
    ],
    ["chimera", { ranks: 5, microBatches: 5 }, "Expected an even number of ranks for chimera but found 5."],
    [
      "chimera",
      { ranks: 4, microBatches: 1 },
      "at least as many micro-batches as directions (2) for chimera but found 1.",
    ],
    [
      "2bw",
      { ranks: 4, microBatches: 3 },
      "at least as many micro-batches as the ranks (4) for 2bw but found 3.",
    ],
    [
      "interleaved",
      { ranks: 4, microBatches: 9 },
      "a multiple of 2 rounds for the micro-batches of interleaved but found 9.",
    ],
    ["interleaved-zb", { ranks: 2, microBatches: 5 }, "a multiple of 2 rounds"],
    [
      "interleaved",
      { ranks: 4, microBatches: 8, groupSize: 3 },
      "a group size from 4 to 8 for interleaved but found 3.",
    ],
    [
      "interleaved",
      { ranks: 4, microBatches: 8, groupSize: 9 },
      "a group size from 4 to 8 for interleaved but found 9.",
    ],
    [
      "interleaved",
      { ranks: 4, microBatches: 8, groupSize: 5 },
      "a last group of at least 4 micro-batches for interleaved but found 3.",
    ],
    [
      "interleaved",
      { ranks: 4, microBatches: 8, groupSize: 4.5 },
      "at least 1 for the number of micro-batches of a group",
    ],
    [
      "zbv",
      { ranks: 4, microBatches: 8, groupSize: 4 },
      "Expected no group size for zbv, which has no groups, but found 4.",
    ],
  ] as const)("refuses %s for %j", (name, options, message) => {
    expect(() => scheduleByName(name, options)).toThrow(message);
  });

  it("makes a sound table in the announced shape for every size that a schedule allows", () => {
    let made = 0;
    for (const name of scheduleNames) {
      for (let ranks = 1; ranks <= 6; ranks++) {
        for (const microBatches of [1, 2, 3, 4, 6, 7, 8, 12, 13, 24]) {
          for (const chunks of chunksOf(name)) {
            const options = { ranks, microBatches, chunks };
            if (!fits(name, ranks, microBatches)) {
              expect(() => scheduleByName(name, options)).toThrow(/^Expected /);
              continue;
            }
            const table = scheduleByName(name, options);
            const shape = scheduleShape(name, ranks, chunks);
            expect(checkActions(table)).toEqual([]);
            expect(table).toMatchObject({ name, microBatches, stages: shape.stages });
            expect(shape.stages).toBe(ranks * shape.chunks);
            expect(Array.from(stageLinks(table).rank)).toEqual(shape.rankOfStage);
            made++;
          }
        }
      }
    }
    expect(made).toBeGreaterThan(1000);
  });

  it("lays stages in a loop, in a V or in both directions", () => {
    expect(scheduleShape("interleaved", 3, 2)).toEqual({
      placement: "loop",
      chunks: 2,
      stages: 6,
      rankOfStage: [0, 1, 2, 0, 1, 2],
    });
    expect(scheduleShape("ZBVZeroBubble", 3)).toEqual({
      placement: "v",
      chunks: 2,
      stages: 6,
      rankOfStage: [0, 1, 2, 2, 1, 0],
    });
    expect(scheduleShape("chimera", 2)).toMatchObject({
      placement: "bidirectional",
      rankOfStage: [0, 1, 1, 0],
    });
    const { layersOf, ...table } = scheduleByName("chimera", { ranks: 4, microBatches: 5 });
    expect(layersOf).toEqual([0, 1, 2, 3, 0, 1, 2, 3]);
    expect(routesOf(table).map(({ microBatches }) => microBatches)).toEqual([
      [0, 1, 2],
      [3, 4],
    ]);
  });
});

describe("micro-batch groups of interleaved schedules", () => {
  it("take Megatron's sizes, with a shorter last group", () => {
    const table = scheduleByName("interleaved", { ranks: 2, microBatches: 8, groupSize: 5 });
    expect(stagedRows(table)[1]).toBe(
      "1F1 1F2 1F3 1F4 1F5 3F1 3B1 3F2 3B2 3F3 3B3 3F4 3B4 3F5 3B5 1F6 1B1 1F7 1B2 1F8 1B3 3F6 1B4 3F7 1B5 3F8 3B6 3B7 3B8 1B6 1B7 1B8",
    );
  });

  it("are sound for every allowed size, and larger groups cost memory, not time", () => {
    fc.assert(
      fc.property(
        fc.constantFrom("interleaved", "interleaved-zb"),
        fc.integer({ min: 1, max: 5 }),
        fc.integer({ min: 1, max: 3 }),
        fc.integer({ min: 1, max: 20 }),
        fc.nat(),
        (name, ranks, chunks, microBatches, extra) => {
          const least = Math.min(ranks, microBatches);
          const groupSize = least + (extra % (microBatches - least + 1));
          const rest = microBatches % groupSize;
          fc.pre(rest === 0 || rest >= ranks);
          const table = scheduleByName(name, { ranks, chunks, microBatches, groupSize });
          expect(checkDeadlock(table)).toEqual([]);
          const steps = longestPath(table, { forward: 1, backwardInput: 1, backwardWeight: 1 });
          if (microBatches % ranks === 0 && name === "interleaved") {
            const step = (each: typeof steps) => Math.max(...each.map(({ end }) => end));
            const smallest = scheduleByName(name, { ranks, chunks, microBatches, groupSize: ranks });
            expect(step(steps)).toBe(
              step(longestPath(smallest, { forward: 1, backwardInput: 1, backwardWeight: 1 })),
            );
            expect(peakInFlight(table)[0]).toBeGreaterThanOrEqual(peakInFlight(smallest)[0]!);
          }
        },
      ),
      { numRuns: 300 },
    );
  });
});
