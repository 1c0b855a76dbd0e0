import { buildDecoder } from "../decoder/build.js";
import type { DecoderNames, DecoderSpec } from "../decoder/spec.js";
import type { ConfigFields } from "./fields.js";
import type { Importer } from "./importer.js";

/**
 * GPT-NeoX and Pythia: rotary positions over a part of each head, fused q, k, v, attention and MLP side by
 * side. Structure and defaults follow transformers.
 */

const names: DecoderNames = {
  embedding: "gpt_neox.embed_in",
  layers: "gpt_neox.layers",
  finalNorm: "gpt_neox.final_layer_norm",
  head: "lm_head",
  attentionNorm: "input_layernorm",
  attention: "attention",
  mlpNorm: "post_attention_layernorm",
  mlp: "mlp",
  qkv: { fused: "query_key_value", layout: "gpt_neox" },
  output: "dense",
  up: "dense_h_to_4h",
  down: "dense_4h_to_h",
  gate: "dense_gate",
};

function read(fields: ConfigFields): DecoderSpec {
  const hidden = fields.size("hidden_size");
  const heads = fields.size("num_attention_heads");
  const headSize = fields.divided(hidden, "hidden_size", heads, "num_attention_heads");
  const rotaryFraction = fields.rotary("partial_rotary_factor", "rotary_pct", 0.25);
  if (rotaryFraction > 1) throw fields.error("rotary_pct", "at most 1");
  const bias = fields.flag("attention_bias", true);
  const layer = { ffn: fields.size("intermediate_size"), rotary: true };
  return {
    family: "gpt_neox",
    names,
    hidden,
    heads,
    keyValueHeads: heads,
    headSize,
    layers: Array(fields.layers("num_hidden_layers")).fill(layer),
    vocabulary: fields.size("vocab_size"),
    maxSequence: fields.size("max_position_embeddings", 2048),
    activation: fields.text("hidden_act", "gelu"),
    gated: false,
    norm: "layer_norm",
    epsilon: fields.positive("layer_norm_eps", 1e-5),
    bias: { qkv: bias, output: bias, mlp: true },
    positions: "rotary",
    ropeTheta: fields.rotary("rope_theta", "rotary_emb_base", 10_000),
    rotaryFraction,
    parallelResidual: fields.flag("use_parallel_residual", true),
    tied: fields.flag("tie_word_embeddings", false),
  };
}

export const importGptNeox: Importer = (fields, context) => buildDecoder(read(fields), context);
