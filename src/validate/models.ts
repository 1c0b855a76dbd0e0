import type { Model } from "../contracts/index.js";
import { importHuggingFace } from "../models/index.js";
import type { Software } from "./kinds.js";

/** Dimensions of a transformer as rows give them. */
export interface ModelDimensions {
  name: string;
  layers: number;
  hidden: number;
  /** Width of the MLP, of one expert where there are any; undefined where the row does not say. */
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
  /** Hugging Face family whose block it has. */
  type: "gpt2" | "llama" | "qwen3_moe" | "mixtral" | "deepseek_v2" | "deepseek_v3";
  /** Where the row does not say. */
  vocabulary: number;
  topK?: number;
  fields?: Readonly<Record<string, unknown>>;
}

/** Megatron-LM's GPT-2 vocabulary, padded. */
const gptVocabulary = 51200;

/** First match counts; the sources are the models' published configurations. */
const families: readonly (readonly [RegExp, Family])[] = [
  [
    /deepseek.?v3|kimi/i,
    {
      type: "deepseek_v3",
      vocabulary: 129280,
      topK: 8,
      fields: { n_shared_experts: 1, first_k_dense_replace: 3, intermediate_size: 18432, q_lora_rank: 1536 },
    },
  ],
  [
    /deepseek.?v2/i,
    {
      type: "deepseek_v2",
      vocabulary: 102400,
      topK: 6,
      fields: { n_shared_experts: 2, first_k_dense_replace: 1, intermediate_size: 12288, q_lora_rank: 1536 },
    },
  ],
  [/gpt.?oss/i, { type: "qwen3_moe", vocabulary: 201088, topK: 4, fields: { head_dim: 64 } }],
  [/qwen3/i, { type: "qwen3_moe", vocabulary: 151936, topK: 8, fields: { head_dim: 128 } }],
  [/mixtral/i, { type: "mixtral", vocabulary: 32000, topK: 2 }],
  [/grok/i, { type: "mixtral", vocabulary: 131072, topK: 2 }],
  [/llama.?4/i, { type: "mixtral", vocabulary: 202048, topK: 1 }],
  [/llama.?3/i, { type: "llama", vocabulary: 128256 }],
  [/llama|internlm/i, { type: "llama", vocabulary: 32000 }],
];

const gpt: Family = { type: "gpt2", vocabulary: gptVocabulary };
const mixture: Family = { type: "mixtral", vocabulary: 32000, topK: 2 };

function familyOf({ name, experts }: ModelDimensions): Family {
  return families.find(([pattern]) => pattern.test(name))?.[1] ?? (experts ? mixture : gpt);
}

const models = new Map<string, Model>();

/**
 * The model of a row's dimensions. A width that the row leaves out is 4 times the hidden size in GPT's MLP and 8/3 of
 * it in a gated one. Equal dimensions give the same object.
 * @param tensor tensor-parallel degree, which decides how a vocabulary is padded.
 * @throws MpoptError E_FIELD where the dimensions do not fit each other.
 */
export function modelOfDimensions(
  dimensions: ModelDimensions,
  software: Software,
  tensor: number,
  where: string,
): Model {
  const family = familyOf(dimensions);
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

function configOf(dimensions: ModelDimensions, family: Family, vocabulary: number): Record<string, unknown> {
  const { layers, hidden, heads, sequence, experts } = dimensions;
  if (family.type === "gpt2") {
    return {
      model_type: "gpt2",
      n_layer: layers,
      n_embd: hidden,
      n_head: heads,
      n_inner: dimensions.ffn ?? 4 * hidden,
      n_positions: sequence,
      vocab_size: vocabulary,
    };
  }
  const ffn = dimensions.ffn ?? Math.round((8 * hidden) / 3);
  const common = {
    model_type: family.type,
    num_hidden_layers: layers,
    hidden_size: hidden,
    intermediate_size: ffn,
    num_attention_heads: heads,
    num_key_value_heads: dimensions.keyValueHeads ?? heads,
    max_position_embeddings: sequence,
    vocab_size: vocabulary,
  };
  const topK = dimensions.topK ?? family.topK;
  if (family.type.startsWith("deepseek")) {
    return {
      ...common,
      kv_lora_rank: 512,
      qk_nope_head_dim: 128,
      qk_rope_head_dim: 64,
      v_head_dim: 128,
      n_routed_experts: experts ?? null,
      num_experts_per_tok: topK,
      moe_intermediate_size: ffn,
      ...family.fields,
    };
  }
  if (!experts)
    return { ...common, ...(family.type === "llama" ? {} : { model_type: "llama", ...family.fields }) };
  return {
    ...common,
    num_local_experts: experts,
    num_experts_per_tok: topK,
    moe_intermediate_size: ffn,
    ...family.fields,
  };
}
