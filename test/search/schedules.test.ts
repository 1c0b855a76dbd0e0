import { describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import { checkValue, jobSchema } from "../../src/contracts/index.js";
import { loadModel } from "../../src/models/index.js";
import { createPlan } from "../../src/plan/index.js";
import { simulatePlan } from "../../src/schedule/index.js";
import { layoutOfTable } from "../../src/search/layout.js";
import { openSchedules } from "../../src/search/scheduleChoices.js";
import { Space } from "../../src/search/space.js";
import { StageCosts } from "../../src/search/stageCosts.js";
import { cuts, price, setUp, tablesFor, tailSeconds, type Wishes } from "./scheduleCases.js";

describe("createPlan over schedules", () => {
  it.each([
    ["tiny-gpt", "a100-40:4x1", { globalBatch: 8, sequence: 256, runtime: "torch", pins: { pipeline: 2 } }],
    ["tiny-gpt", "h100-sxm:2x2", { globalBatch: 12, sequence: 256, runtime: "torch", pins: { pipeline: 4 } }],
    [
      "tiny-gpt",
      "a100-40:4x1",
      { globalBatch: 8, sequence: 256, runtime: "megatron", pins: { pipeline: 2, data: 2 } },
    ],
  ] as [string, string, Wishes][])(
    "finds what enumeration of all cuts and named schedules finds, or less: %s on %s",
    async (name, clusterName, wishes) => {
      const { model, cluster, job, models, blocks, chains } = setUp(name, clusterName, wishes);
      const names = new Set(openSchedules(job));
      let least = Number.POSITIVE_INFINITY;
      const space = new Space(model, cluster, job);
      for (const degrees of space.degrees()) {
        for (const configuration of space.all(degrees)) {
          const chain = await chains.chain(configuration);
          if (!chain) continue;
          for (const table of tablesFor(degrees.pipeline, configuration.microBatches, blocks)) {
            if (!names.has(table.name)) continue;
            const interleaves = table.name === "interleaved" && job.runtime === "megatron";
            if (
              interleaves &&
              (table.stages === table.ranks.length || configuration.microBatches % degrees.pipeline)
            )
              continue;
            const costs = new StageCosts(configuration, chain, models, layoutOfTable(table));
            for (const boundaries of cuts(blocks, table.stages)) {
              const { seconds } = price(costs, boundaries, table);
              const once = tailSeconds(costs, boundaries, table);
              least = Math.min(least, seconds + once);
            }
          }
        }
      }
      const plan = await createPlan({ model, cluster, job });
      const { objective, bound, status, gap } = plan.certificate;
      expect(bound).toBeLessThanOrEqual(least * (1 + 1e-9));
      // Single moves from an even cut find the best of all cuts here; a searched order may beat every named one.
      expect(objective / least).toBeLessThan(1 + 1e-3);
      if (!plan.schedule.actions) expect(objective / least).toBeGreaterThan(1 - 1e-9);
      expect(gap).toBeCloseTo((objective - bound) / objective, 12);
      expect(status === "optimal").toBe(bound >= objective * (1 - 1e-12));
      const simulated = simulatePlan(plan);
      expect(simulated.stepSeconds / plan.estimate.stepSeconds).toBeCloseTo(1, 9);
    },
    30_000,
  );

  const large = { model: loadModel("llama-3.1-8b"), cluster: clusterPreset("h100-sxm:8x2") };
  const job: Wishes = {
    globalBatch: 32,
    sequence: 4096,
    pins: { pipeline: 4, tensor: 2, data: 2, microBatch: 1 },
  };
  const planned = (wishes: Partial<Wishes>) => createPlan({ ...large, job: { ...job, ...wishes } });

  it("leaves 1F1B where another schedule is faster and the runtime executes it", async () => {
    const seconds: Record<string, number> = {};
    for (const runtime of ["torch", "megatron"] as const) {
      const flush = await planned({ runtime, pins: { ...job.pins, schedule: "1f1b" } });
      expect(flush.schedule.name).toBe("1f1b");
      expect(flush.certificate.status).toBe("optimal");
      seconds[runtime] = simulatePlan(flush).stepSeconds;
    }
    const torch = await planned({ runtime: "torch" });
    const megatron = await planned({ runtime: "megatron" });
    expect(["1f1b", "interleaved"]).toContain(megatron.schedule.name);
    expect(torch.schedule.name).not.toBe("1f1b");
    expect(megatron.schedule.name).toBe("interleaved");
    expect(megatron.schedule.microBatches % 4).toBe(0);
    expect(megatron.estimate.stepSeconds).toBeLessThan(0.97 * seconds.megatron!);
    expect(torch.estimate.stepSeconds).toBeLessThan(0.97 * seconds.torch!);
    expect(torch.rejected.some(({ plan }) => /, 1f1b$/.test(plan))).toBe(true);
    for (const plan of [torch, megatron]) {
      const { terms, stepSeconds } = plan.estimate;
      const sum = Object.values(terms).reduce((all, seconds) => all + seconds, 0);
      expect(sum / stepSeconds).toBeCloseTo(1, 9);
      expect(plan.certificate.bound).toBeLessThan(plan.certificate.objective);
      expect(plan.certificate.status).toBe("feasible");
    }
  }, 30_000);

  it("does not take a schedule that memory forbids", async () => {
    const pins = { ...job.pins, recompute: "none" as const, recomputeLayers: 0, zero: 1 as const };
    const at = (memoryFraction: number, schedule: string) =>
      planned({
        runtime: "torch",
        limits: { memoryFraction, searchSeconds: 60 },
        pins: { ...pins, schedule },
      });
    const roomy = await at(0.94, "zb-h2");
    const peak = Math.max(...roomy.estimate.memory.map((entry) => entry.reservedBytes));
    const lean = await at(0.94, "zb-h1");
    const leanPeak = Math.max(...lean.estimate.memory.map((entry) => entry.reservedBytes));
    // ZB-H2 holds nearly twice as many micro-batches.
    expect(leanPeak).toBeLessThan(0.8 * peak);
    // Ranks with many micro-batches give up layers to others, so that a little less room does not forbid it yet.
    const between = (0.94 * (0.15 * peak + 0.85 * leanPeak)) / roomy.estimate.memory[0]!.limitBytes;
    await expect(at(between, "zb-h2")).rejects.toMatchObject({ code: "E_INFEASIBLE" });
    const tight = await at(between, "zb-h1");
    expect(tight.schedule.name).toBe("zb-h1");
    const free = await planned({
      runtime: "torch",
      limits: { memoryFraction: between, searchSeconds: 60 },
      pins,
    });
    expect(free.schedule.name).not.toBe("zb-h2");
    for (const { reservedBytes, limitBytes } of free.estimate.memory) {
      expect(reservedBytes).toBeLessThanOrEqual(limitBytes);
    }
  }, 30_000);

  it("keeps pinned schedules and chunks, and refuses what the runtime does not execute", async () => {
    const pinned = await planned({
      runtime: "torch",
      pins: { ...job.pins, schedule: "Interleaved1F1B", chunks: 2 },
    });
    expect(pinned.schedule.name).toBe("interleaved");
    expect(pinned.stages.map(({ rank, chunk }) => [rank, chunk])).toEqual(
      [0, 1, 2, 3, 4, 5, 6, 7].map((stage) => [stage % 4, Math.floor(stage / 4)]),
    );
    const refused = planned({ runtime: "portable", pins: { schedule: "zbv" } });
    await expect(refused).rejects.toMatchObject({
      code: "E_USAGE",
      message: "Expected a schedule that runtime portable executes (1f1b) but found zbv pinned.",
    });
    await expect(planned({ runtime: "megatron", pins: { schedule: "zig-zag" } })).rejects.toMatchObject({
      code: "E_PLAN_INVALID",
    });
    await expect(planned({ runtime: "portable", pins: { chunks: 2 } })).rejects.toMatchObject({
      code: "E_INFEASIBLE",
      message: expect.stringMatching(/among 1f1b for 2 chunks a rank/),
    });
    expect(
      openSchedules(checkValue(jobSchema, { schema: "mpopt.job/1", ...job, runtime: "any" }, "job")),
    ).not.toContain("2bw");
  }, 30_000);

  it("counts both copies of a bidirectional schedule, and the weight versions of one without a flush", async () => {
    // Without tensor parallelism all plans have the same shardings.
    const pins = { ...job.pins, tensor: 1, data: 4 };
    const flush = await planned({ runtime: "any", pins: { ...pins, schedule: "1f1b" } });
    const held = (plan: typeof flush) =>
      plan.estimate.memory.reduce((sum, { terms }) => sum + terms.parameters, 0);
    const dual = await planned({ runtime: "any", pins: { ...pins, schedule: "dualpipe" } });
    expect(dual.stages.map(({ rank }) => rank)).toEqual([0, 1, 2, 3]);
    expect(held(dual) / held(flush)).toBeCloseTo(2, 6);
    const buffered = await planned({ runtime: "any", pins: { ...pins, schedule: "2bw" } });
    expect(buffered.schedule.name).toBe("2bw");
    expect(held(buffered) / held(flush)).toBeCloseTo(2, 6);
    const folded = await planned({ runtime: "torch", pins: { ...job.pins, schedule: "dualpipev" } });
    for (const plan of [flush, dual, buffered, folded]) {
      simulatePlan(plan, { memory: true }).pipeline.ranks.forEach(({ memory }, rank) => {
        const { allocatedBytes, reservedBytes } = plan.estimate.memory[rank]!;
        expect(memory!.peakAllocatedBytes / allocatedBytes).toBeCloseTo(1, 6);
        expect(memory!.reservedBytes / reservedBytes).toBeCloseTo(1, 6);
      });
    }
  }, 30_000);

  it("gives the same plan for the same input", async () => {
    const make = () => planned({ runtime: "torch", pins: { pipeline: 4 } });
    const [first, second] = [await make(), await make()];
    const timeless = ({ certificate, provenance, ...plan }: typeof first) => plan;
    expect(timeless(second)).toEqual(timeless(first));
  }, 30_000);
});
