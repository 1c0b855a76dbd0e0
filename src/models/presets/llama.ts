/** Dense models with the block of Llama. */

/** The Llama 3 Herd of Models, 2024, table 3; RMSNorm epsilon and positions as published with the weights. */
const llama31 = {
  model_type: "llama",
  architectures: ["LlamaForCausalLM"],
  vocab_size: 128256,
  num_key_value_heads: 8,
  hidden_act: "silu",
  max_position_embeddings: 131072,
  rms_norm_eps: 1e-5,
  rope_theta: 500000,
  attention_bias: false,
  mlp_bias: false,
  tie_word_embeddings: false,
};

export const llama31With8b = {
  ...llama31,
  hidden_size: 4096,
  intermediate_size: 14336,
  num_hidden_layers: 32,
  num_attention_heads: 32,
};

export const llama31With70b = {
  ...llama31,
  hidden_size: 8192,
  intermediate_size: 28672,
  num_hidden_layers: 80,
  num_attention_heads: 64,
};

export const llama31With405b = {
  ...llama31,
  hidden_size: 16384,
  intermediate_size: 53248,
  num_hidden_layers: 126,
  num_attention_heads: 128,
};

/** A Llama that trains on a processor in seconds. */
export const miniLlama = {
  ...llama31,
  vocab_size: 8192,
  hidden_size: 512,
  intermediate_size: 1408,
  num_hidden_layers: 8,
  num_attention_heads: 8,
  num_key_value_heads: 4,
  max_position_embeddings: 2048,
};

/** Mistral 7B, 2023, table 1. */
export const mistral7b = {
  model_type: "mistral",
  architectures: ["MistralForCausalLM"],
  vocab_size: 32000,
  hidden_size: 4096,
  intermediate_size: 14336,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  num_key_value_heads: 8,
  hidden_act: "silu",
  max_position_embeddings: 32768,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  sliding_window: 4096,
  tie_word_embeddings: false,
};

/** Qwen2.5 Technical Report, 2024, table 1; widths as published with the weights. */
export const qwen25With72b = {
  model_type: "qwen2",
  architectures: ["Qwen2ForCausalLM"],
  vocab_size: 152064,
  hidden_size: 8192,
  intermediate_size: 29568,
  num_hidden_layers: 80,
  num_attention_heads: 64,
  num_key_value_heads: 8,
  hidden_act: "silu",
  max_position_embeddings: 131072,
  rms_norm_eps: 1e-5,
  rope_theta: 1000000,
  use_sliding_window: false,
  tie_word_embeddings: false,
};
