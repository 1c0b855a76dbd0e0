import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  attentionPairs,
  distinctLayers,
  importHuggingFace,
  loadModel,
  scaledFlops,
} from "../../src/models/index.js";
import { samples } from "./published.js";

const attentions = (family: string) =>
  importHuggingFace(samples[family], family).operators.filter(({ kind }) => kind === "attention");
const windows = (family: string) => attentions(family).map((operator) => operator.attributes?.window);

describe("windows", () => {
  it("lie where each family has them", () => {
    const none = undefined;
    expect(windows("gemma2")).toEqual([24, none, 24, none]);
    expect(windows("gemma3_text")).toEqual([24, 24, 24, 24, 24, none, 24]);
    expect(windows("gpt_oss")).toEqual([24, none, 24, none]);
    expect(windows("qwen2")).toEqual([none, none, 4096, 4096]);
    expect(windows("mistral")).toEqual([24, 24, 24, 24]);
    expect(windows("llama4_text")).toEqual([48, 48, 48, none]);
    expect(windows("llama")).toEqual(Array(4).fill(none));
  });

  it("follow the list of layer types where a file has one", () => {
    const types = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"];
    const model = importHuggingFace({ ...samples.gpt_oss, layer_types: types }, "listed");
    expect(model.layers.filter(({ kind }) => kind === "block").map(({ block }) => block)).toEqual(types);
  });

  it("make blocks of their own", () => {
    const blocks = (name: string) =>
      distinctLayers(loadModel(name)).map(({ block, count }) => [block, count]);
    expect(blocks("gpt-oss-120b").slice(1, -1)).toEqual([
      ["sliding_attention", 18],
      ["full_attention", 18],
    ]);
    expect(blocks("gemma-3-27b").slice(1, -1)).toEqual([
      ["sliding_attention", 52],
      ["full_attention", 10],
    ]);
    // 24 dense layers lie between 24 with experts, and every other one of those sees all keys.
    expect(blocks("llama-4-maverick").slice(1, -1)).toEqual([
      ["chunked_attention_dense", 24],
      ["chunked_attention_expert", 12],
      ["full_attention_expert", 12],
    ]);
  });

  it("count the keys that queries see", () => {
    const [attention] = attentions("mistral");
    let pairs = 0;
    for (let query = 0; query < 256; query += 1) {
      for (let key = 0; key <= query; key += 1) if (query - key < 24) pairs += 1;
    }
    expect(attention!.flops.forward).toBe(2 * 4 * pairs * (16 + 16));
  });

  it("save the same tensors as attention to all keys", () => {
    const [sliding, full] = attentions("gpt_oss");
    const local = (ids: string[]) => ids.map((id) => id.replace(/^layers\.\d\./, ""));
    expect(local(sliding!.savedForBackward)).toEqual(local(full!.savedForBackward));
  });

  it("bound long sequences: a window of 128 at 131,072 tokens costs little beside full attention", () => {
    const model = loadModel("gpt-oss-120b");
    const [sliding, full] = model.operators.filter(({ kind }) => kind === "attention");
    const long = { batch: 1, sequence: 131072 };
    const [a, b] = [sliding!, full!].map((one) => scaledFlops(one, model.reference, long).forward);
    // w s - w (w - 1) / 2 against s^2 / 2.
    expect(a! / b!).toBeCloseTo((128 * 131072 - (128 * 127) / 2) / (131072 ** 2 / 2), 10);
  });
});

describe("pieces of a sequence", () => {
  it("are causal sequences of their own", () => {
    const size = fc.integer({ min: 1, max: 300 });
    fc.assert(
      fc.property(size, size, (sequence, chunk) => {
        let pairs = 0;
        for (let start = 0; start < sequence; start += chunk) {
          pairs += attentionPairs(Math.min(chunk, sequence - start), true);
        }
        expect(attentionPairs(sequence, true, chunk, true)).toBe(pairs);
      }),
    );
  });

  it("are rotated in Llama 4, where the layers that see all keys are not", () => {
    const model = importHuggingFace(samples.llama4_text, "llama4");
    const rotated = model.operators.filter(({ name }) => name === "rotary").map(({ module }) => module);
    expect(rotated).toEqual([0, 1, 2].map((i) => `model.layers.${i}.self_attn`));
  });
});
