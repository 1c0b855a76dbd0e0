import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { ScheduleTable } from "../../src/schedule/actions.js";
import { readScheduleCsv, scheduleCsvForm, writeScheduleCsv } from "../../src/schedule/csv.js";
import { addSharding, addTransfers } from "../../src/schedule/lower.js";
import { scheduleByName } from "../../src/schedule/named/index.js";
import { anySchedule } from "./namedTables.js";

const runnable = anySchedule.filter((table) => !table.routes && !table.weightVersions);

describe("schedule CSV", () => {
  it("writes a row a rank and reads it back", () => {
    const table = scheduleByName("1f1b", { ranks: 2, microBatches: 2 });
    const text = "0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n";
    expect(writeScheduleCsv(table)).toBe(text);
    expect(scheduleCsvForm(table)).toBe("compute_only");
    expect(readScheduleCsv(text, "plans/1f1b.csv")).toEqual(table);
  });

  it("writes halves, overlapped pairs, transfers and sharding in PyTorch's words", () => {
    const dualPipeV = scheduleByName("dualpipev", { ranks: 2, microBatches: 4 });
    expect(writeScheduleCsv(dualPipeV).split("\n")[0]).toBe(
      "0F0,0F1,0F2,3F0,3I0,3W0,3F1,(0F3;3B1)OVERLAP_F_B,(3F2;0B0)OVERLAP_F_B,3B2,(3F3;0B1)OVERLAP_F_B,3B3,0I2,0W2,0I3,0W3",
    );
    expect(writeScheduleCsv(dualPipeV, { overlap: false }).split("\n")[0]).toBe(
      "0F0,0F1,0F2,3F0,3I0,3W0,3F1,0F3,3B1,3F2,0B0,3B2,3F3,0B1,3B3,0I2,0W2,0I3,0W3",
    );
    const full = addTransfers(addSharding(scheduleByName("gpipe", { ranks: 2, microBatches: 1 })));
    expect(scheduleCsvForm(full)).toBe("compute_comms");
    expect(writeScheduleCsv(full)).toBe(
      "0UNSHARD,0F0,0SEND_F0,0RECV_B0,0B0,0REDUCE_GRAD,0RESHARD\n" +
        "1UNSHARD,1RECV_F0,1F0,1B0,1SEND_B0,1REDUCE_GRAD,1RESHARD\n",
    );
  });

  it("gives back any table that it can express", () => {
    fc.assert(
      fc.property(runnable, fc.boolean(), fc.integer({ min: 1, max: 4 }), (table, lower, activeStages) => {
        const given = lower ? addTransfers(addSharding(table, activeStages)) : table;
        expect(readScheduleCsv(writeScheduleCsv(given), `${table.name}.csv`)).toEqual(given);
      }),
      { numRuns: 200 },
    );
  });

  it("passes over idle steps, spaces, quotes, other line ends and a byte order mark", () => {
    const table = readScheduleCsv('\uFEFF0F0,,"0F1", 0B0 ,,0B1\r\n,1F0,1B0,1F1,"1B1",\r\n\r\n', "1f1b.csv");
    expect(table).toEqual(scheduleByName("1f1b", { ranks: 2, microBatches: 2 }));
    const pair = readScheduleCsv("0F0,(0F1; 0B0)OVERLAP_F_B,0B1", "x.CSV");
    expect(pair.ranks[0]![1]).toEqual({ kind: "forward", stage: 0, microBatch: 1, overlapped: true });
    expect(pair.name).toBe("x");
  });

  it.each([
    ["", "Expected a row for each rank in a.csv but found none."],
    ["\n\n", "Expected a row for each rank in a.csv but found none."],
    ["0F0,0B0\n\n1F0,1B0", "Expected actions in row 2 of a.csv but found an empty row."],
    ["0F0,0X0", 'Expected an action such as 0F3 or nothing in row 1, column 2 of a.csv but found "0X0".'],
    ["0F0,0B0\n1F0,1B0x", 'in row 2, column 2 of a.csv but found "1B0x".'],
    ["0f0", 'column 1 of a.csv but found "0f0".'],
    ["F0", 'but found "F0".'],
    ["-1F0", 'but found "-1F0".'],
    ["0F1.5", 'but found "0F1.5".'],
    ["0F0;0B0", 'but found "0F0;0B0".'],
    ['"0F0', 'but found ""0F0".'],
    ["0F9999999", 'but found "0F9999999".'],
    [`0F${"9".repeat(100)}`, `but found "0F${"9".repeat(38)}...".`],
    ["0F,0B0", 'Expected a micro-batch for F in row 1, column 1 of a.csv but found "0F".'],
    ["0SEND_F", "Expected a micro-batch for SEND_F"],
    ["0UNSHARD3", "Expected no micro-batch for UNSHARD in row 1, column 1"],
    ["(0F1)OVERLAP_F_B", 'but found "(0F1)OVERLAP_F_B".'],
    ["(0F1;0B0;0F2)OVERLAP_F_B", "but found"],
    ["(0F1;0B0)OVERLAP", "but found"],
    ["(0F1;)OVERLAP_F_B", 'but found "".'],
    [
      "(0F1;0SEND_F0)OVERLAP_F_B",
      "Expected two forwards or backwards to overlap in row 1, column 1 of a.csv",
    ],
    [
      "0F0,0F0,0B0",
      "each action once but again found the forward of micro-batch 0 at stage 0 (rank 0, action 1) in a.csv.",
    ],
    ["0F0,0B0,1F0,1B0\n0F1,0B1,1F1,1B1", "Expected stage 0 on rank 0 alone"],
    ["0F9999,0B9999", "Expected micro-batch 0 to pass stage 0"],
    ["999999F999999", "1 actions in all in a.csv."],
    [",,", "Expected at least 1 stage but found 0 in a.csv."],
    ["0UNSHARD", "Expected at least 1 micro-batch but found 0 in a.csv."],
  ])("refuses %j", (text, message) => {
    expect(() => readScheduleCsv(text, "a.csv")).toThrow(message);
  });

  it("never fails in another way, whatever a file holds", () => {
    const cells = fc.constantFrom(
      "0F0",
      "0B0",
      "1F0",
      "1B1",
      "0I0",
      "0W0",
      "0SEND_F0",
      "0UNSHARD",
      "",
      "(0F0;1B0)OVERLAP_F_B",
    );
    const text = fc.array(fc.array(fc.oneof(cells, fc.string()), { maxLength: 8 }), { maxLength: 4 });
    fc.assert(
      fc.property(text, (rows) => {
        let table: ScheduleTable | undefined;
        try {
          table = readScheduleCsv(rows.map((row) => row.join(",")).join("\n"), "a.csv");
        } catch (error) {
          expect(error).toHaveProperty("code", expect.stringMatching(/^E_(PARSE|PLAN_INVALID)$/));
        }
        if (table) expect(readScheduleCsv(writeScheduleCsv(table), "a.csv")).toEqual(table);
      }),
      { numRuns: 500 },
    );
  });

  it.each([
    [
      "dualpipe",
      { ranks: 2, microBatches: 4 },
      "one route for all micro-batches for a schedule CSV but found 2.",
    ],
    ["chimera", { ranks: 2, microBatches: 4 }, "one route"],
    [
      "1f1b-async",
      { ranks: 2, microBatches: 4 },
      "one version of the weights for a schedule CSV but found 2.",
    ],
    ["2bw", { ranks: 2, microBatches: 4 }, "one version"],
  ] as const)("refuses to write %s, which PyTorch cannot run", (name, options, message) => {
    expect(() => writeScheduleCsv(scheduleByName(name, options))).toThrow(message);
  });

  it("refuses to write optimizer actions, turned routes and broken tables", () => {
    const table = scheduleByName("1f1b", { ranks: 2, microBatches: 1 });
    const updates = table.ranks.map((list, stage) => [
      ...list,
      { kind: "optimizer" as const, stage, microBatch: -1 },
    ]);
    expect(() => writeScheduleCsv({ ...table, ranks: updates })).toThrow("no optimizer action");
    const turned = { ...table, routes: [{ stages: [1, 0], microBatches: [0] }] };
    expect(() => writeScheduleCsv(turned)).toThrow(
      "stages numbered along the route for a schedule CSV but found 1, 0.",
    );
    expect(() => writeScheduleCsv({ ...table, microBatches: 2 })).toThrow("micro-batch 1 to pass stage 0");
  });
});
