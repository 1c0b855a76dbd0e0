import { describe, expect, it } from "vitest";
import { checkActions } from "../../src/schedule/index.js";
import { type ScheduleProblem, searchSchedule } from "../../src/schedule/search/index.js";
import { randomOf } from "../../src/schedule/search/random.js";
import { leastSeconds, replay } from "./searchBrute.js";

/** Small problems whose times are small integers, with one or more stages a rank. */
function tiny(seed: number): ScheduleProblem {
  const random = randomOf(seed);
  const below = (n: number) => Math.floor(n * random());
  const splitBackward = random() < 0.5;
  const ranks = 1 + below(3);
  const count = ranks + (random() < 0.3 ? 1 : 0);
  const microBatches = 1 + below(count * (splitBackward ? 3 : 2) > 6 ? 2 : 3);
  const activationBytes = 2;
  const stages = Array.from({ length: count }, (_, s) => ({
    // Loops back to the first rank, or turns back on the last one.
    rank: s < ranks ? s : seed % 2 ? s - ranks : 2 * ranks - 1 - s,
    forwardSeconds: below(5),
    backwardInputSeconds: below(5),
    backwardWeightSeconds: below(4),
    activationBytes,
    weightGradientBytes: below(3),
  }));
  const limited = random() < 0.6;
  return {
    stages,
    ranks,
    microBatches,
    splitBackward,
    transferSeconds: random() < 0.5 ? undefined : stages.slice(1).map(() => below(3)),
    memoryLimitBytes: limited
      ? Array.from({ length: ranks }, (_, r) => {
          const own = stages.filter(({ rank }) => rank === r).length;
          return activationBytes * (own + below(2 * own + 1) / 2);
        })
      : undefined,
  };
}

describe("the searched schedule", () => {
  it("is optimal on 400 small problems, as trying everything shows", async () => {
    let optimal = 0;
    for (let seed = 0; seed < 400; seed++) {
      const problem = tiny(seed);
      const found = await searchSchedule(problem, { gap: 0, workLimit: 2e6 });
      const least = leastSeconds(problem);
      const note = JSON.stringify({ seed, problem });
      expect(found.bound, note).toBeLessThanOrEqual(least * (1 + 1e-9));
      expect(found.stepSeconds, note).toBeCloseTo(least, 9);
      if (found.status === "optimal") optimal++;
      const { seconds, peak } = replay(problem, found.table);
      expect(seconds, note).toBeCloseTo(found.stepSeconds, 9);
      for (const [r, limit] of (problem.memoryLimitBytes ?? []).entries()) {
        expect(peak[r], note).toBeLessThanOrEqual(limit);
      }
      expect(checkActions(found.table), note).toEqual([]);
    }
    expect(optimal).toBe(400);
  });
});
