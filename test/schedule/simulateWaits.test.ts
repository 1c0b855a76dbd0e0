import { describe, expect, it } from "vitest";
import { compileSchedule, gpipe, scheduleByName, simulate } from "../../src/schedule/index.js";
import { randomCase, randomOf } from "./randomSchedules.js";

const times = (stages: number) => ({
  forwardSeconds: new Array<number>(stages).fill(1),
  backwardSeconds: new Array<number>(stages).fill(2),
});

describe("steady state of schedules without a flush", () => {
  it("takes the slowest rank's work a micro-batch where enough are in flight", () => {
    const random = randomOf(3);
    for (const name of ["1f1b-async", "2bw"]) {
      for (let p = 1; p <= 5; p++) {
        const given = times(p);
        const slowest = Math.floor(random() * p);
        // One slow stage: all others keep up with it, and it never waits once the pipe is full.
        given.forwardSeconds[slowest] = 4;
        given.backwardSeconds[slowest] = 9;
        const table = scheduleByName(name, { ranks: p, microBatches: 16 * p });
        expect(simulate(table, given).steadySecondsPerMicroBatch).toBeCloseTo(13, 9);
      }
    }
  });

  it("is the pace of a long run, whatever the stages and transfers", () => {
    const random = randomOf(4);
    const list = (length: number) => Array.from({ length }, () => 0.1 + 3 * random());
    for (let p = 2; p <= 5; p++) {
      for (let sample = 0; sample < 5; sample++) {
        const given = { forwardSeconds: list(p), backwardSeconds: list(p), transferSeconds: list(p - 1) };
        const run = (microBatches: number) =>
          simulate(scheduleByName("1f1b-async", { ranks: p, microBatches }), given, { events: true });
        const ends = run(400)
          .ranks[0]!.events.filter(({ kind }) => kind === "backward")
          .map(({ endSeconds }) => endSeconds);
        // 180 is a multiple of every period that p ranks can have here.
        const pace = (ends[360]! - ends[180]!) / 180;
        expect(run(16 * p).steadySecondsPerMicroBatch! / pace).toBeCloseTo(1, 9);
      }
    }
  });

  it("is left out where there is a flush", () => {
    expect(simulate(gpipe(2, 4), times(2))).not.toHaveProperty("steadySecondsPerMicroBatch");
  });
});

describe("idle time by cause", () => {
  it("adds up to the idle time on random cases", () => {
    for (let seed = 1; seed <= 300; seed++) {
      const { table, times: given, blocking } = randomCase(seed);
      const compiled = compileSchedule(table, { sends: blocking ? "blocking" : "posted" });
      for (const { waits, idleSeconds } of simulate(compiled, given).ranks) {
        expect(waits.reduce((sum, { seconds }) => sum + seconds, 0)).toBeCloseTo(idleSeconds, 9);
      }
    }
  });

  it("names the ranks in a small pipeline", () => {
    // Rank 1 waits 1 s for the activation and 1 s for the way; rank 0 for the gradient's making and its way.
    const { ranks } = simulate(gpipe(2, 1), { ...times(2), transferSeconds: [1] });
    expect(ranks[0]!.waits).toEqual([
      { cause: "gradient", rank: 1, seconds: 4 },
      { cause: "link", rank: 1, seconds: 1 },
    ]);
    expect(ranks[1]!.waits).toEqual([
      { cause: "end", seconds: 3 },
      { cause: "activation", rank: 0, seconds: 1 },
      { cause: "link", rank: 0, seconds: 1 },
    ]);
  });
});
