import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { MpoptError } from "../../src/contracts/index.js";
import {
  type Action,
  compileSchedule,
  gpipe,
  oneForwardOneBackward,
  type ScheduleTable,
  scheduleByName,
  simulate,
} from "../../src/schedule/index.js";
import { reference } from "./reference.js";

const time = fc.integer({ min: 0, max: 1000 }).map((n) => n / 64);
const uneven = fc.integer({ min: 1, max: 7 }).chain((stages) =>
  fc.record({
    stages: fc.constant(stages),
    microBatches: fc.integer({ min: 1, max: 14 }),
    forward: fc.array(time, { minLength: stages, maxLength: stages }),
    backward: fc.array(time, { minLength: stages, maxLength: stages }),
    transfer: fc.array(time, { minLength: stages - 1, maxLength: stages - 1 }),
  }),
);

function equalTimes(stages: number, forward: number, backward: number) {
  return {
    forwardSeconds: new Array<number>(stages).fill(forward),
    backwardSeconds: new Array<number>(stages).fill(backward),
  };
}

/** Interleaves the stages' lists of a plain schedule on fewer ranks, in the order in which they ran. */
function foldOntoRanks(table: ScheduleTable, rankCount: number): ScheduleTable {
  const { ranks } = simulate(table, equalTimes(table.stages, 1, 2), { events: true });
  const folded: { start: number; action: Action }[][] = Array.from({ length: rankCount }, () => []);
  ranks.forEach((rank, stage) => {
    for (const { kind, microBatch, startSeconds } of rank.events) {
      folded[stage % rankCount]!.push({ start: startSeconds, action: { kind, stage, microBatch } });
    }
  });
  return {
    ...table,
    name: "folded",
    ranks: folded.map((list) => list.sort((a, b) => a.start - b.start).map(({ action }) => action)),
  };
}

describe("closed forms for equal stages", () => {
  // Makespan and bubble: Narayanan et al., SC'21, section 2.2.1; for GPipe Huang et al., NeurIPS 2019.
  for (const make of [gpipe, oneForwardOneBackward]) {
    it(`${make.name}: makespan (m + p - 1)(f + b), bubble (p - 1) / (m + p - 1)`, () => {
      for (let p = 1; p <= 9; p++) {
        for (let m = 1; m <= 20; m++) {
          const result = simulate(make(p, m), equalTimes(p, 1, 2));
          expect(result.stepSeconds).toBe((m + p - 1) * 3);
          expect(result.bubbleRatio).toBeCloseTo((p - 1) / (m + p - 1), 12);
          for (const rank of result.ranks) {
            expect(rank.busySeconds).toBe(m * 3);
            expect(rank.idleSeconds).toBe((p - 1) * 3);
          }
        }
      }
    });
  }

  it("micro-batches in flight: min(p - i, m) on rank i for 1F1B, m for GPipe", () => {
    for (let p = 1; p <= 9; p++) {
      for (let m = 1; m <= 20; m++) {
        const oneByOne = simulate(oneForwardOneBackward(p, m), equalTimes(p, 1, 1)).ranks;
        expect(oneByOne.map((rank) => rank.peakMicroBatches)).toEqual(
          Array.from({ length: p }, (_, i) => Math.min(p - i, m)),
        );
        const all = simulate(gpipe(p, m), equalTimes(p, 1, 1)).ranks;
        expect(all.map((rank) => rank.peakMicroBatches)).toEqual(new Array(p).fill(m));
      }
    }
  });
});

describe("against an independent simulation", () => {
  it("agrees on 1,000 uneven pipelines with transfers", () => {
    fc.assert(
      fc.property(uneven, fc.boolean(), ({ stages, microBatches, forward, backward, transfer }, oneByOne) => {
        const table = (oneByOne ? oneForwardOneBackward : gpipe)(stages, microBatches);
        const times = { forwardSeconds: forward, backwardSeconds: backward, transferSeconds: transfer };
        const result = simulate(table, times);
        const wanted = reference(table, times);
        expect(wanted.finished).toBe(true);
        expect(result.stepSeconds).toBe(wanted.makespan);
        expect(result.ranks.map((rank) => rank.peakMicroBatches)).toEqual(wanted.peak);
      }),
      { numRuns: 1000, seed: 1 },
    );
  });

  it("agrees where ranks hold several stages", () => {
    fc.assert(
      fc.property(uneven, fc.integer({ min: 1, max: 4 }), (sample, rankCount) => {
        const { stages, microBatches, forward, backward, transfer } = sample;
        const ranks = Math.min(rankCount, stages);
        const table = foldOntoRanks(oneForwardOneBackward(stages, microBatches), ranks);
        const times = { forwardSeconds: forward, backwardSeconds: backward, transferSeconds: transfer };
        const wanted = reference(table, times);
        expect(wanted.finished).toBe(true);
        expect(simulate(table, times).stepSeconds).toBe(wanted.makespan);
      }),
      { numRuns: 300, seed: 2 },
    );
  });
});

describe("properties", () => {
  it("a longer time or one more micro-batch never shortens the step", () => {
    fc.assert(
      fc.property(uneven, fc.nat(), fc.boolean(), time, (sample, position, inForward, more) => {
        const { stages, microBatches, forward, backward } = sample;
        const base = simulate(oneForwardOneBackward(stages, microBatches), {
          forwardSeconds: forward,
          backwardSeconds: backward,
        }).stepSeconds;
        const longer = [...(inForward ? forward : backward)];
        longer[position % stages]! += more;
        const slower = simulate(oneForwardOneBackward(stages, microBatches), {
          forwardSeconds: inForward ? longer : forward,
          backwardSeconds: inForward ? backward : longer,
        }).stepSeconds;
        expect(slower).toBeGreaterThanOrEqual(base);
        const one = simulate(oneForwardOneBackward(stages, microBatches + 1), {
          forwardSeconds: forward,
          backwardSeconds: backward,
        }).stepSeconds;
        expect(one).toBeGreaterThanOrEqual(base);
      }),
      { numRuns: 500, seed: 3 },
    );
  });

  it("scales with the unit of time, and 1F1B is never slower than GPipe's bound", () => {
    fc.assert(
      fc.property(uneven, ({ stages, microBatches, forward, backward }) => {
        const table = oneForwardOneBackward(stages, microBatches);
        const once = simulate(table, { forwardSeconds: forward, backwardSeconds: backward });
        const twice = simulate(table, {
          forwardSeconds: forward.map((x) => 2 * x),
          backwardSeconds: backward.map((x) => 2 * x),
        });
        expect(twice.stepSeconds).toBe(2 * once.stepSeconds);
        // GPipe with free transfers is two flow shops one after the other.
        const sum = (list: number[]) => list.reduce((a, b) => a + b, 0);
        const flow = (list: number[]) => sum(list) + (microBatches - 1) * Math.max(...list);
        const all = simulate(gpipe(stages, microBatches), {
          forwardSeconds: forward,
          backwardSeconds: backward,
        }).stepSeconds;
        expect(all).toBeCloseTo(flow(forward) + flow(backward), 9);
        expect(once.stepSeconds).toBeLessThanOrEqual(all + 1e-9);
      }),
      { numRuns: 500, seed: 4 },
    );
  });

  it("events fill exactly the busy time, in order and without overlap", () => {
    fc.assert(
      fc.property(uneven, ({ stages, microBatches, forward, backward, transfer }) => {
        const result = simulate(
          oneForwardOneBackward(stages, microBatches),
          { forwardSeconds: forward, backwardSeconds: backward, transferSeconds: transfer },
          { events: true },
        );
        for (const rank of result.ranks) {
          expect(rank.events).toHaveLength(2 * microBatches);
          let busy = 0;
          let end = 0;
          for (const event of rank.events) {
            expect(event.startSeconds).toBeGreaterThanOrEqual(end);
            busy += event.endSeconds - event.startSeconds;
            end = event.endSeconds;
          }
          expect(busy).toBeCloseTo(rank.busySeconds, 9);
          expect(end).toBeLessThanOrEqual(result.stepSeconds);
          expect(rank.busySeconds + rank.idleSeconds).toBeCloseTo(result.stepSeconds, 9);
        }
      }),
      { numRuns: 200, seed: 5 },
    );
  });
});

describe("refusals", () => {
  it("names a deadlock and the ranks that wait", () => {
    const f = (stage: number, microBatch: number): Action => ({ kind: "forward", stage, microBatch });
    const b = (stage: number, microBatch: number): Action => ({ kind: "backward", stage, microBatch });
    // Rank 0 wants a backward that needs rank 1's second forward, whose input rank 0 has not sent.
    const table: ScheduleTable = {
      name: "stuck",
      stages: 2,
      microBatches: 2,
      ranks: [
        [f(0, 0), b(0, 0), f(0, 1), b(0, 1)],
        [f(1, 0), f(1, 1), b(1, 0), b(1, 1)],
      ],
    };
    expect(reference(table, equalTimes(2, 1, 1)).finished).toBe(false);
    const failure = catchError(() => compileSchedule(table));
    expect(failure.code).toBe("E_PLAN_INVALID");
    expect(failure.message).toContain("wait for each other");
    expect(failure.notes).toEqual([
      "Rank 0 waits before the backward of micro-batch 0 at stage 0.",
      "Rank 1 waits before the forward of micro-batch 1 at stage 1.",
    ]);
  });

  it("refuses times that do not fit the stages", () => {
    const table = gpipe(2, 2);
    const wrong = [
      { forwardSeconds: [1], backwardSeconds: [1, 1] },
      { forwardSeconds: [1, Number.NaN], backwardSeconds: [1, 1] },
      { forwardSeconds: [1, 1], backwardSeconds: [1, -1] },
      { forwardSeconds: [1, 1], backwardSeconds: [1, 1], transferSeconds: [1, 1] },
    ];
    for (const times of wrong) expect(catchError(() => simulate(table, times)).code).toBe("E_USAGE");
  });
});

function catchError(work: () => unknown): MpoptError {
  try {
    work();
  } catch (error) {
    expect(error).toBeInstanceOf(MpoptError);
    return error as MpoptError;
  }
  throw new Error("nothing was thrown");
}

it.each([
  ["zb-h2", 1, 0],
  ["zbv", 2, 0],
  ["zb-h1", 1, 3 / 27],
  ["1f1b", 1, 9 / 33],
])("tells a rank's own bubble from that of the step: %s", (name, chunks, ratio) => {
  const table = scheduleByName(name, { ranks: 4, microBatches: 8 });
  const each = new Array(4 * chunks).fill(1);
  const { stepSeconds, bubbleRatio, spanSeconds, spanBubbleRatio } = simulate(table, {
    forwardSeconds: each,
    backwardInputSeconds: each,
    backwardWeightSeconds: each,
  });
  const busy = 8 * 3 * chunks;
  expect(spanBubbleRatio).toBeCloseTo(ratio, 12);
  expect(spanSeconds).toBeCloseTo(busy / (1 - ratio), 9);
  expect(bubbleRatio).toBeCloseTo(1 - busy / stepSeconds, 12);
});
