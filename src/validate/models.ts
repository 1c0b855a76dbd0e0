import type { Model } from "../contracts/index.js";
import { importHuggingFace } from "../models/index.js";
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
interface Family {
  /** Hugging Face's `model_type` of the same block. */
  type: string;
  vocabulary: number;
  topK?: number;
  /** Further fields of the configuration. */
  fields?: Readonly<Record<string, unknown>>;
}

const latent = { kv_lora_rank: 512, qk_nope_head_dim: 128, qk_rope_head_dim: 64, v_head_dim: 128 };

/** Models with experts: the first match counts. The sources are their published configurations. */
const mixtures: readonly (readonly [RegExp, Family])[] = [
  [
    /deepseek.?v2.?lite/i,
    {
      type: "deepseek_v2",
      vocabulary: 102_400,
      topK: 6,
      fields: {
        ...latent,
        q_lora_rank: null,
        n_shared_experts: 2,
        first_k_dense_replace: 1,
        intermediate_size: 10_944,
      },
    },
  ],
  [
    /deepseek.?v2/i,
    {
      type: "deepseek_v2",
      vocabulary: 102_400,
      topK: 6,
      fields: {
        ...latent,
        q_lora_rank: 1536,
        n_shared_experts: 2,
        first_k_dense_replace: 1,
        intermediate_size: 12_288,
      },
    },
  ],
  [
    /kimi/i,
    {
      type: "kimi_k2",
      vocabulary: 163_840,
      topK: 8,
      fields: {
        ...latent,
        q_lora_rank: 1536,
        n_shared_experts: 1,
        first_k_dense_replace: 1,
        intermediate_size: 18_432,
      },
    },
  ],
  [
    /moonlight/i,
    {
      type: "deepseek_v3",
      vocabulary: 163_840,
      topK: 6,
      fields: {
        ...latent,
        q_lora_rank: null,
        n_shared_experts: 2,
        first_k_dense_replace: 1,
        intermediate_size: 11_264,
      },
    },
  ],
  [
    /deepseek/i,
    {
      type: "deepseek_v3",
      vocabulary: 129_280,
      topK: 8,
      fields: {
        ...latent,
        q_lora_rank: 1536,
        n_shared_experts: 1,
        first_k_dense_replace: 3,
        intermediate_size: 18_432,
      },
    },
  ],
  [/gpt.?oss/i, { type: "gpt_oss", vocabulary: 201_088, topK: 4 }],
  [/qwen3/i, { type: "qwen3_moe", vocabulary: 151_936, topK: 8, fields: { head_dim: 128 } }],
  [
    /glm/i,
    {
      type: "glm4_moe",
      vocabulary: 151_552,
      topK: 8,
      fields: { first_k_dense_replace: 3, n_shared_experts: 1 },
    },
  ],
  [
    /llama.?4.*scout/i,
    { type: "llama4_text", vocabulary: 202_048, topK: 1, fields: { intermediate_size_mlp: 16_384 } },
  ],
  [
    /llama.?4/i,
    {
      type: "llama4_text",
      vocabulary: 202_048,
      topK: 1,
      fields: { intermediate_size_mlp: 16_384, interleave_moe_layer_step: 2 },
    },
  ],
  // Grok-1's MLP is gated, as Mixtral's.
  [/grok/i, { type: "mixtral", vocabulary: 131_072, topK: 2 }],
  [/./, { type: "mixtral", vocabulary: 32_000, topK: 2 }],
];

/** Dense models: the first match counts. */
const dense: readonly (readonly [RegExp, Family])[] = [
  [/nemotron/i, { type: "nemotron", vocabulary: 256_000 }],
  [/qwen.?3/i, { type: "qwen3", vocabulary: 151_936 }],
  [/qwen/i, { type: "qwen2", vocabulary: 152_064, fields: { use_sliding_window: false } }],
  [/mistral/i, { type: "llama", vocabulary: 32_000 }],
  [/llama.?3/i, { type: "llama", vocabulary: 128_256 }],
  [/internlm/i, { type: "llama", vocabulary: 103_168 }],
  [/llama/i, { type: "llama", vocabulary: 32_000 }],
  // Megatron-LM's GPT: tokens of GPT-2, padded.
  [/./, { type: "gpt2", vocabulary: 51_200 }],
];

const models = new Map<string, Model>();

/**
 * The model of a row's dimensions. A width that the row leaves out is 4 times the hidden size in a plain MLP and 8/3 of
 * it in a gated one. Equal dimensions give the same object.
 * @param tensor tensor-parallel degree, which decides how the software pads a vocabulary.
 * @throws MpoptError E_FIELD where the dimensions do not fit each other.
 */
export function modelOfDimensions(
  dimensions: ModelDimensions,
  software: Software,
  tensor: number,
  where: string,
): Model {
  const families = dimensions.experts ? mixtures : dense;
  const family = families.find(([pattern]) => pattern.test(dimensions.name || "?"))![1];
  const multiple = software.vocabularyMultiple * (software.vocabularyMultiple > 1 ? tensor : 1);
  const vocabulary = Math.ceil((dimensions.vocabulary ?? family.vocabulary) / multiple) * multiple;
  const kernels = { attention: software.attention, dropout: software.dropout } as const;
  const config = configOf(dimensions, family, vocabulary);
  const key = JSON.stringify([config, kernels]);
  const known = models.get(key);
  if (known) return known;
  const model = importHuggingFace(config, where, { name: dimensions.name, source: where, kernels });
  models.set(key, model);
  return model;
}

const plainMlps = new Set(["gpt2", "nemotron"]);

/** The dimensions as a Hugging Face configuration. */
function configOf(dimensions: ModelDimensions, family: Family, vocabulary: number): Record<string, unknown> {
  const { layers, hidden, heads, sequence, experts } = dimensions;
  const ffn = dimensions.ffn ?? (plainMlps.has(family.type) ? 4 * hidden : Math.round((8 * hidden) / 3));
  if (family.type === "gpt2") {
    return {
      model_type: "gpt2",
      n_layer: layers,
      n_embd: hidden,
      n_head: heads,
      n_inner: ffn,
      n_positions: sequence,
      vocab_size: vocabulary,
    };
  }
  const topK = dimensions.topK ?? family.topK;
  return {
    model_type: family.type,
    num_hidden_layers: layers,
    hidden_size: hidden,
    intermediate_size: ffn,
    num_attention_heads: heads,
    num_key_value_heads: dimensions.keyValueHeads ?? heads,
    max_position_embeddings: sequence,
    vocab_size: vocabulary,
    // Names of the same thing in different families; each reads its own.
    ...(experts && {
      num_local_experts: experts,
      num_experts: experts,
      n_routed_experts: experts,
      num_experts_per_tok: topK,
      moe_intermediate_size: ffn,
    }),
    ...family.fields,
  };
}
