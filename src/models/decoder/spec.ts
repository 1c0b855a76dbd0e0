import type { Architecture } from "../../contracts/index.js";
import type { FusedLayout } from "./attention.js";
import type { RoutedExperts } from "./experts.js";

/**
 * A decoder-only transformer, as the graph builder takes it. Importers of configurations and `transformerModel`
 * write one, so that every model goes through one builder.
 */

/** Names of modules, as the framework's model has them. */
export interface DecoderNames {
  embedding: string;
  /** Learned positions and the module that adds them. */
  positions?: { module: string; addModule: string };
  /** Norm behind the embedding (BLOOM). */
  embeddingNorm?: string;
  /** The list of layers: layer i is `${layers}.${i}`. */
  layers: string;
  finalNorm: string;
  head: string;
  /** Modules inside a layer. */
  attentionNorm: string;
  attention: string;
  /** Norms behind each branch (Gemma). */
  branchNorms?: { attention: string; mlp: string };
  mlpNorm: string;
  mlp: string;
  /** Modules inside the attention. */
  qkv: "separate" | { fused: string; layout: FusedLayout };
  output: string;
  /** Modules inside the MLP. */
  up: string;
  down: string;
  gate: string;
  /** `up` holds the weights of both in a gated MLP. */
  fusedGate?: boolean;
  /** Modules inside a mixture of experts. */
  router?: string;
  sharedExpert?: string;
  /** Weights are stored input first (GPT-2's Conv1D). */
  inputFirst?: boolean;
}

/** Multi-head latent attention (DeepSeek-V2, 2024, section 2.1); a query rank of 0 projects queries directly. */
export type Latent = NonNullable<Architecture["latent"]>;

/** What layers may differ in. */
export interface DecoderLayer {
  ffn: number;
  /** In place of the dense MLP. */
  experts?: RoutedExperts;
  /** Keys that a query sees at most; all before it where absent. */
  window?: number;
  /** The window's place is fixed: a query sees keys of its own piece of the sequence only (Llama 4). */
  chunked?: boolean;
  /** False for a layer without rotary positions in a model that has them (Llama 4). */
  rotary: boolean;
}

export interface DecoderSpec {
  /** Name of the family in `architecture`. */
  family: string;
  names: DecoderNames;
  hidden: number;
  heads: number;
  keyValueHeads: number;
  headSize: number;
  latent?: Latent;
  vocabulary: number;
  maxSequence: number;
  activation: string;
  gated: boolean;
  norm: Architecture["norm"];
  epsilon: number;
  /** False for layer norms with a gain alone (PaLM). */
  normBias?: boolean;
  bias: { qkv: boolean; output: boolean; mlp: boolean };
  positions: Architecture["positions"];
  ropeTheta?: number;
  /** Part of every head's features that is rotated. */
  rotaryFraction?: number;
  /** Norms of q and k before attention: over each head's features, with a gain or without. */
  queryKeyNorm?: "affine" | "plain";
  /** One learned score a head that takes part in the softmax alone (GPT-OSS). */
  sinks?: boolean;
  /** Attention and MLP side by side on one input each, added at once. */
  parallelResidual?: boolean;
  /** The branches of a parallel layer read one norm (PaLM), where they have one each otherwise (GPT-NeoX). */
  sharedNorm?: boolean;
  /** The embedding is multiplied by a constant. */
  scaledEmbedding?: boolean;
  softCapScores?: boolean;
  softCapLogits?: boolean;
  tied: boolean;
  layers: DecoderLayer[];
  /** Further tokens that training predicts at each position (DeepSeek-V3, 2024, section 2.2). */
  nextTokenPredictions?: number;
}

/** Names of Megatron-Core's GPTModel. */
export const megatronNames: DecoderNames = {
  embedding: "embedding.word_embeddings",
  layers: "decoder.layers",
  finalNorm: "decoder.final_layernorm",
  head: "output_layer",
  attentionNorm: "input_layernorm",
  attention: "self_attention",
  mlpNorm: "pre_mlp_layernorm",
  mlp: "mlp",
  qkv: { fused: "linear_qkv", layout: "megatron" },
  output: "linear_proj",
  up: "linear_fc1",
  down: "linear_fc2",
  gate: "linear_fc1",
  fusedGate: true,
  router: "router",
};

/** Names of Llama's modules, which most families share. */
export const llamaNames: DecoderNames = {
  embedding: "model.embed_tokens",
  layers: "model.layers",
  finalNorm: "model.norm",
  head: "lm_head",
  attentionNorm: "input_layernorm",
  attention: "self_attn",
  mlpNorm: "post_attention_layernorm",
  mlp: "mlp",
  qkv: "separate",
  output: "o_proj",
  up: "up_proj",
  down: "down_proj",
  gate: "gate_proj",
};
