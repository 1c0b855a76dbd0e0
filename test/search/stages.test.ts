import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { cutStages, leastMaximum, type StageProblem } from "../../src/search/stages.js";

/** Random chains: layers with times, weights and memory; ends that carry an embedding and a head. */
const chains = fc
  .record({
    layers: fc.integer({ min: 0, max: 7 }),
    stages: fc.integer({ min: 1, max: 5 }),
    microBatches: fc.integer({ min: 1, max: 9 }),
    limit: fc.integer({ min: 3, max: 60 }),
    transfer: fc.integer({ min: 0, max: 4 }),
    ends: fc.tuple(fc.integer({ min: 0, max: 9 }), fc.integer({ min: 0, max: 9 })),
  })
  .chain((shape) =>
    fc.record({
      shape: fc.constant(shape),
      times: fc.array(fc.integer({ min: 1, max: 9 }), { minLength: shape.layers, maxLength: shape.layers }),
      weights: fc.array(fc.integer({ min: 0, max: 9 }), { minLength: shape.layers, maxLength: shape.layers }),
    }),
  );

type Chain = typeof chains extends fc.Arbitrary<infer T> ? T : never;

function problemOf({ shape, times, weights }: Chain): StageProblem {
  const { layers, stages, microBatches, limit, transfer, ends } = shape;
  const sum = (values: number[], start: number, end: number) =>
    values.slice(start, end).reduce((all, value) => all + value, 0);
  const ofEnds = (stage: number) => (stage === 0 ? ends[0] : 0) + (stage === stages - 1 ? ends[1] : 0);
  return {
    layers,
    stages,
    microBatches,
    seconds: (stage, start, end) =>
      sum(times, start, end) +
      ofEnds(stage) +
      (stage < stages - 1 ? transfer : 0) +
      (stage > 0 ? transfer : 0),
    stepSeconds: (stage, start, end) => 2 * sum(weights, start, end) + ofEnds(stage),
    fits: (stage, start, end) => {
      const inFlight = Math.min(stages - stage, microBatches);
      return sum(weights, start, end) + inFlight * (end - start) <= limit;
    },
  };
}

/** Every contiguous cut, priced from the definition. */
function enumerate(problem: StageProblem): { best: number; count: number } {
  const { layers, stages, microBatches } = problem;
  let best = Number.POSITIVE_INFINITY;
  let count = 0;
  const cut = (boundaries: number[]) => {
    const stage = boundaries.length - 1;
    const start = boundaries[stage]!;
    if (stage === stages) {
      if (start !== layers) return;
      count++;
      const seconds = boundaries.slice(1).map((end, i) => problem.seconds(i, boundaries[i]!, end));
      const once = boundaries.slice(1).map((end, i) => problem.stepSeconds(i, boundaries[i]!, end));
      const total =
        seconds.reduce((all, value) => all + value, 0) +
        (microBatches - 1) * Math.max(...seconds) +
        Math.max(...once);
      best = Math.min(best, total);
      return;
    }
    const mayBeEmpty = stages > 1 && (stage === 0 || stage === stages - 1);
    for (let end = start + (mayBeEmpty ? 0 : 1); end <= layers; end++) {
      if (problem.fits(stage, start, end)) cut([...boundaries, end]);
    }
  };
  cut([0]);
  return { best, count };
}

describe("cutStages", () => {
  it("equals exhaustive enumeration on 2,000 random chains", () => {
    let feasible = 0;
    fc.assert(
      fc.property(chains, (chain) => {
        const problem = problemOf(chain);
        const wanted = enumerate(problem);
        const found = cutStages(problem);
        if (wanted.count === 0) {
          expect(found).toBeUndefined();
          return;
        }
        feasible++;
        expect(found?.objective).toBe(wanted.best);
        expect(found!.boundaries[0]).toBe(0);
        expect(found!.boundaries.at(-1)).toBe(problem.layers);
        const seconds = found!.boundaries.slice(1).map((end, i) => {
          expect(problem.fits(i, found!.boundaries[i]!, end)).toBe(true);
          return problem.seconds(i, found!.boundaries[i]!, end);
        });
        const once = found!.boundaries
          .slice(1)
          .map((end, i) => problem.stepSeconds(i, found!.boundaries[i]!, end));
        const total =
          seconds.reduce((all, value) => all + value, 0) +
          (problem.microBatches - 1) * Math.max(...seconds) +
          Math.max(...once);
        expect(total).toBe(found!.objective);
      }),
      { numRuns: 2000, seed: 1 },
    );
    expect(feasible).toBeGreaterThan(500);
  });

  it("never returns a cut at or above the cutoff", () => {
    fc.assert(
      fc.property(chains, (chain) => {
        const problem = problemOf(chain);
        const best = cutStages(problem);
        if (!best) return;
        expect(cutStages(problem, best.objective)).toBeUndefined();
        expect(cutStages(problem, best.objective + 1)?.objective).toBe(best.objective);
      }),
      { numRuns: 300, seed: 2 },
    );
  });

  it("balances a head that weighs as much as three layers", () => {
    const problem = problemOf({
      shape: { layers: 9, stages: 3, microBatches: 8, limit: 1000, transfer: 0, ends: [0, 3] },
      times: new Array(9).fill(1),
      weights: new Array(9).fill(0),
    });
    expect(cutStages(problem)?.boundaries).toEqual([0, 4, 8, 9]);
  });
});

describe("leastMaximum", () => {
  it("equals the bottleneck found by enumeration", () => {
    fc.assert(
      fc.property(chains, (chain) => {
        const problem = problemOf(chain);
        const { layers, stages } = problem;
        let best = Number.POSITIVE_INFINITY;
        const cut = (stage: number, start: number, worst: number) => {
          if (stage === stages) {
            if (start === layers) best = Math.min(best, worst);
            return;
          }
          const mayBeEmpty = stages > 1 && (stage === 0 || stage === stages - 1);
          for (let end = start + (mayBeEmpty ? 0 : 1); end <= layers; end++) {
            cut(stage + 1, end, Math.max(worst, problem.seconds(stage, start, end)));
          }
        };
        cut(0, 0, Number.NEGATIVE_INFINITY);
        expect(leastMaximum(layers, stages, problem.seconds)).toBe(best);
      }),
      { numRuns: 500, seed: 4 },
    );
  });
});
