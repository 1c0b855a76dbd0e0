import { describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import { type Baseline, checkValue, type Job, jobSchema, type Pins } from "../../src/contracts/index.js";
import { loadModel } from "../../src/models/index.js";
import { evenStages, megatronBaselines } from "../../src/plan/baselines.js";
import { createPlan } from "../../src/plan/index.js";

const jobOf = (job: Partial<Job>): Job => checkValue(jobSchema, { schema: "mpopt.job/1", ...job }, "job");

async function baselines(model: string, cluster: string, job: Partial<Job>) {
  const all = await megatronBaselines(loadModel(model), clusterPreset(cluster), jobOf(job));
  return Object.fromEntries(all.map((each) => [each.rule, each])) as Record<Baseline["rule"], Baseline>;
}

/** The degrees that a baseline's description names. */
function degrees({ plan }: Baseline): { tensor: number; pipeline: number; data: number } {
  const found = (name: string) => Number(new RegExp(`${name} (\\d+)`).exec(plan!)![1]);
  return { tensor: found("tensor"), pipeline: found("pipeline"), data: found("data") };
}

/** The search's own answer under pins: its cuts may be uneven, so it is never slower and fits wherever they do. */
async function searched(model: string, cluster: string, job: Partial<Job>, pins: Pins) {
  const options = { model: loadModel(model), cluster: clusterPreset(cluster), plain: true };
  const plan = await createPlan({ ...options, job: { ...jobOf(job), pins } });
  return plan.estimate.stepSeconds;
}

describe("evenStages", () => {
  it("gives every stage as many layers, or counts embedding and loss as one each, or leaves the rest to the last", () => {
    expect(evenStages(32, 4)).toEqual([0, 8, 16, 24, 32]);
    // Llama 3 405B on 16 pipeline ranks: 7 layers first and last, 8 in all others.
    const llama = evenStages(126, 16)!;
    expect(llama.slice(1).map((end, i) => end - llama[i]!)).toEqual([7, ...new Array(14).fill(8), 7]);
    expect(evenStages(126, 16, 8)!.slice(0, 4)).toEqual([0, 0, 1, 2]);
    // DeepSeek-V3's 61 layers on 16 ranks: 4 in each but the last.
    const rest = evenStages(61, 16)!;
    expect(rest.slice(1).map((end, i) => end - rest[i]!)).toEqual([...new Array(15).fill(4), 1]);
    expect(evenStages(61, 8, 2)).toBeUndefined();
    expect(evenStages(61, 32)).toBeUndefined();
    expect(evenStages(12, 64)).toBeUndefined();
  });
});

describe("megatronBaselines", () => {
  const job = { globalBatch: 256, sequence: 8192 };
  const [model, cluster] = ["llama-3.1-70b", "h100-sxm:8x16"];

  it("follows Narayanan et al.: tensor up to the node, then pipeline, no further than it fits", async () => {
    const { sc21 } = await baselines(model, cluster, job);
    expect(degrees(sc21)).toEqual({ tensor: 8, pipeline: 4, data: 4 });
    expect(sc21.plan).toContain("recompute full");
    expect(sc21.plan).not.toMatch(/sequence parallel|ZeRO/);
    const pins = { recompute: "full", zero: 0, sequenceParallel: false, context: 1 } as const;
    const found = await searched(model, cluster, job, { ...pins, tensor: 8, pipeline: 4 });
    // 80 layers in 4 equal stages: the search may only move layers away from the head's stage.
    expect(sc21.stepSeconds).toBeGreaterThanOrEqual(found * (1 - 1e-9));
    expect(sc21.stepSeconds).toBeLessThan(found * 1.05);
    for (const pipeline of [1, 2]) {
      await expect(
        searched(model, cluster, job, { ...pins, microBatch: 1, tensor: 8, pipeline }),
      ).rejects.toThrow(/plan within .* but the smallest one found needs/);
    }
  });

  it("takes the smallest product that fits, and of it the larger tensor degree", async () => {
    const { "smallest-degree": smallest } = await baselines(model, cluster, job);
    const { tensor, pipeline } = degrees(smallest);
    expect({ tensor, pipeline }).toEqual({ tensor: 8, pipeline: 1 });
    expect(smallest.plan).toContain("ZeRO-1");
    const pins = {
      zero: 1,
      context: 1,
      offload: "none",
      microBatch: 1,
      recompute: "full",
      sequenceParallel: true,
    } as const;
    for (const [t, p] of [
      [4, 1],
      [2, 2],
      [1, 4],
    ]) {
      await expect(
        searched(model, cluster, job, { ...pins, tensor: t, pipeline: p, data: 32 }),
      ).rejects.toThrow(/plan within/);
    }
  });

  it("keeps tensor parallelism on the node with sequence parallelism and selective recomputation", async () => {
    const { "node-tensor": node } = await baselines(model, cluster, job);
    expect(degrees(node)).toEqual({ tensor: 8, pipeline: 2, data: 8 });
    expect(node.plan).toMatch(/sequence parallel, ZeRO-1, recompute selective/);
  });

  it("gives what Korthikanti et al. 2022 ran, tables 3 and 5: degrees, and times within 15 %", async () => {
    // Devices on A100, batch, pipeline degree, seconds with full and with selective recomputation.
    const rows = [
      ["megatron-22b", "a100-80:8x1", 4, 1, 1.42, 1.1],
      ["megatron-175b", "a100-80:8x8", 64, 8, 18.13, 13.75],
      ["megatron-530b", "a100-80:8x35", 280, 35, 49.05, 37.83],
      ["megatron-1t", "a100-80:8x64", 512, 64, 94.42, 71.49],
    ] as const;
    for (const [name, on, globalBatch, pipeline, full, selective] of rows) {
      const work = jobOf({ globalBatch, sequence: 2048, runtime: "megatron" });
      const written = loadModel(name, { kernels: { attention: "materialized", dropout: true } });
      const [sc21, , node] = await megatronBaselines(written, clusterPreset(on), work);
      for (const [rule, seconds] of [
        [sc21!, full],
        [node!, selective],
      ] as const) {
        expect(degrees(rule), name).toEqual({ tensor: 8, pipeline, data: 1 });
        expect(Math.abs(rule.stepSeconds! / seconds - 1), `${name} ${rule.stepSeconds}`).toBeLessThan(0.15);
      }
    }
  });

  it("is never faster than the plan that is proven optimal", async () => {
    const cases = [
      ["llama-3.1-8b", "h100-sxm:8x1", { globalBatch: 64, sequence: 4096 }],
      ["llama-3.1-8b", "a100-40:8x4", { globalBatch: 128, sequence: 8192 }],
      ["gpt2", "a100-80:4x2", { globalBatch: 64, sequence: 1024 }],
    ] as const;
    for (const [name, on, what] of cases) {
      const plan = await createPlan({ model: loadModel(name), cluster: clusterPreset(on), job: what });
      expect(plan.certificate.status).toBe("optimal");
      expect(plan.baselines).toHaveLength(3);
      for (const { rule, stepSeconds, memoryBytes, reason } of plan.baselines!) {
        if (stepSeconds === undefined) {
          expect(reason).toMatch(/does not fit|divide/);
          continue;
        }
        expect(stepSeconds, `${name} ${rule}`).toBeGreaterThanOrEqual(plan.estimate.stepSeconds * (1 - 1e-9));
        expect(memoryBytes).toBeLessThanOrEqual(plan.estimate.memory[0]!.limitBytes);
      }
    }
  });

  it("interleaves where the runtime does, when that is faster", async () => {
    const megatron = await baselines(model, cluster, { ...job, runtime: "megatron" });
    const portable = await baselines(model, cluster, job);
    expect(megatron["node-tensor"].plan).toMatch(/interleaved chunks$/);
    expect(megatron["node-tensor"].stepSeconds).toBeLessThan(portable["node-tensor"].stepSeconds!);
  });

  it("shares experts inside a node where the runtime does, save in the rule that knows none", async () => {
    const moe = ["mixtral-8x7b", "h100-sxm:8x8"] as const;
    const work = { globalBatch: 256, sequence: 4096 };
    const megatron = await baselines(...moe, { ...work, runtime: "megatron" });
    const portable = await baselines(...moe, work);
    for (const rule of ["smallest-degree", "node-tensor"] as const) {
      expect(megatron[rule].plan).toMatch(/expert 8/);
      expect(portable[rule].plan).not.toMatch(/expert \d/);
      expect(megatron[rule].stepSeconds).toBeGreaterThan(0);
    }
    expect(megatron.sc21.plan).not.toMatch(/expert \d/);
  });

  it("says why a rule gives no plan", async () => {
    const tight = await baselines("llama-3.1-405b", "h100-sxm:8x1", { globalBatch: 8, sequence: 4096 });
    for (const baseline of Object.values(tight)) {
      expect(baseline.stepSeconds).toBeUndefined();
      expect(baseline.reason).toContain("does not fit");
      expect(baseline.memoryBytes).toBeGreaterThan(80 * 2 ** 30);
      expect(degrees(baseline).data).toBe(1);
    }
    // Five devices do not share 12 heads.
    const odd = await baselines("gpt2", "a100-80:5x1", { globalBatch: 5, sequence: 1024 });
    expect(odd["node-tensor"]).toEqual({
      rule: "node-tensor",
      reason: expect.stringMatching(/no degrees that it allows divide/),
    });
    expect(odd["smallest-degree"].stepSeconds).toBeGreaterThan(0);
  });
});
