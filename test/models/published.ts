/** Published configurations beside the presets, with the parameter counts of the published weights. */

interface Published {
  count: number;
  config: Record<string, unknown>;
}

const llama2 = { model_type: "llama", vocab_size: 32000, tie_word_embeddings: false };
const llama32 = {
  model_type: "llama",
  vocab_size: 128256,
  num_key_value_heads: 8,
  tie_word_embeddings: true,
};
const opt = { model_type: "opt", vocab_size: 50272, max_position_embeddings: 2048 };
const pythia = { model_type: "gpt_neox", vocab_size: 50304 };

export const published: Readonly<Record<string, Published>> = {
  "Llama-2-7B": {
    count: 6_738_415_616,
    config: {
      ...llama2,
      hidden_size: 4096,
      intermediate_size: 11008,
      num_hidden_layers: 32,
      num_attention_heads: 32,
    },
  },
  "Llama-2-70B": {
    count: 68_976_648_192,
    config: {
      ...llama2,
      hidden_size: 8192,
      intermediate_size: 28672,
      num_hidden_layers: 80,
      num_attention_heads: 64,
      num_key_value_heads: 8,
    },
  },
  "Llama-3.2-1B (tied, head_dim given)": {
    count: 1_235_814_400,
    config: {
      ...llama32,
      hidden_size: 2048,
      intermediate_size: 8192,
      num_hidden_layers: 16,
      num_attention_heads: 32,
      head_dim: 64,
    },
  },
  "Qwen2.5-0.5B (tied)": {
    count: 494_032_768,
    config: {
      model_type: "qwen2",
      vocab_size: 151936,
      hidden_size: 896,
      intermediate_size: 4864,
      num_hidden_layers: 24,
      num_attention_heads: 14,
      num_key_value_heads: 2,
      tie_word_embeddings: true,
    },
  },
  "Qwen2.5-7B": {
    count: 7_615_616_512,
    config: {
      model_type: "qwen2",
      vocab_size: 152064,
      hidden_size: 3584,
      intermediate_size: 18944,
      num_hidden_layers: 28,
      num_attention_heads: 28,
      num_key_value_heads: 4,
    },
  },
  "Qwen3-0.6B (tied, heads wider than hidden)": {
    count: 596_049_920,
    config: {
      model_type: "qwen3",
      vocab_size: 151936,
      hidden_size: 1024,
      intermediate_size: 3072,
      num_hidden_layers: 28,
      num_attention_heads: 16,
      num_key_value_heads: 8,
      tie_word_embeddings: true,
    },
  },
  "Qwen3-8B": {
    count: 8_190_735_360,
    config: {
      model_type: "qwen3",
      vocab_size: 151936,
      hidden_size: 4096,
      intermediate_size: 12288,
      num_hidden_layers: 36,
      num_attention_heads: 32,
      num_key_value_heads: 8,
      head_dim: 128,
    },
  },
  "Gemma-2-2B": {
    count: 2_614_341_888,
    config: {
      model_type: "gemma2",
      vocab_size: 256000,
      hidden_size: 2304,
      intermediate_size: 9216,
      num_hidden_layers: 26,
      num_attention_heads: 8,
      num_key_value_heads: 4,
    },
  },
  "Gemma-2-9B": {
    count: 9_241_705_984,
    config: {
      model_type: "gemma2",
      vocab_size: 256000,
      hidden_size: 3584,
      intermediate_size: 14336,
      num_hidden_layers: 42,
      num_attention_heads: 16,
      num_key_value_heads: 8,
      head_dim: 256,
    },
  },
  "GPT-2 XL": {
    count: 1_557_611_200,
    config: {
      model_type: "gpt2",
      vocab_size: 50257,
      n_positions: 1024,
      n_embd: 1600,
      n_layer: 48,
      n_head: 25,
    },
  },
  "OPT-125M": {
    count: 125_239_296,
    config: { ...opt, hidden_size: 768, ffn_dim: 3072, num_hidden_layers: 12, num_attention_heads: 12 },
  },
  "OPT-350M (projected embedding, post-norm)": {
    count: 331_196_416,
    config: {
      ...opt,
      hidden_size: 1024,
      ffn_dim: 4096,
      num_hidden_layers: 24,
      num_attention_heads: 16,
      word_embed_proj_dim: 512,
      do_layer_norm_before: false,
    },
  },
  "OPT-1.3B": {
    count: 1_315_758_080,
    config: { ...opt, hidden_size: 2048, ffn_dim: 8192, num_hidden_layers: 24, num_attention_heads: 32 },
  },
  "GPT-NeoX-20B": {
    count: 20_554_567_680,
    config: {
      model_type: "gpt_neox",
      vocab_size: 50432,
      hidden_size: 6144,
      intermediate_size: 24576,
      num_hidden_layers: 44,
      num_attention_heads: 64,
    },
  },
  "Pythia-70M": {
    count: 70_426_624,
    config: {
      ...pythia,
      hidden_size: 512,
      intermediate_size: 2048,
      num_hidden_layers: 6,
      num_attention_heads: 8,
    },
  },
  "Pythia-6.9B": {
    count: 6_857_302_016,
    config: {
      ...pythia,
      vocab_size: 50432,
      hidden_size: 4096,
      intermediate_size: 16384,
      num_hidden_layers: 32,
      num_attention_heads: 32,
    },
  },
  "Mixtral-8x22B": {
    count: 140_630_071_296,
    config: {
      model_type: "mixtral",
      vocab_size: 32768,
      hidden_size: 6144,
      intermediate_size: 16384,
      num_hidden_layers: 56,
      num_attention_heads: 48,
      num_key_value_heads: 8,
      num_local_experts: 8,
      num_experts_per_tok: 2,
    },
  },
  "Qwen3-235B-A22B": {
    count: 235_093_634_560,
    config: {
      model_type: "qwen3_moe",
      vocab_size: 151936,
      hidden_size: 4096,
      intermediate_size: 12288,
      moe_intermediate_size: 1536,
      num_hidden_layers: 94,
      num_attention_heads: 64,
      num_key_value_heads: 4,
      head_dim: 128,
      num_experts: 128,
      num_experts_per_tok: 8,
    },
  },
  "DeepSeek-V2-Lite (no query rank)": {
    count: 15_706_484_224,
    config: {
      model_type: "deepseek_v2",
      vocab_size: 102400,
      hidden_size: 2048,
      intermediate_size: 10944,
      moe_intermediate_size: 1408,
      num_hidden_layers: 27,
      num_attention_heads: 16,
      q_lora_rank: null,
      kv_lora_rank: 512,
      qk_nope_head_dim: 128,
      qk_rope_head_dim: 64,
      v_head_dim: 128,
      n_routed_experts: 64,
      n_shared_experts: 2,
      num_experts_per_tok: 6,
      first_k_dense_replace: 1,
    },
  },
  "DeepSeek-V2": {
    count: 235_741_434_880,
    config: {
      model_type: "deepseek_v2",
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
    },
  },
};

/** One small configuration of every structure that the importers build. */
export const samples: Readonly<Record<string, Record<string, unknown>>> = {
  llama: small("llama", { attention_bias: true, mlp_bias: true }),
  mistral: small("mistral", { num_key_value_heads: 2, sliding_window: 24 }),
  qwen2: small("qwen2", { num_key_value_heads: 2, use_sliding_window: true, max_window_layers: 2 }),
  qwen3: small("qwen3", { num_key_value_heads: 2, head_dim: 24 }),
  gemma2: small("gemma2", { num_key_value_heads: 2, head_dim: 24, sliding_window: 24 }),
  gemma3_text: small("gemma3_text", {
    num_key_value_heads: 2,
    head_dim: 24,
    sliding_window: 24,
    num_hidden_layers: 7,
  }),
  nemotron: small("nemotron", { num_key_value_heads: 2 }),
  mixtral: small("mixtral", { num_key_value_heads: 2, num_local_experts: 4, num_experts_per_tok: 2 }),
  qwen3_moe: small("qwen3_moe", {
    num_key_value_heads: 2,
    num_experts: 8,
    num_experts_per_tok: 3,
    moe_intermediate_size: 20,
    decoder_sparse_step: 2,
  }),
  qwen2_moe: small("qwen2_moe", {
    num_key_value_heads: 2,
    num_experts: 8,
    num_experts_per_tok: 3,
    moe_intermediate_size: 20,
    shared_expert_intermediate_size: 28,
    mlp_only_layers: [1],
  }),
  gpt_oss: small("gpt_oss", {
    num_key_value_heads: 2,
    head_dim: 24,
    num_local_experts: 8,
    num_experts_per_tok: 3,
    sliding_window: 24,
  }),
  llama4_text: small("llama4_text", {
    num_key_value_heads: 2,
    head_dim: 24,
    intermediate_size: 20,
    intermediate_size_mlp: 112,
    num_local_experts: 8,
    num_experts_per_tok: 1,
    interleave_moe_layer_step: 2,
    attention_chunk_size: 48,
  }),
  glm4_moe: small("glm4_moe", {
    num_key_value_heads: 2,
    head_dim: 24,
    n_routed_experts: 8,
    n_shared_experts: 2,
    num_experts_per_tok: 3,
    moe_intermediate_size: 20,
    first_k_dense_replace: 1,
    attention_bias: true,
    use_qk_norm: true,
    num_nextn_predict_layers: 1,
  }),
  deepseek_v2: deepseek("deepseek_v2", { q_lora_rank: null, first_k_dense_replace: 1 }),
  deepseek_v3: deepseek("deepseek_v3", { q_lora_rank: 40, first_k_dense_replace: 2 }),
  "deepseek_v3, two further predictions": deepseek("deepseek_v3", {
    q_lora_rank: 40,
    first_k_dense_replace: 2,
    num_nextn_predict_layers: 2,
  }),
  bloom: { model_type: "bloom", vocab_size: 96, hidden_size: 64, n_layer: 3, n_head: 4, seq_length: 256 },
  gpt2: { model_type: "gpt2", vocab_size: 96, n_positions: 256, n_embd: 64, n_layer: 3, n_head: 4 },
  opt: {
    model_type: "opt",
    vocab_size: 96,
    max_position_embeddings: 256,
    hidden_size: 64,
    ffn_dim: 128,
    num_hidden_layers: 3,
    num_attention_heads: 4,
  },
  "opt, post-norm": {
    model_type: "opt",
    vocab_size: 96,
    max_position_embeddings: 256,
    hidden_size: 64,
    ffn_dim: 128,
    num_hidden_layers: 3,
    num_attention_heads: 4,
    word_embed_proj_dim: 32,
    do_layer_norm_before: false,
  },
  gpt_neox: small("gpt_neox", {}),
  "gpt_neox, sequential": small("gpt_neox", { use_parallel_residual: false }),
};

function small(family: string, more: Record<string, unknown>): Record<string, unknown> {
  return {
    model_type: family,
    vocab_size: 96,
    hidden_size: 64,
    intermediate_size: 112,
    num_hidden_layers: 4,
    num_attention_heads: 4,
    max_position_embeddings: 256,
    ...more,
  };
}

function deepseek(family: string, more: Record<string, unknown>): Record<string, unknown> {
  return small(family, {
    kv_lora_rank: 32,
    qk_nope_head_dim: 16,
    qk_rope_head_dim: 8,
    v_head_dim: 12,
    n_routed_experts: 8,
    n_shared_experts: 2,
    num_experts_per_tok: 3,
    moe_intermediate_size: 20,
    ...more,
  });
}
