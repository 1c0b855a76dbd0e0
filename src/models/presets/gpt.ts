/** GPT-2 and a small relative of it. */

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
