import type { Architecture, Tensor } from "../../contracts/index.js";
import { axesOf, elements, GraphBuilder } from "../graph.js";
import { attention, type QueryKeyValue } from "./attention.js";
import { choices, type ExpertsSpec, mixtureOfExperts } from "./experts.js";
import type { ConfigFields } from "./fields.js";
import { type Importer, referenceWorkload } from "./importer.js";
import { add, gatedNames, linear, mlp, norm, outputHead, projection, tokenEmbedding } from "./parts.js";

/**
 * DeepSeek-V2 and V3: multi-head latent attention (DeepSeek-V2, 2024, section 2.1), leading dense layers, then
 * shared and routed experts. Multi-token prediction layers are not part of the model.
 */

export type DeepseekFamily = "deepseek_v2" | "deepseek_v3";

/** The inner norms take their default epsilon in the published code. */
const latentEpsilon = 1e-6;

function read(family: DeepseekFamily, fields: ConfigFields) {
  const v3 = family === "deepseek_v3";
  const layers = fields.layers("num_hidden_layers");
  const ffn = fields.size("intermediate_size");
  const bias = fields.flag("attention_bias", false);
  const mlpBias = v3 ? false : fields.flag("mlp_bias", false);
  return {
    family,
    layers,
    ffn,
    bias,
    mlpBias,
    hidden: fields.size("hidden_size"),
    heads: fields.size("num_attention_heads"),
    vocabulary: fields.size("vocab_size"),
    maxSequence: fields.size("max_position_embeddings", v3 ? 4096 : 2048),
    queryRank: fields.optionalSize("q_lora_rank", 1536),
    keyValueRank: fields.size("kv_lora_rank"),
    noRopeSize: fields.size("qk_nope_head_dim"),
    ropeSize: fields.size("qk_rope_head_dim"),
    valueSize: fields.size("v_head_dim"),
    activation: fields.text("hidden_act", "silu"),
    epsilon: fields.positive("rms_norm_eps", 1e-6),
    ropeTheta: fields.rotary("rope_theta", "rope_theta", 10_000),
    tied: fields.flag("tie_word_embeddings", false),
    experts: readExperts(fields, layers, { v3, bias: mlpBias }),
  };
}

type LayerExperts = Omit<ExpertsSpec, "module" | "activation">;

/** Experts in every moe_layer_freq-th layer from first_k_dense_replace on, none where n_routed_experts is null. */
function readExperts(
  fields: ConfigFields,
  layers: number,
  { v3, bias }: { v3: boolean; bias: boolean },
): (LayerExperts | undefined)[] {
  if (fields.raw("n_routed_experts") === null) return Array(layers).fill(undefined);
  const experts = fields.size("n_routed_experts");
  const ffn = fields.size("moe_intermediate_size");
  const first = fields.count("first_k_dense_replace", v3 ? 3 : 0);
  const frequency = fields.size("moe_layer_freq", 1);
  // Null is none; a file that omits the field does not say, as the published classes disagree.
  const shared = fields.raw("n_shared_experts") === null ? 0 : fields.count("n_shared_experts");
  const spec: LayerExperts = {
    experts,
    topK: choices(fields, experts, "n_routed_experts"),
    ffn,
    // DeepSeek's code holds it as a parameter, which its published count includes.
    correctionBias: v3 && fields.text("topk_method", "noaux_tc") === "noaux_tc",
    ...(shared > 0 ? { shared: { ffn: shared * ffn, bias } } : {}),
  };
  return Array.from({ length: layers }, (_, i) => (i >= first && i % frequency === 0 ? spec : undefined));
}

type DeepseekConfig = ReturnType<typeof read>;

function latentAttention(g: GraphBuilder, c: DeepseekConfig, module: string, x: Tensor): Tensor {
  const head = c.heads;
  const headFeature = c.noRopeSize + c.ropeSize;
  const rms = (id: string, name: string, input: Tensor) =>
    norm(g, { id, kind: "rms_norm", module: `${module}.${name}`, epsilon: latentEpsilon }, input);

  const queryOut = { out: { head, headFeature }, bias: false, fixed: ["headFeature"] };
  let query: Tensor;
  if (c.queryRank === null) {
    query = projection(g, { id: "q_proj", module: `${module}.q_proj`, ...queryOut }, x);
  } else {
    const out = { queryRank: c.queryRank };
    const down = { id: "q_a_proj", module: `${module}.q_a_proj`, out, bias: c.bias, fixed: ["queryRank"] };
    const compressed = rms("q_a_norm", "q_a_layernorm", projection(g, down, x));
    query = projection(g, { id: "q_b_proj", module: `${module}.q_b_proj`, ...queryOut }, compressed);
  }

  // One weight yields the latent and the rotary key, which all heads share.
  const { keyValueRank, noRopeSize, ropeSize, valueSize } = c;
  const latent = g.activation("key_value_latent", { ...g.tokens, keyValueRank });
  const ropeKey = g.activation("key_rope", { ...g.tokens, ropeFeature: ropeSize });
  const kvA = `${module}.kv_a_proj_with_mqa`;
  const rows = { latentAndRope: keyValueRank + ropeSize };
  linear(
    g,
    {
      id: "kv_a_proj",
      module: kvA,
      features: { keyValueRank, ropeFeature: ropeSize },
      fixed: ["keyValueRank", "ropeFeature"],
      weights: [g.parameter(`${kvA}.weight`, { ...rows, hidden: c.hidden })],
      biases: c.bias ? [g.parameter(`${kvA}.bias`, rows)] : [],
      outputs: [latent, ropeKey],
    },
    x,
  );
  const normedLatent = rms("kv_a_norm", "kv_a_layernorm", latent);
  const noRopeKey = g.activation("key_no_rope", { ...g.tokens, head, noRopeFeature: noRopeSize });
  const value = g.activation("value", { ...g.tokens, head, valueFeature: valueSize });
  const kvB = `${module}.kv_b_proj`;
  linear(
    g,
    {
      id: "kv_b_proj",
      module: kvB,
      features: { head, noRopeFeature: noRopeSize, valueFeature: valueSize },
      fixed: ["noRopeFeature", "valueFeature"],
      weights: [g.parameter(`${kvB}.weight`, { head, keyAndValue: noRopeSize + valueSize, keyValueRank })],
      outputs: [noRopeKey, value],
    },
    normedLatent,
  );
  const qkv = assemble(g, module, { query, noRopeKey, ropeKey, value });
  const attended = attention(g, { module }, qkv);
  const out = { id: "o_proj", module: `${module}.o_proj`, out: { hidden: c.hidden }, bias: c.bias };
  return projection(g, { ...out, fixed: ["valueFeature"] }, attended);
}

/** Rotates the rotary parts of q and k and joins every head's key from its own and the shared part. */
function assemble(
  g: GraphBuilder,
  module: string,
  parts: { query: Tensor; noRopeKey: Tensor; ropeKey: Tensor; value: Tensor },
): QueryKeyValue {
  const { query, noRopeKey, ropeKey, value } = parts;
  const axes = axesOf(query);
  const rotated = g.activation("query_rotated", axes);
  const key = g.activation("key", axes);
  const ropeSize = axesOf(ropeKey).ropeFeature!;
  // Every query head and the one shared key are rotated.
  const flops = 3 * elements(g.tokens) * ropeSize * (axes.head! + 1);
  g.operator({
    id: "rotary",
    kind: "elementwise",
    name: "rotary",
    module,
    inputs: [query, noRopeKey, ropeKey],
    outputs: [rotated, key],
    dims: { ...axes, noRopeFeature: noRopeKey.shape.at(-1)!, ropeFeature: ropeSize },
    fixed: ["headFeature", "noRopeFeature", "ropeFeature"],
    flops: { forward: flops, backward: flops },
    saved: [],
  });
  return { query: rotated, key, value };
}

function decoderLayer(g: GraphBuilder, c: DeepseekConfig, i: number, x: Tensor): Tensor {
  const module = `model.layers.${i}`;
  const rms = (id: string, name: string, input: Tensor) =>
    norm(g, { id, kind: "rms_norm", module: `${module}.${name}`, epsilon: c.epsilon }, input);
  const attended = latentAttention(g, c, `${module}.self_attn`, rms("input_norm", "input_layernorm", x));
  const middle = add(g, "attention_add", module, x, attended);
  const normed = rms("mlp_norm", "post_attention_layernorm", middle);
  const { activation, ffn, mlpBias: bias } = c;
  const experts = c.experts[i];
  const out = experts
    ? mixtureOfExperts(g, { ...experts, module: `${module}.mlp`, activation }, normed)
    : mlp(g, { module: `${module}.mlp`, ...gatedNames, ffn, activation, bias }, normed);
  return add(g, "mlp_add", module, middle, out);
}

function architecture(c: DeepseekConfig): Architecture {
  const experts = c.experts.find((spec) => spec !== undefined);
  return {
    family: c.family,
    hidden: c.hidden,
    ffn: c.ffn,
    layers: c.layers,
    heads: c.heads,
    keyValueHeads: c.heads,
    headSize: c.noRopeSize + c.ropeSize,
    vocabulary: c.vocabulary,
    maxSequence: c.maxSequence,
    gated: true,
    activation: c.activation,
    norm: "rms_norm",
    normEpsilon: c.epsilon,
    tiedEmbeddings: c.tied,
    positions: "rotary",
    ropeTheta: c.ropeTheta,
    attentionBias: c.bias,
    mlpBias: c.mlpBias,
    ...(experts && {
      experts: {
        routed: experts.experts,
        shared: (experts.shared?.ffn ?? 0) / experts.ffn,
        topK: experts.topK,
        ffn: experts.ffn,
        sharedFfn: experts.shared?.ffn ?? 0,
        denseLayers: c.experts.indexOf(experts),
      },
    }),
    latent: {
      queryRank: c.queryRank ?? 0,
      keyValueRank: c.keyValueRank,
      ropeHeadSize: c.ropeSize,
      noRopeHeadSize: c.noRopeSize,
      valueHeadSize: c.valueSize,
    },
  };
}

export function deepseekImporter(family: DeepseekFamily): Importer {
  return (fields, context) => {
    const c = read(family, fields);
    const g = new GraphBuilder(referenceWorkload(context, c.maxSequence), context.kernels);
    const embed = "model.embed_tokens";
    const table = g.layer({ id: "embedding", kind: "embedding", modules: [embed], block: "embedding" }, () =>
      tokenEmbedding(g, { module: embed, vocabulary: c.vocabulary, features: { hidden: c.hidden } }),
    );
    const mixed = new Set(c.experts).size > 1;
    let x = table.out;
    for (let i = 0; i < c.layers; i += 1) {
      const block = mixed ? (c.experts[i] ? "expert" : "dense") : "decoder";
      const layer = { id: `layers.${i}`, kind: "block", modules: [`model.layers.${i}`], block } as const;
      x = g.layer(layer, () => decoderLayer(g, c, i, x));
    }
    g.layer({ id: "head", kind: "head", modules: ["model.norm", "lm_head"], block: "head" }, () => {
      const last = { id: "final_norm", kind: "rms_norm", module: "model.norm", epsilon: c.epsilon } as const;
      const tiedTo = c.tied ? table.weight : undefined;
      outputHead(g, { module: "lm_head", vocabulary: c.vocabulary, tiedTo }, norm(g, last, x));
    });
    return g.finish(context.name, context.source, architecture(c));
  };
}
