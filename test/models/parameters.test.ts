import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { importHuggingFace, loadModel } from "../../src/models/index.js";
import { published, samples } from "./published.js";

describe("parameter counts", () => {
  it.each([
    ["gpt2", 124_439_808],
    ["mistral-7b", 7_241_732_096],
    ["llama-3.1-8b", 8_030_261_248],
    ["llama-3.1-70b", 70_553_706_496],
    ["llama-3.1-405b", 405_853_388_800],
    ["qwen2.5-72b", 72_706_203_648],
    ["mixtral-8x7b", 46_702_792_704],
    ["qwen3-30b-a3b", 30_532_122_624],
    ["deepseek-v3", 671_026_419_200],
    ["mixtral-8x22b", 140_630_071_296],
    ["qwen3-235b-a22b", 235_093_634_560],
    ["gemma-2-27b", 27_227_128_320],
    ["bloom-176b", 176_247_271_424],
    ["gpt-neox-20b", 20_554_567_680],
    ["llama-3.2-3b", 3_212_749_824],
    ["llama-2-13b", 13_015_864_320],
    ["deepseek-v2", 235_741_434_880],
  ])("preset %s has %i", (name, count) => {
    expect(loadModel(name).parameterCount).toBe(count);
  });

  it.each(Object.entries(published))("%s as published", (name, { count, config }) => {
    expect(importHuggingFace(config, name).parameterCount).toBe(count);
  });

  // Published in billions, as the source prints them.
  it.each([
    ["gpt-oss-120b", 116.83, "gpt-oss Model Card, table 1"],
    ["gpt-oss-20b", 20.91, "gpt-oss Model Card, table 1"],
    ["megatron-22b", 22, "Korthikanti et al. 2022, table 3"],
    ["megatron-530b", 529.6, "Korthikanti et al. 2022, table 3"],
    ["megatron-1t", 1008, "Korthikanti et al. 2022, table 3"],
    ["gpt3-175b", 175, "Brown et al. 2020, table 2.1"],
    ["opt-175b", 175, "OPT, 2022, table 1"],
  ])("preset %s has %d billion (%s)", (name, billions) => {
    const digits = String(billions).split(".")[1]?.length ?? 0;
    expect((loadModel(name).parameterCount / 1e9).toFixed(digits)).toBe(billions.toFixed(digits));
  });

  /** Elements of the parameters whose names match. */
  const held = (name: string, pattern: RegExp) =>
    loadModel(name)
      .tensors.filter((tensor) => tensor.kind === "parameter" && pattern.test(tensor.name!))
      .reduce((sum, { shape }) => sum + shape.reduce((all, size) => all * size, 1), 0);

  it("splits as published: GPT-OSS, Nemotron-4, Gemma 3, Grok-1", () => {
    // gpt-oss Model Card, table 1: experts and routers, attention, both embeddings.
    for (const [name, mlp, attention] of [
      ["gpt-oss-120b", 114.71, 0.96],
      ["gpt-oss-20b", 19.12, 0.64],
    ] as const) {
      expect(held(name, /mlp/) / 1e9).toBeCloseTo(mlp, 2);
      expect(held(name, /self_attn/) / 1e9).toBeCloseTo(attention, 2);
      expect(held(name, /embed|lm_head/) / 1e9).toBeCloseTo(1.16, 2);
    }
    // Nemotron-4 340B Technical Report, section 2.1.
    expect(held("nemotron-4-340b", /embed|lm_head/) / 1e9).toBeCloseTo(9.4, 1);
    expect(held("nemotron-4-340b", /layers|model\.norm/) / 1e9).toBeCloseTo(331.6, 1);
    // Gemma 3 Technical Report, table 1.
    expect(Math.round(held("gemma-3-27b", /layers|model\.norm/) / 1e8) / 10).toBe(25.6);
    // "314B parameters" are the layers without the embedding.
    expect(Math.floor(held("grok-1", /layers/) / 1e9)).toBe(314);
  });

  // Weights that a token meets: two FLOPs each. Published figures count the embedding or leave it out.
  it.each([
    ["gpt-oss-120b", 5.13, false, "gpt-oss Model Card, table 1"],
    ["gpt-oss-20b", 3.61, false, "gpt-oss Model Card, table 1"],
    ["llama-4-scout", 17, true, "as published with the weights"],
    ["llama-4-maverick", 17, true, "as published with the weights"],
    ["qwen3-235b-a22b", 22, true, "Qwen3 Technical Report"],
    ["qwen3-30b-a3b", 3, true, "Qwen3 Technical Report"],
    ["deepseek-v2", 21, true, "DeepSeek-V2, abstract"],
    ["kimi-k2", 32, false, "Kimi K2, abstract"],
    ["mixtral-8x7b", 13, true, "Mixtral of Experts, abstract"],
  ])("%s activates %d billion a token", (name, billions, withEmbedding) => {
    const model = loadModel(name);
    const { hidden, vocabulary } = model.architecture!;
    const forward = model.operators
      .filter(({ kind }) => ["linear", "grouped_linear", "router"].includes(kind))
      .reduce((sum, { flops }) => sum + flops.forward, 0);
    const active = forward / 2 / model.reference.sequence + (withEmbedding ? vocabulary * hidden : 0);
    const digits = String(billions).split(".")[1]?.length ?? 0;
    expect((active / 1e9).toFixed(digits)).toBe(billions.toFixed(digits));
  });

  it("leaves as much of Llama 4's checkpoints to the vision part in both sizes", () => {
    // Parameters of the published weights, vision and language together.
    const scout = 108_641_793_536 - loadModel("llama-4-scout").parameterCount;
    const maverick = 401_583_781_376 - loadModel("llama-4-maverick").parameterCount;
    expect(scout).toBe(maverick);
    // 34 layers of 1408 wide, 5632 within: 0.86 billion in the encoder.
    expect(scout / 1e9).toBeCloseTo(0.87, 2);
  });

  it("reads tied embeddings as tied where GPT-2, OPT and Gemma omit the field, and Llama as untied", () => {
    const tied = (family: string) => importHuggingFace(samples[family], family).architecture!.tiedEmbeddings;
    expect(["gpt2", "opt", "gemma2"].map(tied)).toEqual([true, true, true]);
    expect(["llama", "mistral", "qwen2", "gpt_neox", "deepseek_v3"].map(tied)).toEqual(Array(5).fill(false));
  });

  it("counts a tied embedding once", () => {
    const config = samples.llama!;
    const untied = importHuggingFace(config, "untied");
    const tied = importHuggingFace({ ...config, tie_word_embeddings: true }, "tied");
    expect(untied.parameterCount - tied.parameterCount).toBe(96 * 64);
    const head = tied.tensors.find((tensor) => tensor.name === "lm_head.weight");
    expect(head?.tiedTo).toBe("model.embed_tokens.weight");
  });

  it("follows the class default of head_dim and num_key_value_heads where a file omits them", () => {
    const { num_key_value_heads: _, head_dim: __, ...qwen3 } = samples.qwen3!;
    const imported = importHuggingFace({ ...qwen3, num_attention_heads: 32 }, "qwen3").architecture!;
    expect(imported).toMatchObject({ headSize: 128, keyValueHeads: 32 });
    const llama = importHuggingFace({ ...samples.llama, num_key_value_heads: null }, "llama").architecture!;
    expect(llama).toMatchObject({ headSize: 16, keyValueHeads: 4 });
  });

  it("accepts GPT-2 under the general names and a class name without model_type", () => {
    const config = {
      architectures: ["GPT2LMHeadModel"],
      vocab_size: 50257,
      max_position_embeddings: 1024,
      hidden_size: 768,
      num_hidden_layers: 12,
      num_attention_heads: 12,
    };
    expect(importHuggingFace(config, "general").parameterCount).toBe(124_439_808);
  });

  it("places experts by decoder_sparse_step and mlp_only_layers", () => {
    const blocks = (more: object) =>
      importHuggingFace({ ...samples.qwen3_moe, ...more }, "moe")
        .layers.filter((layer) => layer.kind === "block")
        .map((layer) => layer.block);
    expect(blocks({})).toEqual(["dense", "expert", "dense", "expert"]);
    expect(blocks({ decoder_sparse_step: 1, mlp_only_layers: [0, 2] })).toEqual(blocks({}));
    expect(blocks({ decoder_sparse_step: 1 })).toEqual(Array(4).fill("decoder"));
  });

  it("equals a closed formula on random Llama-like configurations", () => {
    const sizes = fc.record({
      family: fc.constantFrom("llama", "mistral", "qwen2", "qwen3", "gemma2"),
      groups: fc.integer({ min: 1, max: 6 }),
      keyValueHeads: fc.integer({ min: 1, max: 6 }),
      headSize: fc.integer({ min: 1, max: 40 }).map((half) => 2 * half),
      hidden: fc.integer({ min: 1, max: 300 }),
      ffn: fc.integer({ min: 1, max: 500 }),
      layers: fc.integer({ min: 1, max: 5 }),
      vocabulary: fc.integer({ min: 1, max: 999 }),
      tied: fc.boolean(),
      attentionBias: fc.boolean(),
      mlpBias: fc.boolean(),
    });
    fc.assert(
      fc.property(sizes, (s) => {
        const heads = s.groups * s.keyValueHeads;
        // Qwen2 has no field for the width of a head.
        const hidden = s.family === "qwen2" ? heads * s.headSize : s.hidden;
        const model = importHuggingFace(
          {
            model_type: s.family,
            vocab_size: s.vocabulary,
            hidden_size: hidden,
            intermediate_size: s.ffn,
            num_hidden_layers: s.layers,
            num_attention_heads: heads,
            num_key_value_heads: s.keyValueHeads,
            tie_word_embeddings: s.tied,
            attention_bias: s.attentionBias,
            mlp_bias: s.mlpBias,
            ...(s.family === "qwen2" ? {} : { head_dim: s.headSize }),
          },
          "random",
        );
        const query = heads * s.headSize;
        const keyValue = 2 * s.keyValueHeads * s.headSize;
        const inFamilies = (...names: string[]) => (names.includes(s.family) ? 1 : 0);
        const flag = s.attentionBias ? 1 : 0;
        const qkvBias = inFamilies("qwen2") + flag * inFamilies("llama", "qwen3", "gemma2");
        const outputBias = flag * inFamilies("llama", "qwen3", "gemma2");
        const mlpBias = (s.mlpBias ? 1 : 0) * inFamilies("llama");
        const layer =
          (2 * query + keyValue) * hidden +
          qkvBias * (query + keyValue) +
          outputBias * hidden +
          3 * hidden * s.ffn +
          mlpBias * (2 * s.ffn + hidden) +
          (2 + 2 * inFamilies("gemma2")) * hidden +
          2 * s.headSize * inFamilies("qwen3");
        const tables = (s.tied ? 1 : 2) * s.vocabulary * hidden;
        expect(model.parameterCount).toBe(tables + s.layers * layer + hidden);
      }),
      { numRuns: 300 },
    );
  });
});
