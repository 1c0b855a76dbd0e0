import { describe, expect, it } from "vitest";
import { checkActions, type ScheduleTable, simulate } from "../../src/schedule/index.js";
import { namedStarts, type ScheduleProblem, searchSchedule } from "../../src/schedule/search/index.js";
import { flattenSchedule } from "../../src/schedule/search/problem.js";
import { randomOf } from "../../src/schedule/search/random.js";
import { Windows } from "../../src/schedule/search/windows.js";
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

/** Pipelines of 2 to 16 ranks with uneven stages, some with two stages a rank, within common memory limits. */
function uneven(seed: number): ScheduleProblem {
  const random = randomOf(1000 + seed);
  const ranks = [2, 3, 4, 6, 8, 12, 16][seed % 7]!;
  const microBatches = ranks + Math.floor((ranks > 8 ? 1 : 3) * ranks * random());
  const chunks = ranks <= 6 && random() < 0.3 ? 2 : 1;
  const spread = [0.1, 0.5, 1.5][seed % 3]!;
  const stages = Array.from({ length: ranks * chunks }, (_, s) => {
    const size = 1 + spread * random();
    return {
      rank: s % ranks,
      forwardSeconds: size * (1 + 0.2 * random()),
      backwardInputSeconds: size * (1 + 0.2 * random()),
      backwardWeightSeconds: size * (1 + 0.2 * random()),
      activationBytes: 1,
      weightGradientBytes: 0.5,
    };
  });
  const scheme = Math.floor(3 * random());
  return {
    stages,
    ranks,
    microBatches,
    splitBackward: random() < 0.5,
    transferSeconds: stages.slice(1).map(() => 0.1 * random()),
    memoryLimitBytes: Array.from({ length: ranks }, (_, r) => {
      if (scheme === 0 && chunks === 1) return ranks - r;
      return scheme < 2 ? ranks * chunks : 2 * ranks * chunks;
    }),
  };
}

/** Six ranks with room for four micro-batches each, which leaves no rank busy: a gap stays for long. */
function hard(): ScheduleProblem {
  const random = randomOf(5);
  const stages = Array.from({ length: 6 }, (_, rank) => ({
    rank,
    forwardSeconds: 1 + 0.5 * random(),
    backwardInputSeconds: 1 + 0.5 * random(),
    backwardWeightSeconds: 1 + 0.5 * random(),
    weightGradientBytes: 0.5,
  }));
  return { stages, microBatches: 18, splitBackward: true, memoryLimitBytes: stages.map(() => 4) };
}

/** The least time of the named schedules of the problem's placement that keep its memory. */
function bestNamed(problem: ScheduleProblem): number {
  let best = Number.POSITIVE_INFINITY;
  const whole = problem.stages.map((stage) => ({
    ...stage,
    backwardInputSeconds: stage.backwardInputSeconds + stage.backwardWeightSeconds,
    backwardWeightSeconds: 0,
  }));
  for (const table of namedStarts(problem)) {
    const halves = table.ranks.some((actions) => actions.some(({ kind }) => kind === "backward-weight"));
    if (halves && !problem.splitBackward) continue;
    const own = halves ? problem : { ...problem, stages: whole, splitBackward: false };
    const ranks = table.ranks.map((actions) =>
      actions.flatMap((action) =>
        halves && action.kind === "backward"
          ? [
              { ...action, kind: "backward-input" as const },
              { ...action, kind: "backward-weight" as const },
            ]
          : [action],
      ),
    );
    const { seconds, peak } = replay(own, { ...table, ranks });
    if (peak.every((bytes, r) => bytes <= problem.memoryLimitBytes![r]! + 1e-9)) {
      best = Math.min(best, seconds);
    }
  }
  return best;
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

  it("has bounds below the optimum where ranks with several stages are relaxed", async () => {
    let close = 0;
    for (let seed = 0; seed < 200; seed++) {
      const random = randomOf(seed);
      const below = (n: number) => Math.floor(n * random());
      const split = seed % 4 === 0;
      const stages = Array.from({ length: split ? 2 : 4 }, (_, s) => ({
        rank: split ? 0 : seed % 2 ? s % 2 : Number(s === 1 || s === 2),
        forwardSeconds: 1 + below(4),
        backwardInputSeconds: 1 + below(4),
        backwardWeightSeconds: below(4),
        activationBytes: 1 + below(3),
        weightGradientBytes: below(2),
      }));
      const own = (rank: number) =>
        stages.reduce((sum, stage) => sum + (stage.rank === rank ? stage.activationBytes : 0), 0);
      const problem: ScheduleProblem = {
        stages,
        microBatches: split ? 3 : 2,
        splitBackward: split,
        transferSeconds: stages.slice(1).map(() => below(3)),
        memoryLimitBytes: [0, 1].slice(0, split ? 1 : 2).map((rank) => own(rank) + below(own(rank) + 1)),
      };
      const least = leastSeconds(problem);
      const relaxed = () => new Windows(flattenSchedule(problem), 0);
      expect(relaxed().tighten(least * (1 + 1e-9)), JSON.stringify({ seed, problem })).toBe(true);
      if (!relaxed().tighten(least * 0.9)) close++;
    }
    expect(close).toBeGreaterThan(120);
  });

  it("is never slower than a named one within memory, and near its bound, on a random grid", async () => {
    let faster = 0;
    for (let seed = 0; seed < 40; seed++) {
      const problem = uneven(seed);
      const found = await searchSchedule(problem, { gap: 0.005, workLimit: 2e7 });
      const note = JSON.stringify({ seed, problem });
      const { seconds, peak } = replay(problem, found.table);
      expect(seconds, note).toBeCloseTo(found.stepSeconds, 9);
      peak.forEach((bytes, r) => {
        expect(bytes, note).toBeLessThanOrEqual(problem.memoryLimitBytes![r]! + 1e-9);
      });
      const best = bestNamed(problem);
      expect(found.stepSeconds, note).toBeLessThanOrEqual(best * (1 + 1e-12));
      if (found.stepSeconds < 0.99 * best) faster++;
      expect(found.bound, note).toBeLessThanOrEqual(found.stepSeconds);
      if (problem.stages.length === problem.ranks) expect(found.gap, note).toBeLessThan(0.02);
    }
    expect(faster).toBeGreaterThan(10);
  });

  it("takes the time that the simulator says, in memory that the checker accepts", async () => {
    for (let seed = 0; seed < 12; seed++) {
      const problem = uneven(seed);
      const { stages, transferSeconds, memoryLimitBytes } = problem;
      const { table, stepSeconds } = await searchSchedule(problem, { gap: 0.01, workLimit: 1e7 });
      const memory = {
        limitBytes: memoryLimitBytes!.map((bytes) => bytes + 1e-9),
        activationBytes: stages.map((stage) => stage.activationBytes!),
        betweenHalvesBytes: stages.map((stage) => stage.weightGradientBytes!),
      };
      expect(checkActions(table, { memory })).toEqual([]);
      const simulated = simulate(table, {
        forwardSeconds: stages.map((stage) => stage.forwardSeconds),
        backwardInputSeconds: stages.map((stage) => stage.backwardInputSeconds),
        backwardWeightSeconds: stages.map((stage) => stage.backwardWeightSeconds),
        transferSeconds,
      });
      expect(simulated.stepSeconds).toBeCloseTo(stepSeconds, 9);
    }
  });

  it("is the same for a seed and a work limit", async () => {
    const problem = hard();
    const options = { gap: 0, workLimit: 2e7, seed: 3 };
    const first = await searchSchedule(problem, options);
    const second = await searchSchedule(problem, options);
    expect({ ...second, cpuSeconds: 0 }).toEqual({ ...first, cpuSeconds: 0 });
  });

  it("starts from the schedules it is given", async () => {
    const problem = { ...tiny(11), microBatches: 3, memoryLimitBytes: undefined };
    const best = await searchSchedule(problem, { gap: 0 });
    const again = await searchSchedule(problem, { starts: [best.table], workLimit: 0 });
    expect(again.stepSeconds).toBe(best.stepSeconds);
    const other: ScheduleTable = { ...best.table, microBatches: 4 };
    await expect(searchSchedule(problem, { starts: [other] })).rejects.toMatchObject({ code: "E_USAGE" });
  });

  it("has the optimum of equal stages without memory limits: no wait but the first forwards and one way", async () => {
    // Zero bubble (Qi et al., ICLR 2024, section 2): only the last rank's wait for its first forward is left.
    const stage = { forwardSeconds: 1, backwardInputSeconds: 1, backwardWeightSeconds: 1 };
    const stages = [0, 1, 2, 3].map((rank) => ({ ...stage, rank }));
    const found = await searchSchedule({ stages, microBatches: 8, splitBackward: true }, { gap: 0 });
    expect(found).toMatchObject({ status: "optimal", stepSeconds: 3 + 8 * 3 });
  });

  it("handles one stage, stages of no time and ranks without stages", async () => {
    const stage = { forwardSeconds: 2, backwardInputSeconds: 1, backwardWeightSeconds: 1 };
    const one = { stages: [{ ...stage, rank: 1 }], ranks: 3, microBatches: 5, splitBackward: true };
    expect(await searchSchedule(one)).toMatchObject({ status: "optimal", stepSeconds: 20, bound: 20 });
    const nothing = { rank: 0, forwardSeconds: 0, backwardInputSeconds: 0, backwardWeightSeconds: 0 };
    const idle = { stages: [nothing, { ...nothing, rank: 1 }], microBatches: 2, splitBackward: false };
    expect(await searchSchedule(idle)).toMatchObject({ status: "optimal", stepSeconds: 0, gap: 0 });
  });

  it("stops when told to, within its time limit, and reports on its way", async () => {
    const problem = hard();
    const controller = new AbortController();
    const pending = searchSchedule(problem, {
      gap: 0,
      signal: controller.signal,
      onProgress: () => controller.abort(new Error("enough")),
    });
    await expect(pending).rejects.toThrow("enough");
    const begun = performance.now();
    const found = await searchSchedule(problem, { gap: 0, seconds: 0.3, workLimit: 1e12 });
    expect(found.status).toBe("feasible");
    expect(performance.now() - begun).toBeLessThan(3000);
  });

  it("refuses what does not fit", async () => {
    const problem = uneven(1);
    const refused = (change: Partial<ScheduleProblem>, code: string) =>
      expect(searchSchedule({ ...problem, ...change })).rejects.toMatchObject({ code });
    await refused({ stages: [] }, "E_USAGE");
    await refused({ microBatches: 0 }, "E_USAGE");
    await refused({ transferSeconds: [1] }, "E_USAGE");
    await refused({ memoryLimitBytes: [1] }, "E_USAGE");
    await refused({ stages: problem.stages.map((stage) => ({ ...stage, forwardSeconds: -1 })) }, "E_USAGE");
    await refused({ stages: problem.stages.map((stage) => ({ ...stage, rank: 99 })) }, "E_USAGE");
    await refused(
      { stages: problem.stages.map((stage) => ({ ...stage, weightGradientBytes: 9 })) },
      "E_USAGE",
    );
    await refused({ memoryLimitBytes: problem.memoryLimitBytes!.map(() => 0.5) }, "E_INFEASIBLE");
  });
});
