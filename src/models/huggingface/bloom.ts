import { buildDecoder } from "../decoder/build.js";
import type { DecoderNames, DecoderSpec } from "../decoder/spec.js";
import type { ConfigFields } from "./fields.js";
import type { Importer } from "./importer.js";

/**
 * BLOOM (BigScience, 2022, section 3.2): ALiBi in place of positions, a norm behind the embedding, fused q, k, v in
 * GPT-NeoX's order, tied embeddings. Structure and defaults follow transformers.
 */

const names: DecoderNames = {
  embedding: "transformer.word_embeddings",
  embeddingNorm: "transformer.word_embeddings_layernorm",
  layers: "transformer.h",
  finalNorm: "transformer.ln_f",
  head: "lm_head",
  attentionNorm: "input_layernorm",
  attention: "self_attention",
  mlpNorm: "post_attention_layernorm",
  mlp: "mlp",
  qkv: { fused: "query_key_value", layout: "gpt_neox" },
  output: "dense",
  up: "dense_h_to_4h",
  down: "dense_4h_to_h",
  gate: "dense_gate",
};

/** ALiBi has no longest sequence; BLOOM was trained at 2048 tokens. */
const trainedSequence = 2048;

function read(fields: ConfigFields): DecoderSpec {
  const hidden = fields.size(["hidden_size", "n_embed"]);
  const heads = fields.size(["n_head", "num_attention_heads"]);
  // The modelling code takes four times the hidden size, whatever n_inner says.
  const layer = { ffn: 4 * hidden, rotary: false };
  return {
    family: "bloom",
    names,
    hidden,
    heads,
    keyValueHeads: heads,
    headSize: fields.divided(hidden, "hidden_size", heads, "n_head"),
    layers: Array(fields.layers(["n_layer", "num_hidden_layers"])).fill(layer),
    vocabulary: fields.size("vocab_size"),
    maxSequence: fields.size("seq_length", trainedSequence),
    activation: "gelu",
    gated: false,
    norm: "layer_norm",
    epsilon: fields.positive("layer_norm_epsilon", 1e-5),
    bias: { qkv: true, output: true, mlp: true },
    positions: "alibi",
    tied: fields.flag("tie_word_embeddings", true),
  };
}

export const importBloom: Importer = (fields, context) => buildDecoder(read(fields), context);
