import type { Tensor } from "../../contracts/index.js";
import { type Axes, axesOf, elements, type GraphBuilder } from "../graph.js";
import type { AttentionSpec, QueryKeyValue } from "./attention.js";

const fixed = ["sequence", "keySequence"];

/**
 * Attention that writes its scores: two batched products over all pairs, masked ones included, a softmax between
 * them, and dropout. Saves q, k, v, the probabilities, and with dropout its mask and what it leaves: 5 bytes a pair
 * and head with the fused softmax (Korthikanti et al. 2022, section 4.1: 5 a s^2 b).
 */
export function materializedAttention(
  g: GraphBuilder,
  spec: AttentionSpec,
  { query, key, value }: QueryKeyValue,
): Tensor {
  const { head, headFeature } = axesOf(query) as { head: number; headFeature: number };
  const valueAxis = value.axes.at(-1)!;
  const valueSize = value.shape.at(-1)!;
  const pairs = { batch: g.batch, head, sequence: g.sequence, keySequence: g.sequence };
  const asKeys = { sequence: "keySequence" };
  // All pairs are computed, whatever a window masks.
  const attributes = { causal: true, materialized: true };
  const core = { kind: "attention" as const, module: spec.module, attributes };
  const product = (features: number) => ({
    forward: 2 * features * elements(pairs),
    backward: 4 * features * elements(pairs),
  });

  let scores = g.activation("scores", pairs);
  g.operator({
    ...core,
    id: "scores",
    name: "attention_scores",
    inputs: [query, { tensor: key, as: asKeys }],
    outputs: [scores],
    dims: { ...pairs, headFeature },
    fixed: [...fixed, "headFeature"],
    flops: product(headFeature),
    saved: [query, key],
  });
  if (spec.sinks) scores = withSinks(g, spec.module, scores, spec.sinks);
  let weights = softmax(g, core, scores, spec.softCap === true);
  if (g.kernels.dropout) {
    const dropped = g.activation("probabilities.dropped", pairs);
    const mask = g.activation("probabilities.mask", pairs, "bool");
    g.operator({
      ...core,
      id: "attention_dropout",
      name: "dropout",
      inputs: [weights],
      outputs: [dropped, mask],
      dims: pairs,
      fixed,
      flops: perPair(pairs, 2),
      saved: [dropped, mask],
    });
    weights = dropped;
  }
  const out = g.activation("attention.out", { ...g.tokens, head, [valueAxis]: valueSize });
  g.operator({
    ...core,
    id: "attention",
    name: "attention_context",
    inputs: [weights, { tensor: value, as: asKeys }],
    outputs: [out],
    dims: { ...pairs, [valueAxis]: valueSize },
    fixed: [...fixed, valueAxis],
    flops: product(valueSize),
    // Its other input is saved by the operator that writes it.
    saved: [value],
  });
  return out;
}

const perPair = (pairs: Axes, flops: number) => ({
  forward: flops * elements(pairs),
  backward: flops * elements(pairs),
});

/**
 * Probabilities of masked scores. Fused, one kernel scales, masks and normalises in registers: it reads 16-bit
 * scores once, writes 16-bit probabilities once and saves those (Megatron-LM's scaled masked softmax, which takes
 * at most 16,384 keys). Unfused, scores are cast to f32 and masked, normalised, and cast back, and the f32
 * probabilities are saved (megatron/core/fusions/fused_softmax.py, forward_torch_softmax).
 */
function softmax(
  g: GraphBuilder,
  core: { kind: "attention"; module: string; attributes: Record<string, string | number | boolean> },
  scores: Tensor,
  softCap: boolean,
): Tensor {
  const pairs = axesOf(scores);
  const flops = perPair(pairs, softCap ? 8 : 5);
  const step = (id: string, name: string, from: Tensor, to: Tensor, count: number, saved: Tensor[]) =>
    g.operator({
      ...core,
      id,
      name,
      inputs: [from],
      outputs: [to],
      dims: pairs,
      fixed,
      flops: count === 0 ? flops : perPair(pairs, count),
      saved,
    });
  if (g.kernels.softmax !== "unfused") {
    const probabilities = g.activation("probabilities", pairs);
    step("softmax", "softmax", scores, probabilities, 0, [probabilities]);
    return probabilities;
  }
  const masked = g.activation("scores.masked", pairs, "f32");
  step("mask", "mask", scores, masked, 1, []);
  const wide = g.activation("probabilities", pairs, "f32");
  step("softmax", "softmax", masked, wide, 0, [wide]);
  const cast = g.activation("probabilities.cast", pairs);
  step("cast", "cast", wide, cast, 1, g.kernels.dropout ? [] : [cast]);
  return cast;
}

/** One more score a row, the same for all rows of a head: eager code copies the scores to append it. */
function withSinks(g: GraphBuilder, module: string, scores: Tensor, sinks: Tensor): Tensor {
  const pairs = axesOf(scores);
  const out = g.activation("scores.sinks", pairs);
  g.operator({
    id: "append_sinks",
    kind: "elementwise",
    name: "concat",
    module,
    inputs: [scores, sinks],
    outputs: [out],
    dims: pairs,
    fixed,
    flops: { forward: 0, backward: elements(pairs) },
    saved: [],
  });
  return out;
}
