import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Model } from "../../src/contracts/index.js";
import {
  checkModel,
  loadModel,
  modelFlops,
  paddedVocabulary,
  presetDimensions,
  type TransformerDimensions,
  transformerModel,
} from "../../src/models/index.js";
import { errorOf } from "./errors.js";

/** GPT as Megatron-LM trains it. */
const gpt = (layers: number, hidden: number, heads: number): TransformerDimensions => ({
  name: "gpt",
  layers,
  hidden,
  ffn: 4 * hidden,
  heads,
  keyValueHeads: heads,
  vocabulary: 51200,
  sequence: 2048,
  gated: false,
  activation: "gelu",
  norm: "layer_norm",
  positions: "learned",
  tiedEmbeddings: true,
  biases: true,
});

const llama: TransformerDimensions = {
  name: "llama",
  layers: 32,
  hidden: 4096,
  ffn: 14336,
  heads: 32,
  keyValueHeads: 8,
  vocabulary: 128256,
  sequence: 4096,
  gated: true,
  activation: "silu",
  norm: "rms_norm",
  positions: "rotary",
  tiedEmbeddings: false,
  biases: false,
};

/** Operators and tensors without names, and without the norms' epsilon. */
function anonymous({ operators, tensors, layers, blocks, parameterCount }: Model) {
  const shapes = new Map(
    tensors.map(({ id, shape, axes, dtype, kind }) => [id, { shape, axes, dtype, kind }]),
  );
  return {
    operators: operators.map(({ id: _i, module: _m, modules, attributes, ...operator }) => ({
      ...operator,
      calls: modules?.length,
      attributes: { ...attributes, epsilon: undefined },
      inputs: operator.inputs.map(({ tensor, dims }) => [shapes.get(tensor), dims]),
      outputs: operator.outputs.map(({ tensor, dims }) => [shapes.get(tensor), dims]),
      savedForBackward: operator.savedForBackward.map((id) => shapes.get(id)),
    })),
    layers: layers.map(({ kind, operators, block }) => [kind, operators, block]),
    blocks: blocks.map(({ layers }) => layers.length),
    parameterCount,
  };
}

describe("a model from dimensions", () => {
  it.each<[string, TransformerDimensions]>([
    ["llama-3.1-8b", { ...llama, projections: "separate" }],
    [
      "qwen3-235b-a22b",
      {
        ...llama,
        layers: 94,
        hidden: 4096,
        ffn: 12288,
        heads: 64,
        keyValueHeads: 4,
        headSize: 128,
        vocabulary: 151936,
        queryKeyNorm: true,
        experts: { routed: 128, topK: 8, ffn: 1536 },
        projections: "separate",
      },
    ],
    [
      "deepseek-v2",
      {
        ...llama,
        layers: 60,
        hidden: 5120,
        ffn: 12288,
        heads: 128,
        keyValueHeads: 128,
        headSize: 192,
        vocabulary: 102400,
        latent: {
          queryRank: 1536,
          keyValueRank: 512,
          ropeHeadSize: 64,
          noRopeHeadSize: 128,
          valueHeadSize: 128,
        },
        experts: { routed: 160, topK: 6, ffn: 1536, shared: 2, denseLayers: 1 },
        projections: "separate",
      },
    ],
  ])("is what the importer makes of %s", (preset, dimensions) => {
    const imported = loadModel(preset);
    const made = transformerModel(dimensions, {}, { reference: imported.reference });
    expect(anonymous(made)).toEqual(anonymous(imported));
    expect({ ...made.architecture, family: "", normEpsilon: 0, ropeTheta: 0, maxSequence: 0 }).toEqual({
      ...imported.architecture,
      family: "",
      normEpsilon: 0,
      ropeTheta: 0,
      maxSequence: 0,
    });
  });

  it("fuses projections unless it is told otherwise, at the same work and memory", () => {
    const fused = transformerModel(llama);
    const separate = transformerModel({ ...llama, projections: "separate" });
    const calls = (model: Model) =>
      model.operators.reduce(
        (sum, { kind, modules }) => sum + (kind === "linear" ? (modules?.length ?? 1) : 0),
        0,
      );
    expect(calls(separate) - calls(fused)).toBe(32 * 3);
    expect(modelFlops(fused)).toEqual(modelFlops(separate));
    expect(fused.parameterCount).toBe(separate.parameterCount);
    expect(fused.operators.map((operator) => operator.savedForBackward.length)).toEqual(
      separate.operators.map((operator) => operator.savedForBackward.length),
    );
    const gpt2 = loadModel("gpt2");
    const made = transformerModel({ ...gpt(12, 768, 12), vocabulary: 50257, sequence: 1024 });
    expect(made.parameterCount).toBe(gpt2.parameterCount);
    expect(modelFlops(made)).toEqual(modelFlops(gpt2));
  });

  it.each([
    [24, 2304, 24, 1.7],
    [30, 3072, 32, 3.6],
    [36, 4096, 32, 7.5],
    [40, 6144, 48, 18.4],
    [48, 8192, 64, 39.1],
    [60, 10240, 80, 76.1],
    [80, 12288, 96, 145.6],
    [96, 16384, 128, 310.1],
    [105, 20480, 128, 529.6],
    [128, 25600, 160, 1008.0],
  ])("%i layers of %i have the size of Megatron-LM, SC'21, table 1", (layers, hidden, heads, billions) => {
    const { parameterCount } = transformerModel(gpt(layers, hidden, heads));
    expect(Math.round(parameterCount / 1e8) / 10).toBe(billions);
  });

  it.each([
    // llm-foundry's throughput table: parameters change with learned positions.
    ["MPT-125m at 512", 12, 768, 12, 512, 0.1241],
    ["MPT-125m at 65,536", 12, 768, 12, 65536, 0.1741],
    ["MPT-3b at 2048", 32, 2560, 20, 2048, 2.6518],
    ["MPT-70b at 2048", 80, 8192, 64, 2048, 64.8624],
  ])("%s has its published size", (_name, layers, hidden, heads, sequence, billions) => {
    const { parameterCount } = transformerModel({
      ...gpt(layers, hidden, heads),
      vocabulary: 50368,
      sequence,
    });
    expect(Math.round(parameterCount / 1e5) / 1e4).toBe(billions);
  });

  it.each([
    // PaLM, 2022, table 1; the paper counts matrices alone.
    [32, 4096, 16, 8.63],
    [64, 8192, 32, 62.5],
    [118, 18432, 48, 540.35],
  ])("PaLM with %i layers of %i has its published size", (layers, hidden, heads, billions) => {
    const palm = { ...presetDimensions("palm-540b")!, layers, hidden, heads, ffn: 4 * hidden };
    const matrices = transformerModel(palm)
      .tensors.filter(({ kind, shape, tiedTo }) => kind === "parameter" && shape.length > 1 && !tiedTo)
      .reduce((sum, { shape }) => sum + shape.reduce((all, size) => all * size, 1), 0);
    expect(Math.round(matrices / 1e7) / 100).toBe(billions);
  });

  it("equals a closed formula on random dimensions", () => {
    const sizes = fc.record({
      layers: fc.integer({ min: 1, max: 6 }),
      groups: fc.integer({ min: 1, max: 4 }),
      keyValueHeads: fc.integer({ min: 1, max: 4 }),
      headSize: fc.integer({ min: 1, max: 20 }).map((half) => 2 * half),
      hidden: fc.integer({ min: 1, max: 99 }),
      ffn: fc.integer({ min: 1, max: 99 }),
      gated: fc.boolean(),
      biases: fc.boolean(),
      tied: fc.boolean(),
      parallel: fc.constantFrom(false, true, "separate_norms" as const),
      branchNorms: fc.boolean(),
      positions: fc.constantFrom("rotary", "learned", "alibi", "none"),
      norm: fc.constantFrom("layer_norm", "rms_norm"),
      projections: fc.constantFrom("fused", "separate"),
      experts: fc.option(
        fc.record({ routed: fc.integer({ min: 2, max: 5 }), shared: fc.integer({ min: 0, max: 2 }) }),
      ),
    });
    fc.assert(
      fc.property(sizes, (s) => {
        const heads = s.groups * s.keyValueHeads;
        const h = s.hidden;
        const model = transformerModel({
          name: "random",
          layers: s.layers,
          hidden: h,
          ffn: s.ffn,
          heads,
          keyValueHeads: s.keyValueHeads,
          headSize: s.headSize,
          vocabulary: 77,
          sequence: 32,
          gated: s.gated,
          activation: "squared_relu",
          norm: s.norm,
          positions: s.positions,
          tiedEmbeddings: s.tied,
          biases: s.biases,
          parallelResidual: s.parallel,
          branchNorms: s.branchNorms,
          projections: s.projections,
          ...(s.experts ? { experts: { ...s.experts, topK: 2, ffn: 7 } } : {}),
        });
        checkModel(model, "random");
        const bias = s.biases ? 1 : 0;
        const query = heads * s.headSize;
        const keyValue = 2 * s.keyValueHeads * s.headSize;
        const norm = h * (s.norm === "layer_norm" ? 1 + bias : 1);
        const inner = s.gated ? 2 : 1;
        const mlp = (ffn: number, withBias: number) => (inner + 1) * ffn * h + withBias * (inner * ffn + h);
        const shared = 7 * (s.experts?.shared ?? 0);
        const branch = s.experts
          ? s.experts.routed * (mlp(7, 0) + h) + (shared ? mlp(shared, bias) : 0)
          : mlp(s.ffn, bias);
        const norms = (s.parallel === true ? 1 : 2) + (s.branchNorms && !s.parallel ? 2 : 0);
        const layer = (2 * query + keyValue) * h + bias * (query + keyValue + h) + branch + norms * norm;
        const tables = (s.tied ? 1 : 2) * 77 * h + (s.positions === "learned" ? 32 * h : 0);
        expect(model.parameterCount).toBe(tables + s.layers * layer + norm);
      }),
      { numRuns: 200 },
    );
  });

  it("places experts and windows in every so many layers", () => {
    const blocks = (more: Partial<TransformerDimensions>) =>
      transformerModel({ ...llama, layers: 6, ...more })
        .layers.filter(({ kind }) => kind === "block")
        .map(({ block }) => block);
    const experts = { routed: 8, topK: 1, ffn: 1024, shared: 1 };
    expect(blocks({ experts: { ...experts, every: 2 } })).toEqual(
      Array.from({ length: 6 }, (_, i) => (i % 2 ? "expert" : "dense")),
    );
    expect(blocks({ experts: { ...experts, every: 2, denseLayers: 3 } }).indexOf("expert")).toBe(3);
    expect(blocks({ slidingWindow: { window: 128, every: 3 } })).toEqual(
      Array.from({ length: 6 }, (_, i) => (i % 3 === 2 ? "full_attention" : "sliding_attention")),
    );
    expect(new Set(blocks({ slidingWindow: { window: 128 } })).size).toBe(1);
    const { architecture } = transformerModel({
      ...llama,
      layers: 6,
      experts: { ...experts, every: 2 },
      slidingWindow: { window: 128, every: 3 },
    });
    expect(architecture).toMatchObject({
      experts: { denseLayers: 1, every: 2, shared: 1, sharedFfn: 1024 },
      slidingWindow: 128,
      fullAttentionEvery: 3,
    });
  });

  it("names the dimension that does not fit", () => {
    const message = (more: object) => {
      const error = errorOf(() => transformerModel({ ...llama, ...more }));
      expect(error.code).toBe("E_FIELD");
      return error.message;
    };
    expect(message({ heads: 31 })).toBe(
      "llama: expected field keyValueHeads to divide heads (31) but found 8.",
    );
    expect(message({ layers: 0 })).toBe(
      "llama: expected a positive whole number for field layers but found 0.",
    );
    expect(message({ hidden: 4100 })).toContain("field heads to divide hidden (4100)");
    expect(message({ experts: { routed: 4, topK: 5, ffn: 8 } })).toBe(
      "llama, experts: expected at most routed (4) for field topK but found 5.",
    );
    expect(message({ experts: { routed: 4, topK: 2, ffn: 8, every: 33 } })).toContain("found none");
  });
});

describe("a padded vocabulary", () => {
  it("is what Megatron-LM pads GPT-2's to", () => {
    expect(paddedVocabulary(50257, 1)).toBe(50304);
    expect(paddedVocabulary(50257, 8)).toBe(51200);
    expect(paddedVocabulary(51200, 8)).toBe(51200);
    expect(paddedVocabulary(128256, 4, 64)).toBe(128256);
  });
});
