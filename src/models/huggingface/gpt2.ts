import type { Tensor } from "../../contracts/index.js";
import { GraphBuilder } from "../graph.js";
import { attention, fusedQkv } from "./attention.js";
import type { ConfigFields } from "./fields.js";
import { type Importer, referenceWorkload } from "./importer.js";
import { add, learnedPositions, mlp, norm, outputHead, projection, tokenEmbedding } from "./parts.js";

/**
 * GPT-2: learned positions, pre-norm with bias, fused q, k, v. Names and defaults follow transformers; the
 * file may use the general names (hidden_size) for GPT-2's own (n_embd).
 */

function read(fields: ConfigFields) {
  if (fields.flag("add_cross_attention", false)) {
    throw fields.error("add_cross_attention", "false, as a decoder alone is imported,");
  }
  const hidden = fields.size(["n_embd", "hidden_size"]);
  const heads = fields.size(["n_head", "num_attention_heads"]);
  return {
    hidden,
    heads,
    keyValueHeads: heads,
    headSize: fields.divided(hidden, "n_embd", heads, "n_head"),
    layers: fields.layers(["n_layer", "num_hidden_layers"]),
    vocabulary: fields.size("vocab_size"),
    maxSequence: fields.size(["n_positions", "max_position_embeddings", "n_ctx"]),
    ffn: fields.size("n_inner", 4 * hidden),
    activation: fields.text("activation_function", "gelu_new"),
    epsilon: fields.positive("layer_norm_epsilon", 1e-5),
    tied: fields.flag("tie_word_embeddings", true),
  };
}

type Gpt2Config = ReturnType<typeof read>;

function block(g: GraphBuilder, c: Gpt2Config, i: number, x: Tensor): Tensor {
  const module = `transformer.h.${i}`;
  const layerNorm = (id: string, name: string, input: Tensor) =>
    norm(g, { id, kind: "layer_norm", module: `${module}.${name}`, epsilon: c.epsilon }, input);
  const conv = { bias: true, inputFirst: true };

  let branch = layerNorm("attention_norm", "ln_1", x);
  const qkv = fusedQkv(g, { ...c, module: `${module}.attn.c_attn`, bias: true, layout: "gpt2" }, branch);
  branch = attention(g, { module: `${module}.attn` }, qkv);
  const out = { id: "o_proj", module: `${module}.attn.c_proj`, out: { hidden: c.hidden } };
  branch = projection(g, { ...out, ...conv }, branch);
  const middle = add(g, "attention_add", module, x, branch);

  branch = layerNorm("mlp_norm", "ln_2", middle);
  const { ffn, activation } = c;
  branch = mlp(g, { module: `${module}.mlp`, up: "c_fc", down: "c_proj", ffn, activation, ...conv }, branch);
  return add(g, "mlp_add", module, middle, branch);
}

export const importGpt2: Importer = (fields, context) => {
  const c = read(fields);
  const g = new GraphBuilder(referenceWorkload(context, c.maxSequence), context.kernels);
  const modules = ["transformer.wte", "transformer.wpe"];
  const table = g.layer({ id: "embedding", kind: "embedding", modules, block: "embedding" }, () => {
    const features = { hidden: c.hidden };
    const tokens = tokenEmbedding(g, { module: "transformer.wte", vocabulary: c.vocabulary, features });
    const positions = { module: "transformer.wpe", addModule: "transformer", positions: c.maxSequence };
    return { weight: tokens.weight, out: learnedPositions(g, positions, tokens.out) };
  });
  let x = table.out;
  for (let i = 0; i < c.layers; i += 1) {
    const layer = { id: `layers.${i}`, kind: "block", modules: [`transformer.h.${i}`] } as const;
    x = g.layer({ ...layer, block: "decoder" }, () => block(g, c, i, x));
  }
  g.layer({ id: "head", kind: "head", modules: ["transformer.ln_f", "lm_head"], block: "head" }, () => {
    const last = { id: "final_norm", module: "transformer.ln_f", epsilon: c.epsilon };
    const normed = norm(g, { ...last, kind: "layer_norm" }, x);
    const tiedTo = c.tied ? table.weight : undefined;
    outputHead(g, { module: "lm_head", vocabulary: c.vocabulary, tiedTo }, normed);
  });
  return g.finish(context.name, context.source, {
    family: "gpt2",
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
    positions: "learned",
    attentionBias: true,
    mlpBias: true,
  });
};
