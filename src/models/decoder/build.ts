import type { Model, Tensor } from "../../contracts/index.js";
import { type DocumentContext, referenceWorkload } from "../context.js";
import { GraphBuilder } from "../graph.js";
import { architectureOf } from "./architecture.js";
import { learnedPositions, outputHead, tokenEmbedding } from "./ends.js";
import { decoderLayer, decoderNorm } from "./layer.js";
import { dropOut, join, projection, rescale } from "./parts.js";
import type { DecoderLayer, DecoderSpec } from "./spec.js";

/** The document of a decoder: embedding, layers, further predictions, head. */
export function buildDecoder(c: DecoderSpec, context: DocumentContext): Model {
  const g = new GraphBuilder(referenceWorkload(context, c.maxSequence), context.kernels);
  const table = embedding(g, c);
  let x = table.out;
  const describe = descriptions(c.layers);
  for (const [i, layer] of c.layers.entries()) {
    const module = `${c.names.layers}.${i}`;
    const spec = { id: `layers.${i}`, kind: "block", modules: [module], ...describe(layer) } as const;
    x = g.layer(spec, () => decoderLayer(g, c, layer, module, x));
  }
  const predicted = predictions(g, c, table.weight, x);
  const { finalNorm, head } = c.names;
  const last = `layers.${c.layers.length - 1}`;
  const predecessors = [last, ...predicted.map((_, depth) => predictionId(depth))];
  g.layer({ id: "head", kind: "head", modules: [finalNorm, head], block: "head", predecessors }, () => {
    const normed = decoderNorm(g, c, "final_norm", finalNorm, x);
    const { vocabulary, softCapLogits: softCap } = c;
    const tiedTo = c.tied ? table.weight : undefined;
    outputHead(g, { module: head, vocabulary, tiedTo, softCap }, stacked(g, c, normed, predicted));
  });
  return g.finish(context.name, context.source, architectureOf(c));
}

/** What tells layers apart, and the name of their block: by attention where windows differ, by MLP where experts do. */
function descriptions(layers: readonly DecoderLayer[]) {
  const experts = [...new Set(layers.map((layer) => layer.experts))];
  const windows = new Set(layers.map((layer) => layer.window));
  return (layer: DecoderLayer): { block: string; description: string } => {
    const { ffn, window, chunked, rotary } = layer;
    const parts = [];
    if (windows.size > 1) {
      const bounded = chunked ? "chunked_attention" : "sliding_attention";
      parts.push(window === undefined ? "full_attention" : bounded);
    }
    if (experts.length > 1) parts.push(layer.experts ? "expert" : "dense");
    const description = JSON.stringify([ffn, window, chunked, rotary, experts.indexOf(layer.experts)]);
    return { block: parts.join("_") || "decoder", description };
  };
}

function embedding(g: GraphBuilder, c: DecoderSpec): { out: Tensor; weight: Tensor } {
  const { names, vocabulary, hidden } = c;
  const { embedding: module, embeddingNorm } = names;
  const modules = [module];
  if (names.positions) modules.push(names.positions.module);
  if (embeddingNorm) modules.push(embeddingNorm);
  return g.layer({ id: "embedding", kind: "embedding", modules, block: "embedding" }, () => {
    const table = tokenEmbedding(g, { module, vocabulary, features: { hidden } });
    let { out } = table;
    if (c.scaledEmbedding) out = rescale(g, "scale", module, out);
    if (names.positions) out = learnedPositions(g, { ...names.positions, positions: c.maxSequence }, out);
    if (embeddingNorm) out = decoderNorm(g, c, "embedding_norm", embeddingNorm, out);
    if (g.kernels.dropout) out = dropOut(g, "embedding_dropout", module, out);
    return { out, weight: table.weight };
  });
}

const predictionId = (depth: number): string => `predictions.${depth}`;

/**
 * Multi-token prediction (DeepSeek-V3, 2024, section 2.2): depth k predicts one token further than depth k - 1 from
 * that one's hidden states and the embeddings of the tokens in between, through a projection and one more decoder
 * layer. Modules have the names of DeepSeek's checkpoint, where they follow the layers.
 *
 * They are layers of kind head, as they read the last block's output and end in the shared head: a pipeline keeps
 * them on its last stage, with a copy of the embedding. The head itself takes the hidden states of all depths at
 * once. Returns those, normed, one a depth.
 */
function predictions(g: GraphBuilder, c: DecoderSpec, table: Tensor, x: Tensor): Tensor[] {
  const { hidden, vocabulary, layers, names } = c;
  const outputs: Tensor[] = [];
  let previous = x;
  for (let depth = 0; depth < (c.nextTokenPredictions ?? 0); depth += 1) {
    const module = `${names.layers}.${layers.length + depth}`;
    const id = predictionId(depth);
    const normed = (id: string, name: string, input: Tensor) =>
      decoderNorm(g, c, id, `${module}.${name}`, input);
    const spec = { id, kind: "head", modules: [module], block: "prediction", auxiliary: true } as const;
    g.layer(spec, () => {
      const words = { module: `${module}.embed_tokens`, vocabulary, features: { hidden }, tiedTo: table };
      const next = tokenEmbedding(g, { ...words, ids: `${id}.token_ids` });
      const joined = join(
        g,
        { id: "join", module, axes: { ...g.tokens, joined: 2 * hidden }, as: { hidden: "joined" } },
        normed("embedding_norm", "enorm", next.out),
        normed("hidden_norm", "hnorm", previous),
      );
      const narrow = { id: "eh_proj", module: `${module}.eh_proj`, out: { hidden }, bias: false };
      previous = decoderLayer(g, c, layers.at(-1)!, module, projection(g, narrow, joined));
      outputs.push(normed("head_norm", "shared_head.norm", previous));
    });
  }
  return outputs;
}

/** The hidden states of all predictions of a token, beside each other; the model's own alone where it makes one. */
function stacked(g: GraphBuilder, c: DecoderSpec, own: Tensor, predicted: readonly Tensor[]): Tensor {
  if (predicted.length === 0) return own;
  const axes = { ...g.tokens, prediction: 1 + predicted.length, hidden: c.hidden };
  return join(g, { id: "stack", module: c.names.head, axes }, own, ...predicted);
}
