import { describe, expect, it } from "vitest";
import { runtimeSchema } from "../../src/contracts/index.js";
import { describeRuntime, searchedSchedule } from "../../src/runtimes/index.js";
import { scheduleNames } from "../../src/schedule/index.js";

describe("what runtimes execute", () => {
  it("is described under the name that jobs use", () => {
    for (const name of runtimeSchema.options) expect(describeRuntime(name).name).toBe(name);
  });

  it("holds known schedules alone, and 1F1B in every one", () => {
    const known = [...scheduleNames, searchedSchedule];
    for (const name of runtimeSchema.options) {
      const { schedules } = describeRuntime(name);
      expect(schedules.filter((each) => !known.includes(each))).toEqual([]);
      expect(schedules).toContain("1f1b");
    }
    expect([...describeRuntime("any").schedules].sort()).toEqual(known.sort());
  });

  it("is open to everything that some launcher has under any", () => {
    const any = describeRuntime("any");
    const within = <T>(some: readonly T[], all: readonly T[]) => some.every((each) => all.includes(each));
    for (const name of runtimeSchema.options) {
      const each = describeRuntime(name);
      expect(within(each.context, any.context), name).toBe(true);
      expect(within(each.zero, any.zero), name).toBe(true);
      expect(within(each.offload, any.offload), name).toBe(true);
      expect(within(each.recompute, any.recompute), name).toBe(true);
      expect(within(each.besideWholeLayers, any.besideWholeLayers), name).toBe(true);
    }
  });
});
