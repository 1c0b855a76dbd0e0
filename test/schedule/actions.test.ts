import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  checkActions,
  gpipe,
  oneForwardOneBackward,
  type ScheduleTable,
  scheduleByName,
  scheduleNames,
} from "../../src/schedule/index.js";

const counts = fc.record({
  p: fc.integer({ min: 1, max: 8 }),
  m: fc.integer({ min: 1, max: 12 }),
});

function letters(table: ScheduleTable): string[] {
  return table.ranks.map((list) =>
    list.map(({ kind, microBatch }) => `${kind[0]!.toUpperCase()}${microBatch + 1}`).join(" "),
  );
}

describe("named schedules", () => {
  it("1F1B is the order of Megatron's figure 4 for p = 4", () => {
    expect(letters(oneForwardOneBackward(4, 5))).toEqual([
      "F1 F2 F3 F4 B1 F5 B2 B3 B4 B5",
      "F1 F2 F3 B1 F4 B2 F5 B3 B4 B5",
      "F1 F2 B1 F3 B2 F4 B3 F5 B4 B5",
      "F1 B1 F2 B2 F3 B3 F4 B4 F5 B5",
    ]);
  });

  it("1F1B with fewer micro-batches than ranks warms up with all of them", () => {
    expect(letters(oneForwardOneBackward(4, 2))).toEqual([
      "F1 F2 B1 B2",
      "F1 F2 B1 B2",
      "F1 F2 B1 B2",
      "F1 B1 F2 B2",
    ]);
  });

  it("GPipe does all forwards first", () => {
    expect(letters(gpipe(2, 3))).toEqual(["F1 F2 F3 B1 B2 B3", "F1 F2 F3 B1 B2 B3"]);
  });

  it("are found by name, whatever the case, and refused otherwise", () => {
    expect(scheduleByName("1F1B", 3, 4)).toEqual(oneForwardOneBackward(3, 4));
    expect(scheduleByName("gpipe", 3, 4)).toEqual(gpipe(3, 4));
    expect(() => scheduleByName("toString", 3, 4)).toThrow('known pipeline schedule but found "toString"');
    expect(() => scheduleByName("1f1b", 0, 4)).toThrow("at least 1 for the number of stages but found 0");
    expect(() => scheduleByName("1f1b", 2, 1.5)).toThrow("micro-batches but found 1.5");
  });

  it("pass the checker", () => {
    fc.assert(
      fc.property(counts, ({ p, m }) => {
        for (const name of scheduleNames) expect(checkActions(scheduleByName(name, p, m))).toEqual([]);
      }),
    );
  });
});

describe("checkActions", () => {
  const mutate = (change: (table: ScheduleTable) => void) => {
    const table = oneForwardOneBackward(3, 4);
    change(table);
    return checkActions(table);
  };

  it("finds a dropped, doubled, foreign or misplaced action", () => {
    expect(mutate((t) => t.ranks[1]!.pop()).join()).toContain("micro-batch 3 to pass stage 1 both ways");
    expect(mutate((t) => t.ranks[0]!.unshift({ ...t.ranks[0]![0]! })).join()).toContain("each action once");
    expect(mutate((t) => t.ranks[0]!.push({ kind: "forward", stage: 3, microBatch: 0 })).join()).toContain(
      "a stage from 0 to 2",
    );
    expect(mutate((t) => t.ranks[0]!.push({ kind: "forward", stage: 0, microBatch: 4 })).join()).toContain(
      "a micro-batch from 0 to 3",
    );
    expect(mutate((t) => t.ranks[0]!.push(t.ranks[1]!.pop()!)).join()).toContain("stage 1 on rank 0 alone");
    expect(mutate((t) => t.ranks[2]!.reverse()).join()).toContain("Expected the forward first");
  });

  it("finds any single removal or duplication", () => {
    fc.assert(
      fc.property(counts, fc.nat(), fc.nat(), fc.boolean(), ({ p, m }, r, a, remove) => {
        const table = oneForwardOneBackward(p, m);
        const list = table.ranks[r % p]!;
        const at = a % list.length;
        if (remove) list.splice(at, 1);
        else list.splice(at, 0, { ...list[at]! });
        expect(checkActions(table).length).toBeGreaterThan(0);
      }),
    );
  });

  it("stops at 20 sentences", () => {
    expect(checkActions({ name: "empty", stages: 10, microBatches: 10, ranks: [] })).toHaveLength(20);
  });
});
