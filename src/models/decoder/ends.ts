import type { Tensor } from "../../contracts/index.js";
import { type Axes, axesOf, elements, type GraphBuilder, without } from "../graph.js";
import { features, linear, rescale } from "./parts.js";

/** Operators at the two ends of a decoder: embeddings, logits and loss. */

export interface TokenEmbeddingSpec {
  module: string;
  vocabulary: number;
  features: Axes;
  /** Id of the input that holds the tokens; `token_ids` by default. */
  ids?: string;
  /** The table that this one is a copy of. */
  tiedTo?: Tensor;
}

/** Looks token ids up in a table; saves the ids. */
export function tokenEmbedding(g: GraphBuilder, spec: TokenEmbeddingSpec): { out: Tensor; weight: Tensor } {
  const ids = g.input(spec.ids ?? "token_ids", g.tokens, "i64");
  const { tiedTo } = spec;
  const axes = { vocabulary: spec.vocabulary, ...spec.features };
  const weight = g.parameter(`${spec.module}.weight`, axes, { tiedTo });
  const out = g.activation("token_embedding.out", { ...g.tokens, ...spec.features });
  g.operator({
    id: "token_embedding",
    kind: "embedding",
    name: "embedding",
    module: spec.module,
    inputs: [ids, weight],
    outputs: [out],
    dims: { ...g.tokens, vocabulary: spec.vocabulary, ...spec.features },
    flops: { forward: 0, backward: 0 },
    saved: [ids],
  });
  return { out, weight };
}

/** Looks learned positions up and adds them to the token embedding. */
export function learnedPositions(
  g: GraphBuilder,
  spec: { module: string; addModule: string; positions: number },
  x: Tensor,
): Tensor {
  const { hidden } = axesOf(x) as { hidden: number };
  const ids = g.input("position_ids", { sequence: g.sequence }, "i64");
  const weight = g.parameter(`${spec.module}.weight`, { position: spec.positions, hidden });
  const looked = g.activation("position_embedding.out", { sequence: g.sequence, hidden });
  g.operator({
    id: "position_embedding",
    kind: "embedding",
    name: "embedding",
    module: spec.module,
    inputs: [ids, weight],
    outputs: [looked],
    dims: { sequence: g.sequence, position: spec.positions, hidden },
    fixed: ["position"],
    flops: { forward: 0, backward: 0 },
    saved: [ids],
  });
  const out = g.activation("add_positions.out", axesOf(x));
  const flops = elements(axesOf(x));
  g.operator({
    id: "add_positions",
    kind: "elementwise",
    name: "add",
    module: spec.addModule,
    inputs: [x, looked],
    outputs: [out],
    dims: axesOf(x),
    flops: { forward: flops, backward: flops },
    saved: [],
  });
  return out;
}

/**
 * Bytes a logit of a loss in 16-bit training: what waits for the backward, and what that holds beside it. `eager` is
 * PyTorch's cross_entropy of `logits.float()`: f32 log-probabilities, then the f32 gradients of the choice and of the
 * log-softmax at once, beside the block of the 16-bit logits, which the allocator holds for their gradient. `compiled` keeps the 16-bit logits, which `inPlace` turns into their gradient (flash-attention's
 * fused loss with inplace_backward). `fused` is an f32 copy with a 16-bit gradient, which needs no entry.
 */
const lossBytes = {
  eager: { savedBytes: 4, gradientBytes: 10 },
  compiled: { savedBytes: 2, gradientBytes: 2 },
  inPlace: { savedBytes: 2, gradientBytes: 0 },
} as const;

/**
 * The projection to the vocabulary and the loss. Logits are f32, as the loss is computed in it; they are what
 * the loss saves. Where `x` has the axis `prediction`, one weight serves several predictions of a token.
 */
export function outputHead(
  g: GraphBuilder,
  spec: { module: string; vocabulary: number; tiedTo?: Tensor; softCap?: boolean },
  x: Tensor,
): void {
  const { vocabulary, module } = spec;
  const weight = g.parameter(`${module}.weight`, { vocabulary, ...features(x) }, { tiedTo: spec.tiedTo });
  const tokens = without(axesOf(x), ...Object.keys(features(x)));
  let logits = g.activation("logits", { ...tokens, vocabulary }, "f32");
  linear(g, { id: "lm_head", module, features: { vocabulary }, weights: [weight], outputs: [logits] }, x);
  if (spec.softCap) logits = rescale(g, "soft_cap", "", logits);
  const labels = g.input("labels", tokens, "i64");
  const loss = g.activation("loss", {}, "f32");
  const count = elements(axesOf(logits));
  const kept = g.kernels.loss ?? "fused";
  g.operator({
    kind: "cross_entropy",
    name: "cross_entropy",
    module: "",
    inputs: [logits, labels],
    outputs: [loss],
    dims: axesOf(logits),
    // Forward: maximum, difference, exponential, sum. Backward: softmax minus one-hot, times the gradient.
    flops: { forward: 4 * count, backward: 2 * count },
    saved: [logits, labels],
    ...(kept === "fused" ? {} : { attributes: lossBytes[kept] }),
  });
}
