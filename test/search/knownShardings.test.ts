import { describe, expect, it } from "vitest";
import { singleDevice } from "../../src/search/configuration.js";
import { KnownShardings } from "../../src/search/knownShardings.js";
import { LayerChains } from "../../src/search/layerChains.js";
import { setUp } from "./scheduleCases.js";

describe("known shardings", () => {
  const wishes = { globalBatch: 8, sequence: 1024, runtime: "megatron" as const };
  const configuration = {
    ...singleDevice,
    tensor: 4,
    sequenceParallel: true,
    microBatch: 2,
    microBatches: 4,
  };

  it("price a chain on the cluster that they were chosen on as solving does", async () => {
    const { model, models } = setUp("llama-3.1-8b", "a100-80:8x1", wishes);
    const known = new KnownShardings();
    const solved = await new LayerChains(model, models, undefined, known).chain(configuration);
    const again = await new LayerChains(model, models, undefined, known).chain(configuration);
    const figures = (chain: typeof solved) =>
      [...chain!.embedding, chain!.blocks[0]!, ...chain!.head].map(({ objective, bound, ...rest }) => rest);
    expect(again).not.toBe(solved);
    expect(figures(again)).toEqual(figures(solved));
    expect(again!.blocks[0]!.objective).toBeNaN();
  });

  it("price a chain on another cluster at that cluster's speed", async () => {
    const { model, models } = setUp("llama-3.1-8b", "a100-80:8x1", wishes);
    const faster = setUp("llama-3.1-8b", "h100-sxm:8x1", wishes).models;
    const known = new KnownShardings();
    const slow = await new LayerChains(model, models, undefined, known).chain(configuration);
    const fast = await new LayerChains(model, faster, undefined, known).chain(configuration);
    const solved = await new LayerChains(model, faster).chain(configuration);
    expect(fast!.blocks[0]!.forwardSeconds).toBeLessThan(slow!.blocks[0]!.forwardSeconds);
    expect(fast!.blocks[0]!.forwardSeconds).toBeCloseTo(solved!.blocks[0]!.forwardSeconds, 12);
  });

  it("do not answer for another degree, sequence or model", async () => {
    const { model, models } = setUp("llama-3.1-8b", "a100-80:8x1", wishes);
    const known = new KnownShardings();
    await new LayerChains(model, models, undefined, known).chain(configuration);
    const objective = async (chains: LayerChains, tensor = 4) =>
      (await chains.chain({ ...configuration, tensor }))!.blocks[0]!.objective;
    expect(await objective(new LayerChains(model, models, undefined, known), 2)).toBeGreaterThan(0);
    const longer = setUp("llama-3.1-8b", "a100-80:8x1", { ...wishes, sequence: 2048 }).models;
    expect(await objective(new LayerChains(model, longer, undefined, known))).toBeGreaterThan(0);
    const other = setUp("llama-3.1-70b", "a100-80:8x1", wishes);
    expect(await objective(new LayerChains(other.model, models, undefined, known))).toBeGreaterThan(0);
  });
});
