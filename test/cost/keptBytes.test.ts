import { describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import { checkValue, jobSchema } from "../../src/contracts/index.js";
import { MemoryModel, stateBytes } from "../../src/cost/memory.js";
import type { Kernels } from "../../src/models/graph.js";
import { transformerModel } from "../../src/models/transformer.js";
import { singleDevice } from "../../src/search/configuration.js";
import { costModels } from "../../src/search/joint.js";
import { LayerChains } from "../../src/search/layerChains.js";

const cluster = clusterPreset("a100-80:8x1");
const dtypes = { parameters: "bf16", gradients: "f32", optimizer: "f32" } as const;
const job = (kept: object = {}) =>
  checkValue(
    jobSchema,
    { schema: "mpopt.job/1", globalBatch: 8, sequence: 512, dtypes: { ...dtypes, ...kept } },
    "job",
  );

describe("gradients of a micro-batch that stay beside their sums", () => {
  const held = {
    parameters: { dense: 1000, expert: 0 },
    savedBytes: 0,
    inFlight: 0,
    recomputedBytes: 0,
    logitsBytes: 0,
    workspaceBytes: 0,
  };
  const sharding = { zero: 2, shards: 4, expertShards: 4, offloadOptimizer: false } as const;
  const memory = (kept?: object) => new MemoryModel(cluster, cluster.devices[0]!, job(kept));

  it("take memory, whole on every rank, and are not what is sent", () => {
    expect(memory().terms(held, sharding).gradients).toBe(1000);
    const copies = { microBatchGradients: "bf16" };
    expect(memory(copies).terms(held, sharding).gradients).toBe(3000);
    expect(memory(copies).bytesEach(sharding).dense - memory().bytesEach(sharding).dense).toBe(2);
    expect(stateBytes(job(copies)).gradient).toBe(4);
  });
});

describe("bytes of the loss", () => {
  const logits = 512 * 1024;
  const head = async (loss?: Kernels["loss"]) => {
    const model = transformerModel(
      {
        name: "small",
        layers: 1,
        hidden: 64,
        ffn: 256,
        heads: 4,
        keyValueHeads: 4,
        vocabulary: 1024,
        sequence: 512,
        gated: false,
        activation: "gelu",
        norm: "layer_norm",
        positions: "rotary",
        tiedEmbeddings: false,
        biases: false,
      },
      loss ? { loss } : {},
    );
    const chain = await new LayerChains(model, costModels(cluster, job())).chain(singleDevice);
    const { logitsBytes, logitsGradientBytes } = chain!.head.at(-1)!;
    return [logitsBytes / logits, logitsGradientBytes / logits];
  };

  it.each([
    // Bytes a logit in all, and of them those of the gradient.
    [undefined, 6, 2],
    ["fused", 6, 2],
    ["eager", 14, 10],
    ["compiled", 4, 2],
    ["inPlace", 2, 0],
  ] as const)("%s", async (loss, all, gradient) => {
    expect(await head(loss)).toEqual([all, gradient]);
  });
});
