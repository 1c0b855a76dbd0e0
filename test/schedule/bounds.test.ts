import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  gpipe,
  interleaved,
  interleavedSeconds,
  oneForwardOneBackward,
  oneForwardOneBackwardEstimate,
  oneForwardOneBackwardUpperBound,
  pipelineLowerBound,
  simulate,
} from "../../src/schedule/index.js";

const time = fc.integer({ min: 0, max: 4096 }).map((n) => n / 64);
const pipelines = fc.integer({ min: 1, max: 8 }).chain((stages) =>
  fc.record({
    microBatches: fc.integer({ min: 1, max: 20 }),
    forward: fc.array(time, { minLength: stages, maxLength: stages }),
    backward: fc.array(time, { minLength: stages, maxLength: stages }),
  }),
);

function simulated(forward: number[], backward: number[], microBatches: number): number {
  return simulate(oneForwardOneBackward(forward.length, microBatches), {
    forwardSeconds: forward,
    backwardSeconds: backward,
  }).stepSeconds;
}

describe("interleavedSeconds", () => {
  it("is exact for interleaved 1F1B where p divides m", () => {
    for (let p = 1; p <= 5; p++) {
      for (const m of [p, 2 * p, 5 * p]) {
        for (let chunks = 1; chunks <= 4; chunks++) {
          const times = {
            forwardSeconds: new Array<number>(p * chunks).fill(1),
            backwardSeconds: new Array<number>(p * chunks).fill(2),
          };
          const { stepSeconds } = simulate(interleaved({ ranks: p, microBatches: m, chunks }), times);
          expect(stepSeconds).toBeCloseTo(interleavedSeconds(p, m, chunks, chunks, 2 * chunks), 9);
        }
      }
    }
  });

  it("with one chunk is 1F1B and GPipe", () => {
    for (let p = 1; p <= 6; p++) {
      for (let m = 1; m <= 9; m++) {
        const times = { forwardSeconds: new Array(p).fill(2), backwardSeconds: new Array(p).fill(3) };
        for (const make of [gpipe, oneForwardOneBackward]) {
          expect(simulate(make(p, m), times).stepSeconds).toBe(interleavedSeconds(p, m, 1, 2, 3));
        }
      }
    }
  });
});

describe("closed forms of 1F1B", () => {
  it("the estimate is exact for equal stages", () => {
    for (let p = 1; p <= 8; p++) {
      for (let m = 1; m <= 20; m++) {
        const [f, b] = [new Array<number>(p).fill(1), new Array<number>(p).fill(2)];
        expect(oneForwardOneBackwardEstimate(f, b, m)).toBe(simulated(f, b, m));
      }
    }
  });

  it("the estimate bounds from above where all stages share a ratio (10,000 pipelines)", () => {
    fc.assert(
      fc.property(pipelines, fc.integer({ min: 0, max: 32 }), ({ forward, microBatches }, eighths) => {
        const backward = forward.map((f) => (f * eighths) / 8);
        const bound = oneForwardOneBackwardEstimate(forward, backward, microBatches);
        expect(simulated(forward, backward, microBatches)).toBeLessThanOrEqual(bound + 1e-9);
      }),
      { numRuns: 10_000, seed: 1 },
    );
  });

  it("the estimate is no bound in general", () => {
    const example: [number[], number[], number] = [[1, 0, 0], [0, 1, 0], 3];
    expect(simulated(...example)).toBe(5);
    expect(oneForwardOneBackwardEstimate(...example)).toBe(4);
    const overlapped: [number[], number[], number] = [[2, 1], [2, 1], 2];
    expect(simulated(...overlapped)).toBe(8);
    expect(oneForwardOneBackwardEstimate(...overlapped)).toBe(10);
  });

  it("the true time lies between the bounds (10,000 pipelines)", () => {
    fc.assert(
      fc.property(pipelines, ({ forward, backward, microBatches }) => {
        const seconds = simulated(forward, backward, microBatches);
        const upper = oneForwardOneBackwardUpperBound(forward, backward, microBatches);
        expect(seconds).toBeLessThanOrEqual(upper + 1e-9);
        expect(seconds).toBeGreaterThanOrEqual(pipelineLowerBound(forward, backward, microBatches) - 1e-9);
      }),
      { numRuns: 10_000, seed: 2 },
    );
  });
});
