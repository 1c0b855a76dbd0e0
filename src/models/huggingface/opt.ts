import type { Tensor } from "../../contracts/index.js";
import { referenceWorkload } from "../context.js";
import { attention, separateQkv } from "../decoder/attention.js";
import { learnedPositions, outputHead, tokenEmbedding } from "../decoder/ends.js";
import { add, mlp, norm, projection } from "../decoder/parts.js";
import { type Axes, GraphBuilder } from "../graph.js";
import type { ConfigFields } from "./fields.js";
import type { Importer } from "./importer.js";

/**
 * OPT: learned positions with an offset of two, ReLU, and for the 350M size a narrower word embedding with a
 * projection at both ends and norms after the residuals. Structure and defaults follow transformers.
 */

const root = "model.decoder";
/** The position table has two rows more than positions (OPTLearnedPositionalEmbedding.offset). */
const positionOffset = 2;
/** nn.LayerNorm's default; OPT's configuration has no field for it. */
const epsilon = 1e-5;

function read(fields: ConfigFields) {
  const hidden = fields.size("hidden_size");
  const heads = fields.size("num_attention_heads");
  return {
    hidden,
    heads,
    keyValueHeads: heads,
    headSize: fields.divided(hidden, "hidden_size", heads, "num_attention_heads"),
    layers: fields.layers("num_hidden_layers"),
    vocabulary: fields.size("vocab_size"),
    maxSequence: fields.size("max_position_embeddings"),
    ffn: fields.size("ffn_dim"),
    wordWidth: fields.size("word_embed_proj_dim", hidden),
    activation: fields.text("activation_function", "relu"),
    bias: fields.flag("enable_bias", true),
    affine: fields.flag("layer_norm_elementwise_affine", true),
    normFirst: fields.flag("do_layer_norm_before", true),
    finalNorm: !fields.flag("_remove_final_layer_norm", false),
    tied: fields.flag("tie_word_embeddings", true),
  };
}

type OptConfig = ReturnType<typeof read>;

function decoderLayer(g: GraphBuilder, c: OptConfig, i: number, x: Tensor): Tensor {
  const module = `${root}.layers.${i}`;
  const self = `${module}.self_attn`;
  const { affine, bias, ffn, activation } = c;
  const layerNorm = (id: string, name: string, input: Tensor) =>
    norm(g, { id, kind: "layer_norm", module: `${module}.${name}`, affine, epsilon }, input);
  const attentionNorm = (input: Tensor) => layerNorm("attention_norm", "self_attn_layer_norm", input);
  const mlpNorm = (input: Tensor) => layerNorm("mlp_norm", "final_layer_norm", input);

  const qkv = separateQkv(g, { ...c, module: self, bias }, c.normFirst ? attentionNorm(x) : x);
  const attended = attention(g, { module: self }, qkv);
  const out = { id: "o_proj", module: `${self}.out_proj`, out: { hidden: c.hidden }, bias };
  let middle = add(g, "attention_add", module, x, projection(g, out, attended));
  if (!c.normFirst) middle = attentionNorm(middle);

  const mlpIn = c.normFirst ? mlpNorm(middle) : middle;
  const mlpOut = mlp(g, { module, up: "fc1", down: "fc2", ffn, activation, bias }, mlpIn);
  const result = add(g, "mlp_add", module, middle, mlpOut);
  return c.normFirst ? result : mlpNorm(result);
}

export const importOpt: Importer = (fields, context) => {
  const c = read(fields);
  const projected = c.wordWidth !== c.hidden;
  const wordFeatures: Axes = projected ? { wordFeature: c.wordWidth } : { hidden: c.hidden };
  const g = new GraphBuilder(referenceWorkload(context, c.maxSequence), context.kernels);

  const embeddingModules = [`${root}.embed_tokens`, `${root}.embed_positions`];
  if (projected) embeddingModules.push(`${root}.project_in`);
  const table = g.layer(
    { id: "embedding", kind: "embedding", modules: embeddingModules, block: "embedding" },
    () => {
      const words = { module: `${root}.embed_tokens`, vocabulary: c.vocabulary, features: wordFeatures };
      const { weight, out } = tokenEmbedding(g, words);
      const widen = {
        id: "project_in",
        module: `${root}.project_in`,
        out: { hidden: c.hidden },
        bias: false,
      };
      const positions = {
        module: `${root}.embed_positions`,
        addModule: root,
        positions: c.maxSequence + positionOffset,
      };
      return { weight, out: learnedPositions(g, positions, projected ? projection(g, widen, out) : out) };
    },
  );

  let x = table.out;
  for (let i = 0; i < c.layers; i += 1) {
    const layer = { id: `layers.${i}`, kind: "block", modules: [`${root}.layers.${i}`] } as const;
    x = g.layer({ ...layer, block: "decoder" }, () => decoderLayer(g, c, i, x));
  }

  const hasFinalNorm = c.normFirst && c.finalNorm;
  const headModules = ["lm_head"];
  if (projected) headModules.unshift(`${root}.project_out`);
  if (hasFinalNorm) headModules.unshift(`${root}.final_layer_norm`);
  g.layer({ id: "head", kind: "head", modules: headModules, block: "head" }, () => {
    let last = x;
    if (hasFinalNorm) {
      const final = { id: "final_norm", module: `${root}.final_layer_norm`, affine: c.affine, epsilon };
      last = norm(g, { ...final, kind: "layer_norm" }, last);
    }
    const narrow = { id: "project_out", module: `${root}.project_out`, out: wordFeatures, bias: false };
    if (projected) last = projection(g, narrow, last);
    const tiedTo = c.tied ? table.weight : undefined;
    outputHead(g, { module: "lm_head", vocabulary: c.vocabulary, tiedTo }, last);
  });

  return g.finish(context.name, context.source, {
    family: "opt",
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
    normEpsilon: epsilon,
    tiedEmbeddings: c.tied,
    positions: "learned",
    attentionBias: c.bias,
    mlpBias: c.bias,
  });
};
