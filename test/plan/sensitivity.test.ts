import { describe, expect, it } from "vitest";
import { clusterPreset, withLinkSpeed } from "../../src/cluster/index.js";
import type { Cluster, Job, Plan, Sensitivity } from "../../src/contracts/index.js";
import { loadModel } from "../../src/models/index.js";
import { createPlan, estimatePlan } from "../../src/plan/index.js";
import { planSensitivity } from "../../src/plan/sensitivity.js";

const model = loadModel("llama-3.1-8b");
const cluster = clusterPreset("h100-sxm:8x2");

async function planned(job: Partial<Job>, on: Cluster = cluster): Promise<Plan> {
  return createPlan({ model, cluster: on, job: { globalBatch: 32, sequence: 4096, ...job }, plain: true });
}

const find = (all: readonly Sensitivity[], words: RegExp) => all.find(({ change }) => words.test(change));

describe("planSensitivity", () => {
  it("prices the same plan again on the changed cluster", async () => {
    const plan = await planned({ pins: { tensor: 8, pipeline: 2, data: 1 } });
    const all = planSensitivity(plan, model, cluster);
    const node = find(all, /links inside the node/)!;
    const again = estimatePlan(plan, model, withLinkSpeed(cluster, 2, "node"));
    expect(node.stepSeconds).toBe(again.stepSeconds);
    expect(node.relieves[0]).toBe("tensorCommunication");
    const gains = all.map(({ tokensPerSecond }) => tokensPerSecond);
    expect(gains).toEqual([...gains].sort((a, b) => b - a));
    for (const { tokensPerSecond } of all)
      expect(tokensPerSecond).toBeGreaterThan(plan.estimate.tokensPerSecond);
    // All of the exposed tensor communication is the most that any link could save of it.
    const hidden = find(all, /tensor-parallel communication wholly/)!;
    expect(hidden.ideal).toBe(true);
    expect(hidden.stepSeconds).toBeLessThan(node.stepSeconds);
    expect(node.ideal).toBeUndefined();
  });

  it("counts what more micro-batches gain a token, not a step", async () => {
    const plan = await planned({ pins: { tensor: 2, pipeline: 8, data: 1, microBatch: 4 } });
    const batch = find(planSensitivity(plan, model, cluster), /twice the global batch/)!;
    expect(batch.stepSeconds).toBeGreaterThan(1.3 * plan.estimate.stepSeconds);
    expect(batch.relieves[0]).toBe("bubble");
    // 8 stages, 8 micro-batches: (8 + 7) / 8 of the work against (16 + 7) / 16, and the update once a step.
    const gain = batch.tokensPerSecond / plan.estimate.tokensPerSecond;
    expect(gain).toBeGreaterThan(1.2);
    expect(gain).toBeLessThan(1.35);
  });

  it("says what memory for all activations would be worth", async () => {
    const plan = await planned({ pins: { recompute: "full" } });
    const memory = find(planSensitivity(plan, model, cluster), /nothing recomputed/)!;
    expect(memory.relieves[0]).toBe("recompute");
    expect(memory.stepSeconds).toBeCloseTo(plan.estimate.stepSeconds - plan.estimate.terms.recompute, 1);
    const none = await planned({ pins: { recompute: "none" } });
    expect(find(planSensitivity(none, model, cluster), /nothing recomputed/)).toBeUndefined();
  });

  it("tells devices from memory: products twice as fast save most of the compute, and less than all of it", async () => {
    const plan = await planned({});
    const all = planSensitivity(plan, model, cluster);
    const products = find(all, /matrix products and attention twice/)!;
    const memory = find(all, /device memory twice/)!;
    expect(products.relieves[0]).toBe("compute");
    expect(products.stepSeconds).toBeLessThan(plan.estimate.stepSeconds * 0.7);
    expect(products.stepSeconds).toBeGreaterThan(plan.estimate.stepSeconds / 2);
    expect(memory.stepSeconds).toBeGreaterThan(products.stepSeconds);
  });

  it("uses the schedule of the plan, whatever times it", async () => {
    const plan = await planned({
      runtime: "megatron",
      pins: { tensor: 2, pipeline: 4, schedule: "interleaved", chunks: 2, context: 1, microBatch: 1 },
    });
    const all = planSensitivity(plan, model, cluster);
    expect(find(all, /twice the global batch/)!.relieves).toContain("bubble");
    const node = find(all, /links inside the node/)!;
    expect(node.stepSeconds).toBe(estimatePlan(plan, model, withLinkSpeed(cluster, 2, "node")).stepSeconds);
  });

  it("asks a faster host where the plan waits for it", async () => {
    const job = { globalBatch: 16, sequence: 4096, runtime: "any" as const };
    const offloaded = await planned({
      ...job,
      pins: { offload: "optimizer", tensor: 8, pipeline: 1, data: 2 },
    });
    const links = find(planSensitivity(offloaded, model, cluster), /host memory twice/)!;
    expect(["offload", "optimizer"]).toContain(links.relieves[0]);
    const slow = { value: 2e-3, provenance: "assumed" as const, source: "test" };
    const devices = cluster.devices.map((device) => ({
      ...device,
      callSeconds: { forward: slow, backward: slow },
    }));
    const plan = await planned({ pins: { tensor: 8, pipeline: 1, data: 2 } }, { ...cluster, devices });
    expect(plan.estimate.terms.host).toBeGreaterThan(0);
    const calls = find(planSensitivity(plan, model, { ...cluster, devices }), /calls of the framework/)!;
    expect(calls.relieves[0]).toBe("host");
  });

  it("asks nothing of links where there is one device", async () => {
    const [one, small] = [clusterPreset("h200-sxm:1x1"), loadModel("gpt2")];
    const job = { globalBatch: 4, sequence: 1024 };
    const plan = await createPlan({ model: small, cluster: one, job, plain: true });
    const words = planSensitivity(plan, small, one).map(({ change }) => change);
    expect(words.join()).not.toMatch(/links inside|network/);
    expect(words.length).toBeGreaterThan(0);
  });
});
