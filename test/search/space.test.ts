import { describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import { checkValue, type Job, jobSchema, type Model } from "../../src/contracts/index.js";
import { loadModel } from "../../src/models/index.js";
import { transformerModel } from "../../src/models/transformer.js";
import { createPlan } from "../../src/plan/index.js";
import { describeConfiguration } from "../../src/search/candidates.js";
import type { Configuration } from "../../src/search/configuration.js";
import { costModels } from "../../src/search/joint.js";
import { LayerChains } from "../../src/search/layerChains.js";
import { Space } from "../../src/search/space.js";
import { StageCosts } from "../../src/search/stageCosts.js";
import { cuts } from "./scheduleCases.js";

/** A mixture small enough that every configuration and cut can be priced. */
function smallMixture(): Model {
  return transformerModel({
    name: "small-mixture",
    layers: 4,
    hidden: 512,
    ffn: 1024,
    heads: 8,
    keyValueHeads: 4,
    vocabulary: 1024,
    sequence: 2048,
    gated: true,
    activation: "silu",
    norm: "rms_norm",
    positions: "rotary",
    tiedEmbeddings: false,
    biases: false,
    experts: { routed: 4, topK: 2, ffn: 512, shared: 0 },
  });
}

type Wishes = Pick<Job, "globalBatch" | "sequence" | "runtime"> & { pins?: Job["pins"]; memory?: number };

function setUp(model: Model, clusterName: string, { memory, ...wishes }: Wishes) {
  const cluster = clusterPreset(clusterName);
  if (memory !== undefined) cluster.devices[0]!.memoryBytes.value = memory;
  cluster.memoryOverheads.contextBytes.value = 0;
  const job = checkValue(jobSchema, { schema: "mpopt.job/1", ...wishes }, "job");
  const models = costModels(cluster, job);
  return {
    cluster,
    job,
    models,
    space: new Space(model, cluster, job),
    chains: new LayerChains(model, models),
  };
}

function* everything(space: Space): Generator<Configuration> {
  for (const degrees of space.degrees()) yield* space.all(degrees);
}

/** Best value of 1F1B over every configuration and every cut, without bounds, reliefs in order or early ends. */
async function exhaustive(model: Model, clusterName: string, wishes: Wishes) {
  const { models, space, chains } = setUp(model, clusterName, wishes);
  let best = Number.POSITIVE_INFINITY;
  const used = new Set<string>();
  for (const configuration of everything(space)) {
    for (const chain of await chains.chains(configuration)) {
      const costs = new StageCosts(configuration, chain, models);
      const { pipeline, microBatches } = configuration;
      for (const boundaries of cuts(costs.layerCount, pipeline)) {
        const stages = Array.from(
          { length: pipeline },
          (_, i) => [boundaries[i]!, boundaries[i + 1]!] as const,
        );
        if (stages.some(([start, end], i) => costs.reservedBytes(i, start, end) > costs.limitBytes)) continue;
        const priced = stages.map(([start, end], i) => costs.seconds(i, start, end));
        const passes = priced.map((each) => each.forward + each.backward);
        const once = priced.map((each) => each.gradientSynchronisation + each.optimizer);
        const sum = passes.reduce((all, seconds) => all + seconds, 0);
        const seconds = sum + (microBatches - 1) * Math.max(...passes) + Math.max(...once);
        if (seconds < best) {
          best = seconds;
          used.add(describeConfiguration(configuration));
        }
      }
    }
  }
  return best;
}

describe("Space", () => {
  it("lists every configuration once, and names each apart", () => {
    const { space, job } = setUp(smallMixture(), "h100-sxm:4x2", {
      globalBatch: 16,
      sequence: 4096,
      runtime: "any",
    });
    const seen = new Set<string>();
    const facts = { context: 0, expert: 0, zero: new Set<number>(), offload: new Set<string>(), layers: 0 };
    for (const configuration of everything(space)) {
      const { tensor, context, pipeline, data, expert, expertTensor, microBatch, microBatches } =
        configuration;
      expect(tensor * context * pipeline * data).toBe(8);
      expect(data * microBatch * microBatches).toBe(job.globalBatch);
      expect((tensor * context * data) % (expert * expertTensor)).toBe(0);
      expect(4 % expert).toBe(0);
      const key = JSON.stringify(configuration);
      expect(seen.has(key)).toBe(false);
      seen.add(key);
      facts.context = Math.max(facts.context, context);
      facts.expert = Math.max(facts.expert, expert);
      facts.zero.add(configuration.zero);
      facts.offload.add(configuration.offload);
      facts.layers = Math.max(facts.layers, configuration.recomputeLayers);
    }
    expect(facts).toMatchObject({ context: 4, expert: 4, layers: 3 });
    expect([...facts.zero].sort()).toEqual([0, 1, 2, 3]);
    expect(facts.offload.size).toBe(4);
  });

  it("reliefs take at least as long and hold no more of what they relieve", async () => {
    const model = smallMixture();
    const { space, chains, models } = setUp(model, "h100-sxm:4x2", {
      globalBatch: 8,
      sequence: 2048,
      runtime: "any",
    });
    let compared = 0;
    for (const degrees of space.degrees()) {
      for (const shape of space.shapes(degrees).slice(0, 3)) {
        for (const root of space.roots(shape)) {
          const [chain] = await chains.chains(root);
          if (!chain) continue;
          const walk = (configuration: Configuration) => {
            const costs = new StageCosts(configuration, chain, models);
            const { layerCount } = costs;
            for (const relief of space.reliefs(configuration)) {
              const relieved = new StageCosts(relief, chain, models);
              expect(relieved.passSeconds(0, 0, layerCount)).toBeGreaterThanOrEqual(
                costs.passSeconds(0, 0, layerCount) * (1 - 1e-12),
              );
              const parameters = costs.parameters(0, 0, layerCount);
              expect(relieved.update.optimizer(parameters)).toBeGreaterThanOrEqual(
                costs.update.optimizer(parameters) * (1 - 1e-12),
              );
              expect(relieved.footprint(0, 0, layerCount).savedBytes).toBeLessThanOrEqual(
                costs.footprint(0, 0, layerCount).savedBytes,
              );
              compared++;
              walk(relief);
            }
          };
          walk(root);
        }
      }
    }
    expect(compared).toBeGreaterThan(1000);
  });

  it.each([
    ["any", "h100-sxm:2x2", {}, undefined],
    ["any", "h100-sxm:4x1", { microBatch: 1 }, 0.62e9],
    ["any", "h100-sxm:2x2", { microBatch: 1 }, 0.5e9],
    ["megatron", "h100-sxm:4x1", { microBatch: 1 }, 0.75e9],
    ["megatron", "a100-40:2x2", {}, undefined],
  ] as const)(
    "1F1B plans equal enumeration: runtime %s on %s",
    async (runtime, clusterName, pins, memory) => {
      const model = smallMixture();
      const wishes: Wishes = {
        globalBatch: 4,
        sequence: 4096,
        runtime,
        pins: { ...pins, schedule: "1f1b", chunks: 1 },
        ...(memory === undefined ? {} : { memory }),
      };
      const wanted = await exhaustive(model, clusterName, wishes);
      const { cluster, job } = setUp(model, clusterName, wishes);
      if (wanted === Number.POSITIVE_INFINITY) {
        await expect(createPlan({ model, cluster, job })).rejects.toMatchObject({ code: "E_INFEASIBLE" });
        return;
      }
      const plan = await createPlan({ model, cluster, job });
      expect(plan.estimate.stepSeconds / wanted).toBeCloseTo(1, 9);
      expect(plan.certificate.status).toBe("optimal");
    },
  );

  it("refuses pins that the runtime does not execute, naming it", () => {
    const model = loadModel("mini-llama");
    for (const pins of [
      { zero: 3 },
      { context: 2 },
      { recomputeLayers: 1 },
      { offload: "optimizer" },
    ] as const) {
      expect(() =>
        setUp(model, "h100-sxm:4x1", { globalBatch: 8, sequence: 2048, runtime: "portable", pins }),
      ).toThrow(/runtime portable/);
    }
  });

  it("gives experts the capacity that the job states, and no more", async () => {
    const model = smallMixture();
    const seconds = async (expertCapacity?: number) => {
      const { cluster } = setUp(model, "h100-sxm:4x2", { globalBatch: 8, sequence: 2048, runtime: "any" });
      // Experts of one size are called together, which saves the host more than a small mixture takes.
      for (const device of cluster.devices) delete device.callSeconds;
      const job = {
        globalBatch: 8,
        sequence: 2048,
        runtime: "any",
        pins: { expert: 4, schedule: "1f1b" },
      } as const;
      const made = { ...job, ...(expertCapacity === undefined ? {} : { expertCapacity }) };
      return (await createPlan({ model, cluster, job: made, plain: true })).estimate.stepSeconds;
    };
    const even = await seconds(1);
    expect(await seconds(2)).toBeGreaterThan(even);
    expect(await seconds()).toBeLessThanOrEqual(await seconds(1.5));
    await expect(seconds(0.5)).rejects.toMatchObject({ code: "E_FIELD" });
  });
});
