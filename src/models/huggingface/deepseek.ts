import { buildDecoder } from "../decoder/build.js";
import type { RoutedExperts } from "../decoder/experts.js";
import { type DecoderSpec, llamaNames } from "../decoder/spec.js";
import { choices } from "./experts.js";
import type { ConfigFields } from "./fields.js";
import type { Importer } from "./importer.js";

/**
 * DeepSeek-V2 and V3, and Kimi K2 with V3's block: multi-head latent attention, leading dense layers, then shared
 * and routed experts. Layers of multi-token prediction follow where `num_nextn_predict_layers` has them.
 */

export type DeepseekFamily = "deepseek_v2" | "deepseek_v3";

function read(family: DeepseekFamily, fields: ConfigFields): DecoderSpec {
  const v3 = family === "deepseek_v3";
  const ffn = fields.size("intermediate_size");
  const bias = fields.flag("attention_bias", false);
  const mlpBias = v3 ? false : fields.flag("mlp_bias", false);
  const heads = fields.size("num_attention_heads");
  const latent = {
    queryRank: fields.optionalSize("q_lora_rank", 1536) ?? 0,
    keyValueRank: fields.size("kv_lora_rank"),
    ropeHeadSize: fields.size("qk_rope_head_dim"),
    noRopeHeadSize: fields.size("qk_nope_head_dim"),
    valueHeadSize: fields.size("v_head_dim"),
  };
  const experts = readExperts(fields, fields.layers("num_hidden_layers"), { v3, bias: mlpBias });
  return {
    family,
    names: llamaNames,
    hidden: fields.size("hidden_size"),
    heads,
    keyValueHeads: heads,
    headSize: latent.noRopeHeadSize + latent.ropeHeadSize,
    latent,
    layers: experts.map((experts) => ({ ffn, experts, rotary: true })),
    vocabulary: fields.size("vocab_size"),
    maxSequence: fields.size("max_position_embeddings", v3 ? 4096 : 2048),
    activation: fields.text("hidden_act", "silu"),
    gated: true,
    norm: "rms_norm",
    epsilon: fields.positive("rms_norm_eps", 1e-6),
    bias: { qkv: bias, output: bias, mlp: mlpBias },
    positions: "rotary",
    ropeTheta: fields.rotary("rope_theta", "rope_theta", 10_000),
    tied: fields.flag("tie_word_embeddings", false),
    nextTokenPredictions: fields.count("num_nextn_predict_layers", 0),
  };
}

/** Experts in every moe_layer_freq-th layer from first_k_dense_replace on, none where n_routed_experts is null. */
function readExperts(
  fields: ConfigFields,
  layers: number,
  { v3, bias }: { v3: boolean; bias: boolean },
): (RoutedExperts | undefined)[] {
  if (fields.raw("n_routed_experts") === null) return Array(layers).fill(undefined);
  const experts = fields.size("n_routed_experts");
  const ffn = fields.size("moe_intermediate_size");
  const first = fields.count("first_k_dense_replace", v3 ? 3 : 0);
  const frequency = fields.size("moe_layer_freq", 1);
  // Null is none; a file that omits the field does not say, as the published classes disagree.
  const shared = fields.raw("n_shared_experts") === null ? 0 : fields.count("n_shared_experts");
  const spec: RoutedExperts = {
    experts,
    topK: choices(fields, experts, "n_routed_experts"),
    ffn,
    // DeepSeek's code holds it as a parameter, which its published count includes.
    correctionBias: v3 && fields.text("topk_method", "noaux_tc") === "noaux_tc",
    ...(shared > 0 ? { shared: { ffn: shared * ffn, bias } } : {}),
  };
  return Array.from({ length: layers }, (_, i) => (i >= first && i % frequency === 0 ? spec : undefined));
}

export function deepseekImporter(family: DeepseekFamily): Importer {
  return (fields, context) => buildDecoder(read(family, fields), context);
}
