import { describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import type { Cluster, Job } from "../../src/contracts/index.js";
import { type TransformerDimensions, transformerModel } from "../../src/models/transformer.js";
import { singleDevice } from "../../src/search/configuration.js";
import { costModels } from "../../src/search/joint.js";
import { LayerChains } from "../../src/search/layerChains.js";
import { type PricedLayer, priceChain } from "../../src/search/pricedLayer.js";

const dimensions: TransformerDimensions = {
  name: "small",
  layers: 2,
  hidden: 1024,
  ffn: 4096,
  heads: 16,
  keyValueHeads: 16,
  vocabulary: 32_000,
  sequence: 1024,
  gated: true,
  activation: "silu",
  norm: "rms_norm",
  positions: "rotary",
  tiedEmbeddings: false,
  biases: false,
};
const dense = transformerModel(dimensions);
const mixture = transformerModel({ ...dimensions, experts: { routed: 16, topK: 2, ffn: 1024 } });
const preset = clusterPreset("h100-sxm:8x1");

/** The preset with other seconds a call, of both passes. */
function calling(seconds: number): Cluster {
  const quantity = { value: seconds, provenance: "measured" as const, source: "test" };
  const cluster = structuredClone(preset);
  for (const device of cluster.devices) device.callSeconds = { forward: quantity, backward: quantity };
  return cluster;
}

interface Wishes {
  microBatch?: number;
  expertCapacity?: number;
  recompute?: "none" | "full";
}

async function block(model: typeof dense, cluster: Cluster, wishes: Wishes = {}): Promise<PricedLayer> {
  const { microBatch = 1, recompute = "none", expertCapacity } = wishes;
  const job: Job = {
    schema: "mpopt.job/1",
    globalBatch: 64,
    sequence: 1024,
    dtypes: { parameters: "bf16", gradients: "f32", optimizer: "f32" },
    optimizer: "adam",
    ...(expertCapacity === undefined ? {} : { expertCapacity }),
    runtime: "megatron",
    pins: {},
    objective: "time",
    limits: { memoryFraction: 1, searchSeconds: 10 },
  };
  const configuration = { ...singleDevice, microBatch, recompute };
  const models = costModels(cluster, job);
  const chain = await new LayerChains(model, models).chain(configuration);
  return priceChain(chain!, configuration, models).blocks[0]!;
}

const total = ({ forward, backward }: PricedLayer) => forward + backward;

describe("layers that the host calls", () => {
  it("take the host's time where they are small, and the device's where they are large", async () => {
    // With a second a call the device counts for nothing.
    const count = total(await block(dense, calling(1)));
    for (const microBatch of [1, 64]) {
      const device = total(await block(dense, calling(1e-12), { microBatch }));
      const both = total(await block(dense, calling(70e-6), { microBatch }));
      const longer = Math.max(device, 70e-6 * count);
      expect(both / longer).toBeGreaterThan(0.999);
      expect(both / longer).toBeLessThan(1.13);
    }
    const small = await block(dense, calling(70e-6));
    expect(small.host / total(small)).toBeGreaterThan(0.5);
    const large = await block(dense, calling(70e-6), { microBatch: 64 });
    expect(large.host / total(large)).toBeLessThan(0.01);
  });

  it("are called again where they are recomputed", async () => {
    const once = await block(dense, calling(1));
    const again = await block(dense, calling(1), { recompute: "full" });
    expect(again.backward).toBeCloseTo(once.backward + once.forward, 2);
  });

  it("stand still in between where the host counts tokens of experts", async () => {
    const host = total(await block(mixture, calling(1)));
    const device = total(await block(mixture, calling(1e-12), { microBatch: 8 }));
    // As long for the host as for the device.
    const even = calling(device / host);
    const waits = await block(mixture, even, { microBatch: 8 });
    expect(total(waits) / device).toBeGreaterThan(1.2);
    expect(total(waits) / device).toBeLessThan(1.3);
  });

  it("are few where experts are padded to one size", async () => {
    const any = total(await block(mixture, calling(1)));
    const padded = total(await block(mixture, calling(1), { expertCapacity: 1 }));
    expect(padded).toBeLessThan(0.8 * any);
  });
});
