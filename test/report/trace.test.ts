import { describe, expect, it } from "vitest";
import { type Trace, traceOf } from "../../src/report/index.js";
import { simulatePlan } from "../../src/schedule/index.js";
import { samplePlan } from "./samplePlan.js";

describe("traceOf", () => {
  const plan = samplePlan({ stages: 6, microBatches: 20, layers: 31 });
  const step = simulatePlan(plan, { events: true });
  const trace = JSON.parse(JSON.stringify(traceOf(plan, step))) as Trace;
  const complete = trace.traceEvents.filter((event) => event.ph === "X");

  it("has a named thread a rank, and every action and tail once", () => {
    const names = trace.traceEvents.filter((event) => event.name === "thread_name");
    expect(names.map((event) => event.args!.name)).toEqual(
      Array.from({ length: 6 }, (_, i) => `pipeline rank ${i}`),
    );
    expect(complete).toHaveLength(6 * (2 * 20 + 2));
    const keys = new Set(complete.map((event) => `${event.tid} ${event.name}`));
    expect(keys.size).toBe(complete.length);
  });

  it("never has two events at once on a rank, and ends with the step", () => {
    for (let tid = 0; tid < 6; tid++) {
      const own = complete.filter((event) => event.tid === tid).sort((a, b) => a.ts! - b.ts!);
      for (let i = 1; i < own.length; i++) {
        // One nanosecond for the rounding of microseconds in floating point.
        expect(own[i]!.ts! + 1e-3).toBeGreaterThanOrEqual(own[i - 1]!.ts! + own[i - 1]!.dur!);
      }
      const last = own.at(-1)!;
      expect(last.ts! + last.dur!).toBeCloseTo(step.stepSeconds * 1e6, 1);
    }
  });

  it("counts the micro-batches in flight up to the peak and back to 0, with split backwards too", () => {
    const split = { ...plan, schedule: { ...plan.schedule, name: "zb-h1" } };
    for (const each of [plan, split]) {
      const run = simulatePlan(each, { events: true });
      const { traceEvents } = traceOf(each, run);
      run.pipeline.ranks.forEach((rank, tid) => {
        const counts = traceEvents
          .filter((event) => event.ph === "C" && event.tid === tid)
          .map((event) => event.args!.microBatches as number);
        expect(Math.max(...counts)).toBe(rank.peakMicroBatches);
        expect(counts.at(-1)).toBe(0);
      });
    }
  });
});
