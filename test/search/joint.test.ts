import { describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import { checkValue, jobSchema } from "../../src/contracts/index.js";
import { loadModel } from "../../src/models/index.js";
import { createPlan } from "../../src/plan/index.js";
import { costModels, searchPlan } from "../../src/search/joint.js";
import { LayerChains } from "../../src/search/layerChains.js";
import { Space } from "../../src/search/space.js";
import { StageCosts } from "../../src/search/stageCosts.js";

/** Best value over every configuration and every cut, without bounds, cutoffs or dynamic programming. */
async function exhaustive(modelName: string, clusterName: string, globalBatch: number, sequence: number) {
  const model = loadModel(modelName);
  const cluster = clusterPreset(clusterName);
  const job = checkValue(jobSchema, { schema: "mpopt.job/1", globalBatch, sequence }, "job");
  const models = costModels(cluster, job);
  const chains = new LayerChains(model, models);
  const layers = model.layers.filter((layer) => layer.kind === "block").length;
  let best = Number.POSITIVE_INFINITY;
  const space = new Space(model, cluster, job);
  for (const degrees of space.degrees()) {
    for (const configuration of space.all(degrees)) {
      const chain = await chains.chain(configuration);
      if (!chain) continue;
      const costs = new StageCosts(configuration, chain, models);
      const { pipeline, microBatches } = configuration;
      const cut = (boundaries: number[]) => {
        const stage = boundaries.length - 1;
        const start = boundaries[stage]!;
        if (stage === pipeline) {
          if (start !== layers) return;
          const stages = boundaries.slice(1).map((end, i) => costs.seconds(i, boundaries[i]!, end));
          const passes = stages.map((each) => each.forward + each.backward);
          const once = stages.map((each) => each.gradientSynchronisation + each.optimizer);
          const sum = passes.reduce((all, seconds) => all + seconds, 0);
          best = Math.min(best, sum + (microBatches - 1) * Math.max(...passes) + Math.max(...once));
          return;
        }
        const mayBeEmpty = pipeline > 1 && (stage === 0 || stage === pipeline - 1);
        for (let end = start + (mayBeEmpty ? 0 : 1); end <= layers; end++) {
          if (costs.reservedBytes(stage, start, end) <= costs.limitBytes) cut([...boundaries, end]);
        }
      };
      cut([0]);
    }
  }
  return best;
}

describe("searchPlan", () => {
  it.each([
    ["gpt2", "a100-40:4x1", 16, 1024],
    ["gpt2", "h100-sxm:2x3", 12, 512],
    ["mini-llama", "h100-sxm:2x4", 24, 2048],
    ["mini-llama", "a100-40:8x1", 8, 4096],
    ["mixtral-8x7b", "h100-sxm:8x2", 16, 4096],
  ])("equals exhaustive enumeration: %s on %s", async (model, cluster, globalBatch, sequence) => {
    const wanted = await exhaustive(model, cluster, globalBatch, sequence);
    const plan = await createPlan({
      model: loadModel(model),
      cluster: clusterPreset(cluster),
      job: { globalBatch, sequence },
    });
    expect(plan.certificate.status).toBe("optimal");
    expect(plan.certificate.gap).toBe(0);
    expect(plan.certificate.objective / wanted).toBeCloseTo(1, 12);
  });

  it("gives the same plan for the same input", async () => {
    const make = () =>
      createPlan({
        model: loadModel("llama-3.1-8b"),
        cluster: clusterPreset("h100-sxm:8x4"),
        job: { globalBatch: 64, sequence: 8192 },
      });
    const [first, second] = [await make(), await make()];
    const timeless = ({ certificate, provenance, ...plan }: typeof first) => plan;
    expect(timeless(second)).toEqual(timeless(first));
  });

  it("names the memory that is missing when a model fits nowhere", async () => {
    const search = createPlan({
      model: loadModel("llama-3.1-405b"),
      cluster: clusterPreset("a100-40:8x1"),
      job: { globalBatch: 8, sequence: 4096 },
    });
    await expect(search).rejects.toMatchObject({
      code: "E_INFEASIBLE",
      message: expect.stringMatching(
        /^Expected a plan within 37\.6 GiB a device but the smallest one found needs \d/,
      ),
    });
  });

  it("names the batch that nothing divides", async () => {
    const search = createPlan({
      model: loadModel("gpt2"),
      cluster: clusterPreset("h100-sxm:8x256"),
      job: { globalBatch: 7, sequence: 1024 },
    });
    await expect(search).rejects.toMatchObject({
      code: "E_INFEASIBLE",
      message: "Expected a global batch that some data-parallel degree divides but found 7 for 2048 devices.",
    });
  });

  it("names the head count that a pinned tensor degree does not divide", async () => {
    const search = createPlan({
      model: loadModel("gpt2"),
      cluster: clusterPreset("h100-sxm:8x1"),
      job: { globalBatch: 8, sequence: 1024, pins: { tensor: 8 } },
    });
    await expect(search).rejects.toMatchObject({
      code: "E_INFEASIBLE",
      message: expect.stringMatching(/head 12/),
    });
  });

  it("stops when asked", async () => {
    const controller = new AbortController();
    controller.abort(new Error("enough"));
    const search = searchPlan(
      loadModel("gpt2"),
      clusterPreset("h100-sxm:8x1"),
      checkValue(jobSchema, { schema: "mpopt.job/1", globalBatch: 8, sequence: 1024 }, "job"),
      { signal: controller.signal },
    );
    await expect(search).rejects.toThrow("enough");
  });

  it("keeps every pin", async () => {
    const plan = await createPlan({
      model: loadModel("llama-3.1-8b"),
      cluster: clusterPreset("h100-sxm:8x2"),
      job: {
        globalBatch: 16,
        sequence: 2048,
        pins: {
          data: 2,
          tensor: 4,
          pipeline: 2,
          microBatch: 2,
          recompute: "full",
          zero: 0,
          sequenceParallel: false,
        },
      },
    });
    expect(plan.mesh).toMatchObject({ sizes: [2, 2, 4], sequenceParallel: false });
    expect(plan.batch.micro).toBe(2);
    expect(plan.optimizer.zero).toBe(0);
    expect(plan.stages.every((stage) => stage.recompute === "full")).toBe(true);
    expect(plan.estimate.hfu).toBeGreaterThan(plan.estimate.mfu);
  });
});

describe("a runtime without limits", () => {
  it("is never slower than the portable one where free shardings would not fit", async () => {
    const search = async (runtime: string) => {
      const job = {
        schema: "mpopt.job/1",
        globalBatch: 32,
        sequence: 8192,
        runtime,
        pins: { schedule: "1f1b" },
      };
      const model = loadModel("llama-3.1-8b");
      const found = await searchPlan(model, clusterPreset("a100-40:4x2"), checkValue(jobSchema, job, "job"));
      return found.certificate.objective;
    };
    expect(await search("any")).toBeLessThanOrEqual((await search("portable")) * (1 + 1e-12));
  });
});
