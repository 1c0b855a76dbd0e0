import { describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import type { Cluster, Job, Runtime } from "../../src/contracts/index.js";
import { transformerModel } from "../../src/models/transformer.js";
import { singleDevice } from "../../src/search/configuration.js";
import { costModels } from "../../src/search/joint.js";
import { LayerChains } from "../../src/search/layerChains.js";
import { type PricedLayer, priceChain } from "../../src/search/pricedLayer.js";
import { UpdateCosts } from "../../src/search/updateCosts.js";

const model = transformerModel({
  name: "small",
  layers: 2,
  hidden: 2048,
  ffn: 8192,
  heads: 16,
  keyValueHeads: 16,
  vocabulary: 32_000,
  sequence: 2048,
  gated: false,
  activation: "gelu",
  norm: "layer_norm",
  positions: "learned",
  tiedEmbeddings: true,
  biases: false,
});

const preset = clusterPreset("a100-80:8x1");

const jobOf = (runtime: Runtime): Job => ({
  schema: "mpopt.job/1",
  globalBatch: 8,
  sequence: 2048,
  dtypes: { parameters: "bf16", gradients: "f32", optimizer: "f32" },
  optimizer: "adam",
  runtime,
  pins: {},
  objective: "time",
  limits: { memoryFraction: 1, searchSeconds: 10 },
});

/** The first block under ZeRO of a stage over 8 devices. */
async function block(
  runtime: Runtime,
  { zero = 3 as const, cluster = preset, microBatches = 2, tensor = 1 }: Partial<Setting> = {},
): Promise<PricedLayer> {
  const data = 8 / tensor;
  const shards = zero > 0 ? data : 1;
  const plan = { data, shards, tensor, sequenceParallel: tensor > 1, zero, microBatches };
  const configuration = { ...singleDevice, ...plan };
  const models = costModels(cluster, jobOf(runtime));
  const chain = await new LayerChains(model, models).chain(configuration, "megatron");
  return priceChain(chain!, configuration, models).blocks[0]!;
}

interface Setting {
  zero: 0 | 2 | 3;
  cluster: Cluster;
  microBatches: number;
  tensor: number;
}

/** Every collective hides as far as compute reaches. */
const hiding: Cluster = {
  ...preset,
  overlap: {
    ...preset.overlap,
    parameterGather: { value: 1, provenance: "assumed", source: "test" },
  },
};

describe("the gathers of ZeRO", () => {
  it("copy under PyTorch what Megatron-FSDP computes with in place: 4 bytes twice and 6 of gradients", async () => {
    const torch = await block("torch", { cluster: hiding });
    const megatron = await block("megatron", { cluster: hiding });
    expect(megatron.parameterGather).toBe(0);
    const rate = preset.devices[0]!.memoryBytesPerSecond.value * 0.75;
    expect(torch.parameterGather / ((14 * torch.parameters) / rate)).toBeCloseTo(1, 1);
    // PyTorch's own passes over activations are compute; the rest of the difference is the copies.
    const passes = torch.compute - megatron.compute;
    expect(passes).toBeGreaterThan(0);
    const device = ({ forward, backward, host }: PricedLayer) => forward + backward - host;
    expect(device(torch) - device(megatron)).toBeCloseTo(passes + torch.parameterGather, 12);
  });

  it("come once a micro-batch where PyTorch keeps parameters until the backward, once a step under Megatron", async () => {
    const [two, three] = [await block("torch", { zero: 2 }), await block("torch", { zero: 3 })];
    expect(two.parameterGather).toBeGreaterThan(0);
    expect(two.parameterGather).toBeLessThan(three.parameterGather);
    const one = { zero: 2, microBatches: 1 } as const;
    expect((await block("torch", one)).parameterGather).toBeCloseTo(two.parameterGather, 12);
    expect((await block("megatron", one)).parameterGather).toBe(0);
    expect((await block("torch", { zero: 0 })).parameterGather).toBe(0);
    // What a layer pays is not paid again after the last backward.
    const update = async (runtime: Runtime) => {
      const models = costModels(preset, jobOf(runtime));
      const configuration = { ...singleDevice, data: 8, shards: 8, ...one };
      return new UpdateCosts(configuration, models).seconds({ dense: 1e9, expert: 0 }, 0, 0);
    };
    expect((await update("torch")).gradientSynchronisation).toBe(0);
    expect((await update("megatron")).gradientSynchronisation).toBeGreaterThan(0);
  });

  it("put parts of the sequence in order by a copy under PyTorch, whose collectives know the first axis alone", async () => {
    const split = (runtime: Runtime) => block(runtime, { zero: 0, tensor: 4 });
    const [torch, megatron] = [await split("torch"), await split("megatron")];
    // Two gathers and two scatters forward, their mirrors backward, each of whole hidden states read and written.
    const rate = preset.devices[0]!.memoryBytesPerSecond.value * 0.75;
    const copies = (8 * 2 * 2 * 2048 * 2048) / rate;
    const more = torch.tensorCommunication - megatron.tensorCommunication;
    expect(more / copies).toBeGreaterThan(0.9);
    expect(more / copies).toBeLessThan(1.5);
  });
});
