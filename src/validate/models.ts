import type { Model } from "../contracts/index.js";
import { paddedVocabulary, type TransformerDimensions, transformerModel } from "../models/transformer.js";
import type { Software } from "./kinds.js";

/** Dimensions of a transformer as rows give them; what a row does not say is undefined. */
export interface ModelDimensions {
  name: string;
  layers: number;
  hidden: number;
  /** Width of the MLP, of one expert where there are any. */
  ffn: number | undefined;
  heads: number;
  keyValueHeads: number | undefined;
  vocabulary: number | undefined;
  sequence: number;
  experts: number | undefined;
  topK: number | undefined;
}

/** Facts of published architectures that rows have no columns for. */
type Family = Pick<
  TransformerDimensions,
  | "vocabulary"
  | "gated"
  | "activation"
  | "norm"
  | "positions"
  | "tiedEmbeddings"
  | "biases"
  | "headSize"
  | "latent"
  | "slidingWindow"
  | "queryKeyNorm"
  | "branchNorms"
  | "embeddingNorm"
> & {
  /** Width of the MLP in layers without experts. */
  denseFfn?: number;
  experts?: Omit<NonNullable<TransformerDimensions["experts"]>, "routed" | "ffn">;
};

const gpt: Family = {
  vocabulary: 51_200,
  gated: false,
  activation: "gelu",
  norm: "layer_norm",
  positions: "learned",
  tiedEmbeddings: true,
  biases: true,
};

const llama: Family = {
  vocabulary: 32_000,
  gated: true,
  activation: "silu",
  norm: "rms_norm",
  positions: "rotary",
  tiedEmbeddings: false,
  biases: false,
};

const llama3: Family = { ...llama, vocabulary: 128_256 };

/** DeepSeek-V2, 2024, section 3.1.2. */
const deepseek: Family = {
  ...llama,
  vocabulary: 102_400,
  latent: { queryRank: 1536, keyValueRank: 512, ropeHeadSize: 64, noRopeHeadSize: 128, valueHeadSize: 128 },
  denseFfn: 12_288,
  experts: { topK: 6, shared: 2, denseLayers: 1 },
};
const withoutQueryRank = { ...deepseek.latent!, queryRank: 0 };

/** DeepSeek-V3, 2024, section 4.2. */
const deepseek3: Family = {
  ...deepseek,
  vocabulary: 129_280,
  denseFfn: 18_432,
  experts: { topK: 8, shared: 1, denseLayers: 3 },
};

const llama4: Family = {
  ...llama,
  vocabulary: 202_048,
  denseFfn: 16_384,
  headSize: 128,
  slidingWindow: { window: 8192, every: 4, chunked: true },
  experts: { topK: 1, shared: 1 },
};

/** Models with experts, by the configurations that were published with them: the first match counts. */
const mixtures: readonly (readonly [RegExp, Family])[] = [
  [/deepseek.?v2.?lite/i, { ...deepseek, denseFfn: 10_944, latent: withoutQueryRank }],
  [/deepseek.?v2/i, deepseek],
  [
    /moonlight/i,
    {
      ...deepseek,
      vocabulary: 163_840,
      denseFfn: 11_264,
      latent: withoutQueryRank,
    },
  ],
  [/kimi/i, { ...deepseek3, vocabulary: 163_840, experts: { topK: 8, shared: 1, denseLayers: 1 } }],
  [/deepseek/i, deepseek3],
  [
    /gpt.?oss/i,
    {
      ...llama,
      vocabulary: 201_088,
      headSize: 64,
      biases: { qkv: true, output: true, mlp: true, norms: false },
      slidingWindow: { window: 128, every: 2 },
      experts: { topK: 4, bias: true, clamp: true },
    },
  ],
  [/qwen/i, { ...llama, vocabulary: 151_936, headSize: 128, queryKeyNorm: true, experts: { topK: 8 } }],
  [
    /glm/i,
    {
      ...llama,
      vocabulary: 151_552,
      headSize: 128,
      denseFfn: 12_288,
      queryKeyNorm: true,
      experts: { topK: 8, shared: 1, denseLayers: 3 },
    },
  ],
  [/llama.?4.*scout/i, llama4],
  [/llama.?4/i, { ...llama4, experts: { ...llama4.experts!, every: 2 } }],
  [
    /grok/i,
    {
      ...llama,
      vocabulary: 131_072,
      activation: "gelu",
      tiedEmbeddings: true,
      branchNorms: true,
      experts: { topK: 2 },
    },
  ],
  [/./, { ...llama, experts: { topK: 2 } }],
];

/** Dense models: the first match counts. */
const dense: readonly (readonly [RegExp, Family])[] = [
  [
    /nemotron/i,
    {
      ...llama,
      vocabulary: 256_000,
      gated: false,
      activation: "squared_relu",
      norm: "layer_norm",
      biases: { qkv: false, output: false, mlp: false, norms: true },
    },
  ],
  [/qwen.?3/i, { ...llama, vocabulary: 151_936, headSize: 128, queryKeyNorm: true }],
  [
    /qwen/i,
    { ...llama, vocabulary: 152_064, biases: { qkv: true, output: false, mlp: false, norms: false } },
  ],
  [/llama.?3/i, llama3],
  [
    /internlm/i,
    { ...llama, vocabulary: 103_168, biases: { qkv: true, output: true, mlp: false, norms: false } },
  ],
  [/llama|mistral/i, llama],
  [/bloom/i, { ...gpt, vocabulary: 250_880, positions: "none", embeddingNorm: true }],
  [/^mpt/i, { ...gpt, vocabulary: 50_368, biases: false }],
  [/./, gpt],
];

const models = new Map<string, Model>();

/**
 * The model of a row's dimensions. A width that the row leaves out is 4 times the hidden size in a plain MLP and 8/3 of
 * it in a gated one. Equal dimensions give the same object.
 * @param plan decides how the software pads a vocabulary, and whether its fused softmax takes the scores.
 * @throws MpoptError E_FIELD where the dimensions do not fit each other.
 */
export function modelOfDimensions(
  dimensions: ModelDimensions,
  software: Software,
  { tensor, microBatch }: { tensor: number; microBatch: number },
  where: string,
): Model {
  const { name, layers, hidden, heads, keyValueHeads, sequence, experts } = dimensions;
  const families = experts ? mixtures : dense;
  const found = families.find(([pattern]) => pattern.test(name || "?"))![1];
  const { denseFfn, experts: mixture, ...family } = found;
  const ffn = dimensions.ffn ?? (family.gated ? Math.round((8 * hidden) / 3) : 4 * hidden);
  const { vocabularyMultiple: multiple, projections, attention, dropout, loss, expertWeights } = software;
  const vocabulary = dimensions.vocabulary ?? family.vocabulary;
  const padded = multiple > 1 && (tensor > 1 || software.padsWhole);
  const complete = {
    ...family,
    layers,
    hidden,
    ffn: experts ? (denseFfn ?? ffn) : ffn,
    heads,
    keyValueHeads: keyValueHeads ?? heads,
    vocabulary: padded ? paddedVocabulary(vocabulary, tensor, multiple) : vocabulary,
    sequence,
    projections,
    ...(experts ? { experts: { ...mixtureOf(mixture!, dimensions, software), routed: experts, ffn } } : {}),
  };
  const unfused = attention === "materialized" && !takesFusedSoftmax((microBatch * heads) / tensor, sequence);
  const kernels = {
    attention,
    dropout,
    loss,
    expertWeights,
    ...(unfused ? { softmax: "unfused" as const } : {}),
  };
  const key = JSON.stringify([complete, kernels]);
  let model = models.get(key);
  if (!model) {
    model = transformerModel({ ...complete, name: name || "transformer" }, kernels, { source: where });
    models.set(key, model);
  }
  return model;
}

/**
 * Whether Megatron-LM's masked softmax kernel takes the scores of so many sequences and heads on a device; others go
 * through unfused operators in f32. It takes 17 to 2048 keys, queries in fours, and whole blocks of 4 warps, each with
 * one row of scores, or two up to 128 keys (megatron/fused_kernels, scaled_upper_triang_masked_softmax).
 */
function takesFusedSoftmax(sequencesAndHeads: number, keys: number): boolean {
  const perBlock = keys <= 128 ? 8 : 4;
  return keys > 16 && keys <= 2048 && keys % 4 === 0 && sequencesAndHeads % perBlock === 0;
}

/** Experts of a family in a model that may have fewer layers than the published one. */
function mixtureOf(
  mixture: NonNullable<Family["experts"]>,
  { layers, topK }: ModelDimensions,
  software: Software,
): NonNullable<Family["experts"]> {
  const most = Math.min(software.denseLayers ?? layers, layers - 1);
  const denseLayers = Math.min(mixture.denseLayers ?? 0, most);
  return { ...mixture, denseLayers, topK: topK ?? mixture.topK };
}
