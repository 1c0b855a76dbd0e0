import { buildDecoder } from "../decoder/build.js";
import type { DecoderNames, DecoderSpec } from "../decoder/spec.js";
import type { ConfigFields } from "./fields.js";
import type { Importer } from "./importer.js";

/**
 * GPT-2: learned positions, pre-norm with bias, fused q, k, v. Names and defaults follow transformers; the
 * file may use the general names (hidden_size) for GPT-2's own (n_embd).
 */

export const gpt2Names: DecoderNames = {
  embedding: "transformer.wte",
  positions: { module: "transformer.wpe", addModule: "transformer" },
  layers: "transformer.h",
  finalNorm: "transformer.ln_f",
  head: "lm_head",
  attentionNorm: "ln_1",
  attention: "attn",
  mlpNorm: "ln_2",
  mlp: "mlp",
  qkv: { fused: "c_attn", layout: "gpt2" },
  output: "c_proj",
  up: "c_fc",
  down: "c_proj",
  gate: "c_gate",
  inputFirst: true,
};

function read(fields: ConfigFields): DecoderSpec {
  if (fields.flag("add_cross_attention", false)) {
    throw fields.error("add_cross_attention", "false, as a decoder alone is imported,");
  }
  const hidden = fields.size(["n_embd", "hidden_size"]);
  const heads = fields.size(["n_head", "num_attention_heads"]);
  const layer = { ffn: fields.size("n_inner", 4 * hidden), rotary: false };
  return {
    family: "gpt2",
    names: gpt2Names,
    hidden,
    heads,
    keyValueHeads: heads,
    headSize: fields.divided(hidden, "n_embd", heads, "n_head"),
    layers: Array(fields.layers(["n_layer", "num_hidden_layers"])).fill(layer),
    vocabulary: fields.size("vocab_size"),
    maxSequence: fields.size(["n_positions", "max_position_embeddings", "n_ctx"]),
    activation: fields.text("activation_function", "gelu_new"),
    gated: false,
    norm: "layer_norm",
    epsilon: fields.positive("layer_norm_epsilon", 1e-5),
    bias: { qkv: true, output: true, mlp: true },
    positions: "learned",
    tied: fields.flag("tie_word_embeddings", true),
  };
}

export const importGpt2: Importer = (fields, context) => buildDecoder(read(fields), context);
