import { describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import { loadModel } from "../../src/models/index.js";
import { nonDominated, planFrontier } from "../../src/plan/frontier.js";
import { createPlan } from "../../src/plan/index.js";

const options = {
  model: loadModel("gpt2"),
  cluster: clusterPreset("a100-40:4x2"),
  job: { globalBatch: 64, sequence: 1024 },
  dollarsPerHour: 2,
};

describe("nonDominated", () => {
  const point = (stepSeconds: number, memoryBytes: number, devices: number, dollarsPerStep?: number) => ({
    stepSeconds,
    memoryBytes,
    devices,
    ...(dollarsPerStep !== undefined && { dollarsPerStep }),
  });

  it("keeps what is best in some mixture, by comparison of all pairs", () => {
    // Deterministic points; dominance by definition, written again.
    let state = 7;
    const random = (n: number) => {
      state = (state * 48271) % 2147483647;
      return 1 + (state % n);
    };
    const points = Array.from({ length: 60 }, () => point(random(9), random(9), random(3), random(5)));
    const keys = ["stepSeconds", "memoryBytes", "devices", "dollarsPerStep"] as const;
    const beats = (a: (typeof points)[number], b: (typeof points)[number]) =>
      keys.every((key) => a[key]! <= b[key]!) && keys.some((key) => a[key]! < b[key]!);
    const kept = nonDominated(points);
    for (const each of kept) expect(points.some((other) => beats(other, each))).toBe(false);
    for (const each of points) {
      const covered = kept.some(
        (other) => beats(other, each) || keys.every((key) => other[key] === each[key]),
      );
      expect(covered).toBe(true);
    }
    const distinct = new Set(kept.map((each) => JSON.stringify(each)));
    expect(distinct.size).toBe(kept.length);
    expect(kept.length).toBeLessThan(points.length);
  });

  it("keeps the cheaper of two that differ in money alone, and one of two that are equal", () => {
    expect(nonDominated([point(1, 1, 1, 3), point(1, 1, 1, 2)])).toEqual([point(1, 1, 1, 2)]);
    expect(nonDominated([point(1, 1, 1), point(1, 1, 1)])).toHaveLength(1);
    expect(nonDominated([point(1, 2, 1), point(2, 1, 1)])).toHaveLength(2);
  });
});

describe("planFrontier", () => {
  it("trades time for memory, and devices for time, each plan with its own certificate", async () => {
    const points = await planFrontier({ ...options, devices: [8, 4, 8] });
    expect([...new Set(points.map(({ devices }) => devices))]).toEqual([4, 8]);
    for (const devices of [4, 8]) {
      const own = points.filter((each) => each.devices === devices);
      expect(own.length).toBeGreaterThan(3);
      for (const [i, each] of own.entries()) {
        expect(each.plan.cluster.devices).toBe(devices);
        expect(each.plan.certificate.status).toBe("optimal");
        expect(each.memoryBytes).toBeLessThanOrEqual(each.limitBytes);
        expect(each.dollarsPerStep).toBeCloseTo((devices * 2 * each.stepSeconds) / 3600, 12);
        if (i === 0) continue;
        expect(each.stepSeconds).toBeGreaterThan(own[i - 1]!.stepSeconds);
        expect(each.memoryBytes).toBeLessThan(own[i - 1]!.memoryBytes);
      }
    }
    expect(nonDominated(points)).toHaveLength(points.length);
  });

  it("holds the plan that the same limit gives by itself, and takes it when it is known", async () => {
    const plan = await createPlan({ ...options, plain: true });
    const points = await planFrontier({ ...options, known: [plan] });
    expect(points[0]!.plan).toBe(plan);
    const third = points[2]!;
    const capacity = 40 * 2 ** 30;
    const again = await createPlan({
      ...options,
      plain: true,
      job: { ...options.job, limits: { memoryFraction: third.limitBytes / capacity, searchSeconds: 60 } },
    });
    expect(again.estimate).toEqual(third.plan.estimate);
  });

  it("leaves out device counts that nothing fits, and refuses where none does", async () => {
    const large = { ...options, model: loadModel("llama-3.1-8b"), cluster: clusterPreset("a100-40:8x2") };
    const points = await planFrontier({ ...large, devices: [1, 8], job: { globalBatch: 8, sequence: 2048 } });
    expect(new Set(points.map(({ devices }) => devices))).toEqual(new Set([8]));
    await expect(
      planFrontier({ ...large, devices: [1, 2], job: { globalBatch: 8, sequence: 2048 } }),
    ).rejects.toThrow(/Expected a plan within/);
  });
});
