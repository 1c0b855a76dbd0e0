/** Models with experts. */

/** Mixtral of Experts, 2024, table 1. */
export const mixtral8x7b = {
  model_type: "mixtral",
  architectures: ["MixtralForCausalLM"],
  vocab_size: 32000,
  hidden_size: 4096,
  intermediate_size: 14336,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  num_key_value_heads: 8,
  num_local_experts: 8,
  num_experts_per_tok: 2,
  hidden_act: "silu",
  max_position_embeddings: 32768,
  rms_norm_eps: 1e-5,
  rope_theta: 1000000,
  sliding_window: null,
  tie_word_embeddings: false,
};

/** Qwen3 Technical Report, 2025, table 2; widths as published with the weights. */
export const qwen3With30bA3b = {
  model_type: "qwen3_moe",
  architectures: ["Qwen3MoeForCausalLM"],
  vocab_size: 151936,
  hidden_size: 2048,
  intermediate_size: 6144,
  moe_intermediate_size: 768,
  num_hidden_layers: 48,
  num_attention_heads: 32,
  num_key_value_heads: 4,
  head_dim: 128,
  num_experts: 128,
  num_experts_per_tok: 8,
  decoder_sparse_step: 1,
  mlp_only_layers: [],
  hidden_act: "silu",
  max_position_embeddings: 40960,
  rms_norm_eps: 1e-6,
  rope_theta: 1000000,
  attention_bias: false,
  use_sliding_window: false,
  tie_word_embeddings: false,
};

/** Qwen3 Technical Report, 2025, table 2; widths as published with the weights. */
export const qwen3With235bA22b = {
  ...qwen3With30bA3b,
  hidden_size: 4096,
  intermediate_size: 12288,
  moe_intermediate_size: 1536,
  num_hidden_layers: 94,
  num_attention_heads: 64,
};

/** Mixtral 8x22B, as published with the weights. */
export const mixtral8x22b = {
  ...mixtral8x7b,
  vocab_size: 32768,
  hidden_size: 6144,
  intermediate_size: 16384,
  num_hidden_layers: 56,
  num_attention_heads: 48,
  max_position_embeddings: 65536,
};

/** gpt-oss-120b & gpt-oss-20b Model Card, 2025, section 2: windows of 128 in every other layer, biases, sinks. */
const gptOss = {
  model_type: "gpt_oss",
  architectures: ["GptOssForCausalLM"],
  vocab_size: 201088,
  hidden_size: 2880,
  intermediate_size: 2880,
  num_attention_heads: 64,
  num_key_value_heads: 8,
  head_dim: 64,
  num_experts_per_tok: 4,
  hidden_act: "silu",
  max_position_embeddings: 131072,
  rms_norm_eps: 1e-5,
  rope_theta: 150000,
  sliding_window: 128,
  attention_bias: true,
  tie_word_embeddings: false,
};

export const gptOss20b = { ...gptOss, num_hidden_layers: 24, num_local_experts: 32 };
export const gptOss120b = { ...gptOss, num_hidden_layers: 36, num_local_experts: 128 };

/** The language models of Llama 4, as published with the weights. */
const llama4 = {
  model_type: "llama4_text",
  architectures: ["Llama4ForCausalLM"],
  vocab_size: 202048,
  hidden_size: 5120,
  intermediate_size: 8192,
  intermediate_size_mlp: 16384,
  num_hidden_layers: 48,
  num_attention_heads: 40,
  num_key_value_heads: 8,
  head_dim: 128,
  num_experts_per_tok: 1,
  hidden_act: "silu",
  rms_norm_eps: 1e-5,
  rope_theta: 500000,
  no_rope_layer_interval: 4,
  attention_chunk_size: 8192,
  tie_word_embeddings: false,
};

export const llama4Scout = {
  ...llama4,
  num_local_experts: 16,
  interleave_moe_layer_step: 1,
  use_qk_norm: true,
  max_position_embeddings: 10485760,
};

export const llama4Maverick = {
  ...llama4,
  num_local_experts: 128,
  interleave_moe_layer_step: 2,
  use_qk_norm: false,
  max_position_embeddings: 1048576,
};

/** GLM-4.5, 2025, table 1; as published with the weights, without their layer of multi-token prediction. */
const glm45Family = {
  model_type: "glm4_moe",
  architectures: ["Glm4MoeForCausalLM"],
  vocab_size: 151552,
  num_attention_heads: 96,
  num_key_value_heads: 8,
  head_dim: 128,
  n_shared_experts: 1,
  num_experts_per_tok: 8,
  hidden_act: "silu",
  max_position_embeddings: 131072,
  rms_norm_eps: 1e-5,
  rope_theta: 1000000,
  partial_rotary_factor: 0.5,
  attention_bias: true,
  tie_word_embeddings: false,
};

export const glm45 = {
  ...glm45Family,
  hidden_size: 5120,
  intermediate_size: 12288,
  moe_intermediate_size: 1536,
  num_hidden_layers: 92,
  n_routed_experts: 160,
  first_k_dense_replace: 3,
  use_qk_norm: true,
};

export const glm45Air = {
  ...glm45Family,
  hidden_size: 4096,
  intermediate_size: 10944,
  moe_intermediate_size: 1408,
  num_hidden_layers: 46,
  n_routed_experts: 128,
  first_k_dense_replace: 1,
  use_qk_norm: false,
};

/** DeepSeek-V2, 2024, section 3.1.2. */
export const deepseekV2 = {
  model_type: "deepseek_v2",
  architectures: ["DeepseekV2ForCausalLM"],
  vocab_size: 102400,
  hidden_size: 5120,
  intermediate_size: 12288,
  moe_intermediate_size: 1536,
  num_hidden_layers: 60,
  num_attention_heads: 128,
  q_lora_rank: 1536,
  kv_lora_rank: 512,
  qk_nope_head_dim: 128,
  qk_rope_head_dim: 64,
  v_head_dim: 128,
  n_routed_experts: 160,
  n_shared_experts: 2,
  num_experts_per_tok: 6,
  first_k_dense_replace: 1,
  hidden_act: "silu",
  max_position_embeddings: 163840,
  rms_norm_eps: 1e-6,
  rope_theta: 10000,
  tie_word_embeddings: false,
};

/** DeepSeek-V3 Technical Report, 2024, section 4.2. */
export const deepseekV3 = {
  model_type: "deepseek_v3",
  architectures: ["DeepseekV3ForCausalLM"],
  vocab_size: 129280,
  hidden_size: 7168,
  intermediate_size: 18432,
  moe_intermediate_size: 2048,
  num_hidden_layers: 61,
  num_attention_heads: 128,
  q_lora_rank: 1536,
  kv_lora_rank: 512,
  qk_nope_head_dim: 128,
  qk_rope_head_dim: 64,
  v_head_dim: 128,
  n_routed_experts: 256,
  n_shared_experts: 1,
  num_experts_per_tok: 8,
  first_k_dense_replace: 3,
  moe_layer_freq: 1,
  topk_method: "noaux_tc",
  hidden_act: "silu",
  max_position_embeddings: 163840,
  rms_norm_eps: 1e-6,
  rope_theta: 10000,
  attention_bias: false,
  tie_word_embeddings: false,
};

/** DeepSeek-V3 as it was trained: with multi-token prediction of depth 1 (Technical Report, section 4.2). */
export const deepseekV3WithPrediction = { ...deepseekV3, num_nextn_predict_layers: 1 };

/** Kimi K2, 2025, table 2: DeepSeek-V3's block, half the heads, half as many experts again. */
export const kimiK2 = {
  ...deepseekV3,
  model_type: "kimi_k2",
  vocab_size: 163840,
  num_attention_heads: 64,
  n_routed_experts: 384,
  first_k_dense_replace: 1,
  max_position_embeddings: 131072,
  rope_theta: 50000,
};
