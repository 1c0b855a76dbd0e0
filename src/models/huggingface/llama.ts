import { buildDecoder } from "../decoder/build.js";
import type { DecoderSpec } from "../decoder/spec.js";
import type { ConfigFields } from "./fields.js";
import type { Importer } from "./importer.js";
import { type LlamaFamily, llamaFamilies } from "./llamaFamilies.js";

/**
 * Llama and the families that share its block: pre-norm, separate q, k, v, rotary positions, gated MLP or experts.
 * Structure and defaults follow the configuration and modelling files of transformers 5.
 */

function read(family: LlamaFamily, fields: ConfigFields): DecoderSpec {
  const rules = llamaFamilies[family];
  const hidden = fields.size("hidden_size");
  const layers = fields.layers("num_hidden_layers");
  const heads = fields.size("num_attention_heads");
  const keyValueHeads = fields.size("num_key_value_heads", rules.keyValueHeads ?? heads, heads);
  const headSize = fields.headSize(hidden, heads, rules.headSize);
  fields.divided(heads, "num_attention_heads", keyValueHeads, "num_key_value_heads");
  const experts = rules.experts(fields, layers);
  const windows = rules.windows(fields, layers);
  const rotary = rules.rotary(fields, layers);
  const ffn = fields.size(rules.ffnField);
  const rotaryFraction =
    rules.rotaryFraction &&
    fields.rotary("partial_rotary_factor", "partial_rotary_factor", rules.rotaryFraction);
  return {
    family,
    names: rules.names,
    hidden,
    heads,
    keyValueHeads,
    headSize,
    layers: Array.from({ length: layers }, (_, i) => ({
      ffn,
      experts: experts[i],
      ...windows[i]!,
      rotary: rotary[i]!,
    })),
    vocabulary: fields.size("vocab_size"),
    maxSequence: fields.size("max_position_embeddings", rules.maxSequence),
    activation: fields.text(rules.activation.field, rules.activation.absent),
    gated: rules.gated,
    norm: rules.norm.kind,
    epsilon: fields.positive(rules.norm.field, rules.norm.epsilon),
    bias: rules.bias(fields),
    positions: "rotary",
    ropeTheta: fields.rotary("rope_theta", "rope_theta", rules.ropeTheta),
    ...(rotaryFraction === undefined ? {} : { rotaryFraction }),
    queryKeyNorm: rules.queryKeyNorm(fields),
    sinks: rules.sinks,
    scaledEmbedding: rules.scaledEmbedding,
    softCapScores: rules.softCaps && fields.raw("attn_logit_softcapping") !== null,
    softCapLogits: rules.softCaps && fields.raw("final_logit_softcapping") !== null,
    tied: fields.flag("tie_word_embeddings", rules.tied),
    nextTokenPredictions: rules.predictions ? fields.count("num_nextn_predict_layers", 0) : 0,
  };
}

/** The importer of one Llama-like family. */
export function llamaImporter(family: LlamaFamily): Importer {
  return (fields, context) => buildDecoder(read(family, fields), context);
}
