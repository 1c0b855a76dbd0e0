import { describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import { type Architecture, checkValue, type Job, jobSchema, type Plan } from "../../src/contracts/index.js";
import { exporters } from "../../src/launch/index.js";
import { type TransformerDimensions, transformerModel } from "../../src/models/transformer.js";
import type { Configuration } from "../../src/search/configuration.js";
import { Space } from "../../src/search/space.js";
import { makePlan } from "./planFactory.js";

const dense: TransformerDimensions = {
  name: "small",
  layers: 4,
  hidden: 512,
  ffn: 1024,
  heads: 8,
  keyValueHeads: 4,
  vocabulary: 1024,
  sequence: 8192,
  gated: true,
  activation: "silu",
  norm: "rms_norm",
  positions: "rotary",
  tiedEmbeddings: false,
  biases: false,
};
const latent = { queryRank: 64, keyValueRank: 64, ropeHeadSize: 32, noRopeHeadSize: 32, valueHeadSize: 32 };

const models: Record<string, TransformerDimensions> = {
  "a dense model": dense,
  "a mixture": { ...dense, experts: { routed: 4, topK: 2, ffn: 512 } },
  "sliding windows": { ...dense, slidingWindow: { window: 1024, every: 2 } },
  "tied embeddings": { ...dense, tiedEmbeddings: true },
  "latent attention": { ...dense, heads: 8, keyValueHeads: 8, latent },
};

/** A plan of one configuration, its layers divided as evenly as they can be. */
function planOf(configuration: Configuration, architecture: Architecture, runtime: Job["runtime"]): Plan {
  const { expert, expertTensor, tensor, context, data, shards, zero, offload } = configuration;
  const plan = makePlan({
    ...configuration,
    deviceType: "cuda",
    parameters: "bf16",
    layers: architecture.layers,
    sequence: architecture.maxSequence,
    micro: configuration.microBatch,
    architecture,
    shards: zero > 0 && shards !== data * context ? shards : undefined,
    offload: offload === "none" ? undefined : offload,
    experts: expert > 1 || expertTensor !== tensor ? { expert, tensor: expertTensor } : undefined,
  });
  return { ...plan, job: { ...plan.job, runtime } };
}

/** Mixtures that split experts over tensor ranks leave PyTorch's launcher out, or few would fit under `portable`. */
const splitExperts = /^Experts are split over tensor ranks/;

/** Models that a runtime's launcher does not build at all, whatever the configuration. */
const notBuilt: Readonly<Record<string, readonly string[]>> = { torchtitan: ["sliding windows"] };

describe("every configuration that a runtime's search may choose has a launcher", () => {
  for (const runtime of [
    "megatron",
    "torch",
    "torchtitan",
    "portable",
    "deepspeed",
    "accelerate",
    "jax",
  ] as const) {
    const launchers = runtime === "portable" ? ["megatron", "torch"] : [runtime];
    for (const [title, dimensions] of Object.entries(models)) {
      if (notBuilt[runtime]?.includes(title)) continue;
      it(`${runtime}, ${title}`, () => {
        const model = transformerModel(dimensions);
        const job = checkValue(
          jobSchema,
          { schema: "mpopt.job/1", globalBatch: 16, sequence: 8192, runtime },
          "job",
        );
        const space = new Space(model, clusterPreset("h100-sxm:4x2"), job);
        const lost = new Set<string>();
        let count = 0;
        for (const degrees of space.degrees()) {
          for (const configuration of space.all(degrees)) {
            count += 1;
            const plan = planOf(configuration, model.architecture!, runtime);
            for (const name of launchers) {
              for (const each of exporters[name]!.lossy(plan)) {
                if (runtime !== "portable" || !splitExperts.test(each)) lost.add(each);
              }
            }
          }
        }
        expect(count).toBeGreaterThanOrEqual(20);
        expect([...lost]).toEqual([]);
      });
    }
  }
});
