import type { Tensor } from "../../contracts/index.js";
import type { GraphBuilder } from "../graph.js";
import { attention, fusedQkv, rotary, separateQkv } from "./attention.js";
import { mixtureOfExperts } from "./experts.js";
import { latentQkv } from "./latent.js";
import { add, mlp, norm, projection } from "./parts.js";
import type { DecoderLayer, DecoderSpec } from "./spec.js";

/** One of the norms over the hidden states. */
export function decoderNorm(g: GraphBuilder, c: DecoderSpec, id: string, module: string, x: Tensor): Tensor {
  return norm(g, { id, kind: c.norm, module, bias: c.normBias, epsilon: c.epsilon }, x);
}

/**
 * The operators of one decoder layer, in the order of execution: norm before each branch, residual around it.
 * Returns what the next layer reads.
 */
export function decoderLayer(
  g: GraphBuilder,
  c: DecoderSpec,
  layer: DecoderLayer,
  module: string,
  x: Tensor,
): Tensor {
  const { names } = c;
  const normed = (id: string, name: string, input: Tensor) =>
    decoderNorm(g, c, id, `${module}.${name}`, input);

  const attentionIn = normed("input_norm", names.attentionNorm, x);
  let branch = attentionBranch(g, c, layer, `${module}.${names.attention}`, attentionIn);
  if (c.parallelResidual) {
    const mlpIn = c.sharedNorm ? attentionIn : normed("mlp_norm", names.mlpNorm, x);
    return add(g, "residual_add", module, x, branch, mlpBranch(g, c, layer, `${module}.${names.mlp}`, mlpIn));
  }
  const behind = names.branchNorms;
  if (behind) branch = normed("post_attention_norm", behind.attention, branch);
  const middle = add(g, "attention_add", module, x, branch);
  const mlpIn = normed("mlp_norm", names.mlpNorm, middle);
  branch = mlpBranch(g, c, layer, `${module}.${names.mlp}`, mlpIn);
  if (behind) branch = normed("post_mlp_norm", behind.mlp, branch);
  return add(g, "mlp_add", module, middle, branch);
}

function attentionBranch(
  g: GraphBuilder,
  c: DecoderSpec,
  layer: DecoderLayer,
  module: string,
  x: Tensor,
): Tensor {
  const { names, heads: head, latent } = c;
  const qkv = latent ? latentQkv(g, { ...c, latent }, module, x) : headsQkv(g, c, layer, module, x);
  const attended = attention(
    g,
    {
      module,
      window: layer.window,
      chunked: layer.chunked,
      softCap: c.softCapScores,
      alibi: c.positions === "alibi",
      ...(c.sinks ? { sinks: g.parameter(`${module}.sinks`, { head }) } : {}),
    },
    qkv,
  );
  const out = { id: "o_proj", module: `${module}.${names.output}`, out: { hidden: c.hidden } };
  const fixed = latent ? ["valueFeature"] : [];
  return projection(g, { ...out, bias: c.bias.output, inputFirst: names.inputFirst, fixed }, attended);
}

function headsQkv(g: GraphBuilder, c: DecoderSpec, layer: DecoderLayer, module: string, x: Tensor) {
  const { qkv: fusion } = c.names;
  const bias = c.bias.qkv;
  let qkv =
    fusion === "separate"
      ? separateQkv(g, { ...c, module, bias }, x)
      : fusedQkv(g, { ...c, module: `${module}.${fusion.fused}`, bias, layout: fusion.layout }, x);
  const headNorms = (affine: boolean, query: string, key: string) => {
    const each = (id: string, name: string, input: Tensor) =>
      norm(g, { id, kind: "rms_norm", module: `${module}.${name}`, affine, epsilon: c.epsilon }, input);
    qkv = { ...qkv, query: each("query_norm", query, qkv.query), key: each("key_norm", key, qkv.key) };
  };
  if (c.queryKeyNorm === "affine") headNorms(true, "q_norm", "k_norm");
  if (!layer.rotary) return qkv;
  qkv = rotary(g, module, qkv, Math.floor(c.headSize * (c.rotaryFraction ?? 1)));
  // Llama 4 norms what it rotated.
  if (c.queryKeyNorm === "plain") headNorms(false, "qk_norm", "qk_norm");
  return qkv;
}

function mlpBranch(g: GraphBuilder, c: DecoderSpec, layer: DecoderLayer, module: string, x: Tensor): Tensor {
  const { activation } = c;
  const { up, down, gate, fusedGate, inputFirst, router = "gate", sharedExpert = "shared_experts" } = c.names;
  const names = { up, down, ...(c.gated ? { gate, fusedGate } : {}) };
  if (layer.experts) {
    return mixtureOfExperts(g, { ...layer.experts, module, router, sharedExpert, names, activation }, x);
  }
  return mlp(g, { module, ...names, ffn: layer.ffn, activation, bias: c.bias.mlp, inputFirst }, x);
}
