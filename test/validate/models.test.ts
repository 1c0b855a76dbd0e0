import { describe, expect, it } from "vitest";
import { type Software, softwareOf } from "../../src/validate/kinds.js";
import { type ModelDimensions, modelOfDimensions } from "../../src/validate/models.js";

const none: ModelDimensions = {
  name: "",
  layers: 1,
  hidden: 1,
  ffn: undefined,
  heads: 1,
  keyValueHeads: undefined,
  vocabulary: undefined,
  sequence: 1024,
  experts: undefined,
  topK: undefined,
};
const model = (
  dimensions: Partial<ModelDimensions>,
  software: Software = softwareOf("X"),
  tensor = 1,
  microBatch = 1,
) => modelOfDimensions({ ...none, ...dimensions }, software, { tensor, microBatch }, "test");

describe("models of a row's dimensions", () => {
  // Published parameter counts, in units of 1e9.
  it.each([
    [{ name: "GPT-175B", layers: 96, hidden: 12288, heads: 96 }, 174.6],
    [{ name: "Llama3.1-8B", layers: 32, hidden: 4096, ffn: 14336, heads: 32, keyValueHeads: 8 }, 8.03],
    [{ name: "Llama2-13b", layers: 40, hidden: 5120, ffn: 13824, heads: 40 }, 13.02],
    [{ name: "Nemotron4-340B", layers: 96, hidden: 18432, ffn: 73728, heads: 96, keyValueHeads: 8 }, 341],
    [
      { name: "Grok1-314B", layers: 64, hidden: 6144, ffn: 32768, heads: 48, keyValueHeads: 8, experts: 8 },
      316,
    ],
    [
      {
        name: "Llama4-Maverick-400B",
        layers: 48,
        hidden: 5120,
        ffn: 8192,
        heads: 40,
        keyValueHeads: 8,
        experts: 128,
      },
      401,
    ],
    [
      {
        name: "GPT OSS 120B",
        layers: 36,
        hidden: 2880,
        ffn: 2880,
        heads: 64,
        keyValueHeads: 8,
        experts: 128,
      },
      117,
    ],
    [
      {
        name: "Qwen3_30B_a3B",
        layers: 48,
        hidden: 2048,
        ffn: 768,
        heads: 32,
        keyValueHeads: 4,
        experts: 128,
      },
      30.5,
    ],
    [{ name: "DeepSeek-V2", layers: 60, hidden: 5120, ffn: 1536, heads: 128, experts: 160 }, 235.7],
    [{ name: "DeepSeek V3", layers: 61, hidden: 7168, ffn: 2048, heads: 128, experts: 256 }, 671],
    [{ name: "Kimi-K2", layers: 61, hidden: 7168, ffn: 2048, heads: 64, experts: 384 }, 1026],
    [
      { name: "Mixtral 8x7B", layers: 32, hidden: 4096, ffn: 14336, heads: 32, keyValueHeads: 8, experts: 8 },
      46.7,
    ],
  ])("have the published parameters: %o", (dimensions, billions) => {
    expect(model(dimensions).parameterCount / 1e9 / billions).toBeCloseTo(1, 2);
  });

  it("leave as many layers without experts as the software cut models down to", () => {
    const dimensions = { name: "deepseekv3-4layers", layers: 4, hidden: 256, heads: 4, ffn: 64, experts: 8 };
    const dense = (software: Software) =>
      model({ ...dimensions, topK: 2 }, software).layers.filter(({ block }) => block === "dense").length;
    expect(dense(softwareOf("X"))).toBe(3);
    expect(dense(softwareOf("SIMUMAX"))).toBe(1);
    const plain = model({ ...dimensions, name: "mixtral", topK: 2 }, softwareOf("SIMUMAX"));
    expect(new Set(plain.layers.map(({ block }) => block))).not.toContain("dense");
  });

  it("pad the vocabulary as the software does", () => {
    const dimensions = { layers: 2, hidden: 64, heads: 4, vocabulary: 50_257 };
    const vocabulary = (prefix: string, tensor: number) =>
      model(dimensions, softwareOf(prefix), tensor).architecture!.vocabulary;
    expect(vocabulary("X", 8)).toBe(50_257);
    expect(vocabulary("BLOOM", 1)).toBe(50_304);
    expect(vocabulary("VTS", 1)).toBe(50_257);
    expect(vocabulary("VTS", 8)).toBe(51_200);
  });

  it("materialise attention and drop out where the software does", () => {
    const dimensions = { layers: 2, hidden: 64, heads: 4 };
    const names = (prefix: string) =>
      new Set(model(dimensions, softwareOf(prefix)).operators.map((operator) => operator.name));
    expect(names("VTS")).toContain("softmax");
    expect(names("VTS")).toContain("dropout");
    expect(names("TITAN")).not.toContain("softmax");
    expect(names("TITAN")).not.toContain("dropout");
  });

  it("leave the fused softmax where its kernel does not take the scores", () => {
    const dimensions = { layers: 1, hidden: 64, heads: 16 };
    const masks = (sequence: number, tensor: number, microBatch: number) =>
      model({ ...dimensions, sequence }, softwareOf("VTS"), tensor, microBatch).operators.some(
        (operator) => operator.name === "mask",
      );
    // Rows of scores come in blocks of 4: 2 heads of a device need 2 sequences.
    expect(masks(1024, 4, 1)).toBe(false);
    expect(masks(1024, 8, 1)).toBe(true);
    expect(masks(1024, 8, 2)).toBe(false);
    expect(masks(4096, 1, 1)).toBe(true);
    expect(masks(128, 4, 1)).toBe(true);
    expect(masks(128, 4, 2)).toBe(false);
  });

  it("are one object for equal dimensions", () => {
    const dimensions = { layers: 3, hidden: 64, heads: 4 };
    expect(model({ ...dimensions, name: "a" })).toBe(model({ ...dimensions, name: "b" }));
    expect(model(dimensions)).not.toBe(model({ ...dimensions, layers: 4 }));
  });
});
