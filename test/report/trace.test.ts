import { describe, expect, it } from "vitest";
import { type Trace, traceOf } from "../../src/report/index.js";
import {
  addSharding,
  boundariesOf,
  type StepSimulation,
  scheduleByName,
  scheduleNames,
  simulate,
  simulatePlan,
} from "../../src/schedule/index.js";
import { samplePlan } from "./samplePlan.js";

const written = (title: string, step: StepSimulation) =>
  JSON.parse(JSON.stringify(traceOf(title, step))) as Trace;
const complete = (trace: Trace) => trace.traceEvents.filter(({ ph }) => ph === "X");

/** One nanosecond for the rounding of microseconds in floating point. */
const rounding = 1e-3;

/** What every trace has to keep: order, one slice at a time on a thread, flows from slice to slice, named threads. */
function expectSound(trace: Trace): void {
  const timed = trace.traceEvents.filter(({ ph }) => ph !== "M");
  for (let i = 1; i < timed.length; i++) expect(timed[i]!.ts!).toBeGreaterThanOrEqual(timed[i - 1]!.ts!);
  const free = new Map<string, number>();
  for (const { pid, tid, ts, dur } of complete(trace)) {
    expect(dur!).toBeGreaterThanOrEqual(0);
    expect(ts! + rounding).toBeGreaterThanOrEqual(free.get(`${pid} ${tid}`) ?? 0);
    free.set(`${pid} ${tid}`, ts! + dur!);
  }
  const named = trace.traceEvents.filter(({ name }) => name === "thread_name");
  expect(new Set(named.map(({ pid, tid }) => `${pid} ${tid}`))).toEqual(new Set(free.keys()));
  const flows = new Map<number, Trace["traceEvents"]>();
  for (const event of timed.filter(({ ph }) => ph === "s" || ph === "t" || ph === "f")) {
    flows.set(event.id!, [...(flows.get(event.id!) ?? []), event]);
    const slice = complete(trace).some(
      ({ pid, tid, ts }) => pid === event.pid && tid === event.tid && ts === event.ts,
    );
    expect(slice).toBe(true);
  }
  for (const events of flows.values()) {
    expect(events.map(({ ph }) => ph).join("")).toMatch(/^st?f$/);
    expect(new Set(events.map(({ name }) => name)).size).toBe(1);
    expect(events.at(-1)!.bp).toBe("e");
  }
}

describe("traceOf a plan", () => {
  const plan = samplePlan({ stages: 6, microBatches: 20, layers: 31 });
  const step = simulatePlan(plan, { events: true, transfers: true, memory: true, memoryCurve: true });
  const trace = written(plan.name, step);

  it("is sound, and has a named process a rank with every action and tail once", () => {
    expectSound(trace);
    const names = trace.traceEvents.filter((event) => event.name === "process_name");
    expect(names.map((event) => event.args!.name)).toEqual(
      Array.from({ length: 6 }, (_, i) => `pipeline rank ${i}`),
    );
    const slices = complete(trace);
    expect(slices).toHaveLength(6 * (2 * 20 + 2));
    expect(new Set(slices.map((event) => `${event.pid} ${event.name}`)).size).toBe(slices.length);
  });

  it("ends with the step on every rank", () => {
    for (let pid = 0; pid < 6; pid++) {
      const ends = complete(trace)
        .filter((event) => event.pid === pid)
        .map(({ ts, dur }) => ts! + dur!);
      expect(Math.max(...ends)).toBeCloseTo(step.stepSeconds * 1e6, 1);
    }
  });

  it("counts the micro-batches in flight up to the peak and back to 0, and the memory up to its peak", () => {
    step.pipeline.ranks.forEach((rank, pid) => {
      const counts = (name: string, unit: string) =>
        trace.traceEvents
          .filter((event) => event.ph === "C" && event.pid === pid && event.name === name)
          .map((event) => event.args![unit] as number);
      const inFlight = counts("micro-batches in flight", "microBatches");
      expect(Math.max(...inFlight)).toBe(rank.peakMicroBatches);
      expect(inFlight.at(-1)).toBe(0);
      expect(Math.max(...counts("memory allocated", "bytes"))).toBe(rank.memory!.peakAllocatedBytes);
      expect(Math.max(...counts("memory: activations", "bytes"))).toBeGreaterThan(0);
      expect(counts("memory: parameters", "bytes")).toEqual([]);
    });
  });
});

describe("traceOf a schedule", () => {
  const played = (name: string, transfer: number): StepSimulation => {
    const table = scheduleByName(name, { ranks: 4, microBatches: 8 });
    const stages = Array.from({ length: table.stages }, () => 1);
    const pipeline = simulate(
      table,
      {
        forwardSeconds: stages,
        backwardInputSeconds: stages,
        backwardWeightSeconds: stages,
        transferSeconds: boundariesOf(table).map(() => transfer),
      },
      { events: true, transfers: true },
    );
    return { table, stepSeconds: pipeline.stepSeconds, pipeline, tail: [] };
  };

  it.each(scheduleNames)("%s: is sound with free, short and long transfers, one flow each", (name) => {
    for (const transfer of [0, 0.25, 2.5]) {
      const step = played(name, transfer);
      const trace = written(name, step);
      expectSound(trace);
      const { transfers, ranks } = step.pipeline;
      expect(trace.traceEvents.filter(({ ph }) => ph === "f")).toHaveLength(transfers.length);
      const slices = complete(trace);
      const compute = ranks.reduce((sum, rank) => sum + rank.events.length, 0);
      expect(slices).toHaveLength(compute + (transfer > 0 ? transfers.length : 0));
      const ends = trace.traceEvents.filter(({ ph, name: at }) => ph === "C" && at.includes("flight"));
      ranks.forEach(({ peakMicroBatches }, pid) => {
        const own = ends.filter((event) => event.pid === pid).map(({ args }) => args!.microBatches as number);
        expect(Math.max(...own)).toBe(peakMicroBatches);
        expect(own.at(-1)).toBe(0);
      });
    }
  });

  it("joins producers with users: a flow ends after the slice that it starts from", () => {
    const trace = written("zbv", played("zbv", 0.5));
    const sliceAt = (event: Trace["traceEvents"][number]) =>
      complete(trace).find(({ pid, tid, ts }) => pid === event.pid && tid === event.tid && ts === event.ts)!;
    const starts = trace.traceEvents.filter(({ ph }) => ph === "s");
    expect(starts.length).toBeGreaterThan(0);
    for (const start of starts) {
      const end = trace.traceEvents.find(({ ph, id }) => ph === "f" && id === start.id)!;
      const [producer, user] = [sliceAt(start), sliceAt(end)];
      expect(producer.args!.microBatch).toBe(user.args!.microBatch);
      expect(producer.ts! + producer.dur! + 0.5e6).toBeLessThanOrEqual(user.ts! + rounding);
      expect(Math.abs((producer.args!.stage as number) - (user.args!.stage as number))).toBe(1);
      expect(producer.pid).not.toBe(user.pid);
    }
  });

  it("names split backwards and chunks, and gives what runs side by side its own thread", () => {
    const zbv = complete(written("zbv", played("zbv", 0)));
    const names = new Set(zbv.map(({ name }) => name));
    for (const name of ["forward 0 chunk 0", "backward-input 7 chunk 1", "backward-weight 7 chunk 1"]) {
      expect(names).toContain(name);
    }
    const both = written("dualpipev", played("dualpipev", 0));
    const threads = both.traceEvents.filter(({ name, pid }) => name === "thread_name" && pid === 0);
    expect(threads.map(({ args }) => args!.name)).toEqual(["compute", "compute (2)"]);
  });

  it("shows collectives beside compute", () => {
    const table = addSharding(scheduleByName("interleaved", { ranks: 2, microBatches: 4, chunks: 2 }));
    const stages = [1, 1, 1, 1];
    const pipeline = simulate(
      table,
      {
        forwardSeconds: stages,
        backwardSeconds: [2, 2, 2, 2],
        gatherSeconds: stages,
        reduceSeconds: stages,
      },
      { events: true, transfers: true },
    );
    const trace = written("fsdp", { table, stepSeconds: pipeline.stepSeconds, pipeline, tail: [] });
    expectSound(trace);
    const threads = trace.traceEvents.filter(({ name, pid }) => name === "thread_name" && pid === 1);
    expect(threads.map(({ args }) => args!.name)).toContain("collectives");
    const names = complete(trace).map(({ name }) => name);
    expect(names).toContain("all-gather of stage 3");
    expect(names).toContain("reduce of stage 0");
  });
});
