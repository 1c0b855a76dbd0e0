import type { Tensor } from "../../contracts/index.js";
import { GraphBuilder } from "../graph.js";
import { attention, fusedQkv, rotary } from "./attention.js";
import type { ConfigFields } from "./fields.js";
import { type Importer, referenceWorkload } from "./importer.js";
import { add, mlp, norm, outputHead, projection, tokenEmbedding } from "./parts.js";

/**
 * GPT-NeoX and Pythia: rotary positions over a part of each head, fused q, k, v, attention and MLP side by
 * side. Structure and defaults follow transformers.
 */

const root = "gpt_neox";

function read(fields: ConfigFields) {
  const hidden = fields.size("hidden_size");
  const heads = fields.size("num_attention_heads");
  const headSize = fields.divided(hidden, "hidden_size", heads, "num_attention_heads");
  const rotaryFraction = fields.rotary("partial_rotary_factor", "rotary_pct", 0.25);
  if (rotaryFraction > 1) throw fields.error("rotary_pct", "at most 1");
  return {
    hidden,
    heads,
    keyValueHeads: heads,
    headSize,
    rotaryFraction,
    layers: fields.layers("num_hidden_layers"),
    vocabulary: fields.size("vocab_size"),
    maxSequence: fields.size("max_position_embeddings", 2048),
    ffn: fields.size("intermediate_size"),
    activation: fields.text("hidden_act", "gelu"),
    epsilon: fields.positive("layer_norm_eps", 1e-5),
    ropeTheta: fields.rotary("rope_theta", "rotary_emb_base", 10_000),
    bias: fields.flag("attention_bias", true),
    parallel: fields.flag("use_parallel_residual", true),
    tied: fields.flag("tie_word_embeddings", false),
  };
}

type GptNeoxConfig = ReturnType<typeof read>;

function decoderLayer(g: GraphBuilder, c: GptNeoxConfig, i: number, x: Tensor): Tensor {
  const module = `${root}.layers.${i}`;
  const self = `${module}.attention`;
  const layerNorm = (id: string, name: string, input: Tensor) =>
    norm(g, { id, kind: "layer_norm", module: `${module}.${name}`, epsilon: c.epsilon }, input);

  const normed = layerNorm("attention_norm", "input_layernorm", x);
  const fused = { module: `${self}.query_key_value`, bias: c.bias, layout: "gpt_neox" } as const;
  const qkv = rotary(
    g,
    self,
    fusedQkv(g, { ...c, ...fused }, normed),
    Math.floor(c.headSize * c.rotaryFraction),
  );
  const attended = attention(g, { module: self }, qkv);
  const out = { id: "o_proj", module: `${self}.dense`, out: { hidden: c.hidden }, bias: c.bias };
  const attentionOut = projection(g, out, attended);

  const { ffn, activation } = c;
  const names = { module: `${module}.mlp`, up: "dense_h_to_4h", down: "dense_4h_to_h" };
  const feedForward = (input: Tensor) =>
    mlp(
      g,
      { ...names, ffn, activation, bias: true },
      layerNorm("mlp_norm", "post_attention_layernorm", input),
    );
  if (c.parallel) return add(g, "residual_add", module, x, attentionOut, feedForward(x));
  const middle = add(g, "attention_add", module, x, attentionOut);
  return add(g, "mlp_add", module, middle, feedForward(middle));
}

export const importGptNeox: Importer = (fields, context) => {
  const c = read(fields);
  const g = new GraphBuilder(referenceWorkload(context, c.maxSequence), context.kernels);
  const embed = `${root}.embed_in`;
  const table = g.layer({ id: "embedding", kind: "embedding", modules: [embed], block: "embedding" }, () =>
    tokenEmbedding(g, { module: embed, vocabulary: c.vocabulary, features: { hidden: c.hidden } }),
  );
  let x = table.out;
  for (let i = 0; i < c.layers; i += 1) {
    const layer = { id: `layers.${i}`, kind: "block", modules: [`${root}.layers.${i}`] } as const;
    x = g.layer({ ...layer, block: "decoder" }, () => decoderLayer(g, c, i, x));
  }
  const finalNorm = `${root}.final_layer_norm`;
  g.layer({ id: "head", kind: "head", modules: [finalNorm, "lm_head"], block: "head" }, () => {
    const last = { id: "final_norm", kind: "layer_norm", module: finalNorm, epsilon: c.epsilon } as const;
    const tiedTo = c.tied ? table.weight : undefined;
    outputHead(g, { module: "lm_head", vocabulary: c.vocabulary, tiedTo }, norm(g, last, x));
  });
  return g.finish(context.name, context.source, {
    family: "gpt_neox",
    hidden: c.hidden,
    ffn: c.ffn,
    layers: c.layers,
    heads: c.heads,
    keyValueHeads: c.heads,
    headSize: c.headSize,
    vocabulary: c.vocabulary,
    maxSequence: c.maxSequence,
    gated: false,
    activation: c.activation,
    norm: "layer_norm",
    normEpsilon: c.epsilon,
    tiedEmbeddings: c.tied,
    positions: "rotary",
    ropeTheta: c.ropeTheta,
    rotaryFraction: c.rotaryFraction,
    attentionBias: c.bias,
    mlpBias: true,
    parallelResidual: c.parallel,
  });
};
