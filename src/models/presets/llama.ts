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

/** Llama 3, April 2024: the dimensions of 3.1 at 8192 positions. */
export const llama3With8b = { ...llama31With8b, max_position_embeddings: 8192 };
export const llama3With70b = { ...llama31With70b, max_position_embeddings: 8192 };

/** Llama 3.2, as published with the weights. */
export const llama32With1b = {
  ...llama31,
  hidden_size: 2048,
  intermediate_size: 8192,
  num_hidden_layers: 16,
  num_attention_heads: 32,
  head_dim: 64,
  tie_word_embeddings: true,
};

export const llama32With3b = {
  ...llama31,
  hidden_size: 3072,
  intermediate_size: 8192,
  num_hidden_layers: 28,
  num_attention_heads: 24,
  head_dim: 128,
  tie_word_embeddings: true,
};

/** Llama 2, 2023, table 1; widths as published with the weights. */
const llama2 = {
  ...llama31,
  vocab_size: 32000,
  max_position_embeddings: 4096,
  rope_theta: 10000,
};

export const llama2With7b = {
  ...llama2,
  hidden_size: 4096,
  intermediate_size: 11008,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  num_key_value_heads: 32,
};

export const llama2With13b = {
  ...llama2,
  hidden_size: 5120,
  intermediate_size: 13824,
  num_hidden_layers: 40,
  num_attention_heads: 40,
  num_key_value_heads: 40,
};

export const llama2With70b = {
  ...llama2,
  hidden_size: 8192,
  intermediate_size: 28672,
  num_hidden_layers: 80,
  num_attention_heads: 64,
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

/** Gemma 2, 2024, table 1. */
export const gemma2With27b = {
  model_type: "gemma2",
  architectures: ["Gemma2ForCausalLM"],
  vocab_size: 256000,
  hidden_size: 4608,
  intermediate_size: 36864,
  num_hidden_layers: 46,
  num_attention_heads: 32,
  num_key_value_heads: 16,
  head_dim: 128,
  hidden_activation: "gelu_pytorch_tanh",
  max_position_embeddings: 8192,
  rms_norm_eps: 1e-6,
  rope_theta: 10000,
  sliding_window: 4096,
  tie_word_embeddings: true,
};

/** Gemma 3 Technical Report, 2025, section 2: five layers with a window to one without. The language model alone. */
export const gemma3With27b = {
  model_type: "gemma3_text",
  architectures: ["Gemma3ForCausalLM"],
  vocab_size: 262208,
  hidden_size: 5376,
  intermediate_size: 21504,
  num_hidden_layers: 62,
  num_attention_heads: 32,
  num_key_value_heads: 16,
  head_dim: 128,
  hidden_activation: "gelu_pytorch_tanh",
  max_position_embeddings: 131072,
  rms_norm_eps: 1e-6,
  rope_theta: 1000000,
  sliding_window: 1024,
  sliding_window_pattern: 6,
  tie_word_embeddings: true,
};

/** Nemotron-4 340B Technical Report, 2024, table 1: squared ReLU, no gate, rotary over half of each head. */
export const nemotron4With340b = {
  model_type: "nemotron",
  architectures: ["NemotronForCausalLM"],
  vocab_size: 256000,
  hidden_size: 18432,
  intermediate_size: 73728,
  num_hidden_layers: 96,
  num_attention_heads: 96,
  num_key_value_heads: 8,
  hidden_act: "relu2",
  max_position_embeddings: 4096,
  norm_eps: 1e-5,
  partial_rotary_factor: 0.5,
  rope_theta: 10000,
  tie_word_embeddings: false,
};
