/** Models with learned positions or ALiBi, biases and layer norms. */

/** Radford et al., 2019, table 2, first row; 1024 positions, 50,257 tokens. */
export const gpt2 = {
  model_type: "gpt2",
  architectures: ["GPT2LMHeadModel"],
  vocab_size: 50257,
  n_positions: 1024,
  n_embd: 768,
  n_layer: 12,
  n_head: 12,
  activation_function: "gelu_new",
  layer_norm_epsilon: 1e-5,
  tie_word_embeddings: true,
};

/** A GPT-2 that trains on a processor in seconds. */
export const tinyGpt = {
  model_type: "gpt2",
  architectures: ["GPT2LMHeadModel"],
  vocab_size: 2048,
  n_positions: 256,
  n_embd: 256,
  n_layer: 4,
  n_head: 4,
  activation_function: "gelu_new",
  layer_norm_epsilon: 1e-5,
  tie_word_embeddings: true,
};

/** OPT, 2022, table 1. */
export const opt175b = {
  model_type: "opt",
  architectures: ["OPTForCausalLM"],
  vocab_size: 50272,
  max_position_embeddings: 2048,
  hidden_size: 12288,
  ffn_dim: 49152,
  num_hidden_layers: 96,
  num_attention_heads: 96,
  activation_function: "relu",
  tie_word_embeddings: true,
};

/** BLOOM, 2022, table 3. */
export const bloom176b = {
  model_type: "bloom",
  architectures: ["BloomForCausalLM"],
  vocab_size: 250880,
  hidden_size: 14336,
  n_layer: 70,
  n_head: 112,
  seq_length: 2048,
  layer_norm_epsilon: 1e-5,
  tie_word_embeddings: true,
};

/** GPT-NeoX-20B, 2022, section 2.1. */
export const gptNeox20b = {
  model_type: "gpt_neox",
  architectures: ["GPTNeoXForCausalLM"],
  vocab_size: 50432,
  hidden_size: 6144,
  intermediate_size: 24576,
  num_hidden_layers: 44,
  num_attention_heads: 64,
  hidden_act: "gelu_fast",
  rotary_pct: 0.25,
  max_position_embeddings: 2048,
  tie_word_embeddings: false,
};
