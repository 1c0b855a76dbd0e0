import type { Tensor } from "../../contracts/index.js";
import { type Axes, axesOf, elements, type GraphBuilder, without } from "../graph.js";
import { attentionPairs } from "../workload.js";
import { materializedAttention } from "./materialized.js";
import { linear } from "./parts.js";

export interface Heads {
  heads: number;
  keyValueHeads: number;
  headSize: number;
}

export interface QueryKeyValue {
  query: Tensor;
  key: Tensor;
  value: Tensor;
}

/** Outputs of a q, k, v projection: [batch, sequence, heads, head size]; k and v may have fewer heads. */
function queryKeyValue(g: GraphBuilder, sizes: Heads): QueryKeyValue {
  const { heads: head, keyValueHeads: keyValueHead, headSize: headFeature } = sizes;
  return {
    query: g.activation("query", { ...g.tokens, head, headFeature }),
    key: g.activation("key", { ...g.tokens, keyValueHead, headFeature }),
    value: g.activation("value", { ...g.tokens, keyValueHead, headFeature }),
  };
}

/** One operator for the separate projections q_proj, k_proj and v_proj, as runtimes fuse them. */
export function separateQkv(
  g: GraphBuilder,
  spec: { module: string; bias: boolean } & Heads,
  x: Tensor,
): QueryKeyValue {
  const { heads: head, keyValueHeads: keyValueHead, headSize: headFeature } = spec;
  const { hidden } = axesOf(x) as { hidden: number };
  const modules = ["q_proj", "k_proj", "v_proj"].map((name) => `${spec.module}.${name}`);
  const rows: Axes[] = [{ head }, { keyValueHead }, { keyValueHead }];
  const out = queryKeyValue(g, spec);
  linear(
    g,
    {
      id: "qkv",
      module: modules[0]!,
      modules,
      features: { head, headFeature },
      fixed: ["headFeature"],
      weights: modules.map((name, i) => g.parameter(`${name}.weight`, { ...rows[i]!, headFeature, hidden })),
      biases: spec.bias
        ? modules.map((name, i) => g.parameter(`${name}.bias`, { ...rows[i]!, headFeature }))
        : [],
      outputs: [out.query, out.key, out.value],
    },
    x,
  );
  return out;
}

/** How one weight holds q, k and v: GPT-2's c_attn by part, GPT-NeoX and Megatron-LM by head. */
export type FusedLayout = "gpt2" | "gpt_neox" | "megatron";

/**
 * One operator for a module that holds q, k and v in one weight. GPT-2's c_attn stores
 * [hidden, (part, head, feature)], GPT-NeoX's query_key_value [(head, part, feature), hidden], and Megatron-LM's
 * linear_qkv the same for each group of heads that share a key: [(group, part, feature), hidden], where a group's
 * parts are its queries, the key and the value.
 */
export function fusedQkv(
  g: GraphBuilder,
  spec: { module: string; bias: boolean; layout: FusedLayout } & Heads,
  x: Tensor,
): QueryKeyValue {
  const { heads: head, keyValueHeads: keyValueHead, headSize: headFeature } = spec;
  const { hidden } = axesOf(x) as { hidden: number };
  const columns: Readonly<Record<FusedLayout, Axes>> = {
    gpt2: { part: 3, head, headFeature },
    gpt_neox: { head, part: 3, headFeature },
    megatron: { keyValueHead, part: head / keyValueHead + 2, headFeature },
  };
  const rows = columns[spec.layout];
  const weight = spec.layout === "gpt2" ? { hidden, ...rows } : { ...rows, hidden };
  const out = queryKeyValue(g, spec);
  linear(
    g,
    {
      id: "qkv",
      module: spec.module,
      features: { head, headFeature },
      fixed: ["headFeature"],
      weights: [g.parameter(`${spec.module}.weight`, weight)],
      biases: spec.bias ? [g.parameter(`${spec.module}.bias`, rows)] : [],
      outputs: [out.query, out.key, out.value],
    },
    x,
  );
  return out;
}

/** Rotates the first `width` features of every head of q and k: two products and a sum each; saves nothing. */
export function rotary(
  g: GraphBuilder,
  module: string,
  { query, key, value }: QueryKeyValue,
  width: number,
): QueryKeyValue {
  const rotated = {
    query: g.activation("query_rotated", axesOf(query)),
    key: g.activation("key_rotated", axesOf(key)),
    value,
  };
  const rows = (tensor: Tensor) => elements(without(axesOf(tensor), "headFeature"));
  const flops = 3 * width * (rows(query) + rows(key));
  g.operator({
    id: "rotary",
    kind: "elementwise",
    name: "rotary",
    module,
    inputs: [query, key],
    outputs: [rotated.query, rotated.key],
    dims: axesOf(query),
    fixed: ["headFeature"],
    flops: { forward: flops, backward: flops },
    saved: [],
  });
  return rotated;
}

export interface AttentionSpec {
  module: string;
  /** Keys that a query sees at most, itself included. */
  window?: number;
  /** The sequence is cut into pieces of `window` tokens, which see themselves only. */
  chunked?: boolean;
  softCap?: boolean;
  /** Scores are biased by the distance of query and key (ALiBi, Press et al. 2022), inside the kernel. */
  alibi?: boolean;
  /** One learned score a head, a parameter [head]. */
  sinks?: Tensor;
}

/** Attributes of all attention operators. */
const attributesOf = (spec: AttentionSpec) => ({
  causal: true,
  ...(spec.window === undefined ? {} : { window: spec.window }),
  ...(spec.chunked ? { chunked: true } : {}),
  ...(spec.softCap ? { softCap: true } : {}),
  ...(spec.alibi ? { alibi: true } : {}),
});

/**
 * Causal scaled dot-product attention in the flash form: saves q, k, v, its output and one f32 log-sum-exp a
 * row, never the scores.
 *
 * FLOPs forward: 2 x batch x heads x pairs x (qk size + v size), where `pairs` is sequence^2 / 2 under the
 * causal mask and less in a sliding window (`attentionPairs`). Backward has five products against two: the
 * scores again, dQ and dK over the qk size, dP and dV over the v size; 2.5 times the forward where both sizes
 * are equal (Dao, FlashAttention-2, 2023, sections 3.1.2 and 4.1).
 *
 * The sequence cannot be split here: a part of the queries under a causal mask is not a causal attention.
 */
export function attention(g: GraphBuilder, spec: AttentionSpec, qkv: QueryKeyValue): Tensor {
  if (g.kernels.attention === "materialized") return materializedAttention(g, spec, qkv);
  const { query, key, value } = qkv;
  const { head, headFeature } = axesOf(query) as { head: number; headFeature: number };
  const valueAxis = value.axes.at(-1)!;
  const valueSize = value.shape.at(-1)!;
  const out = g.activation("attention.out", { ...g.tokens, head, [valueAxis]: valueSize });
  const logSumExp = g.activation("log_sum_exp", { batch: g.batch, head, sequence: g.sequence }, "f32");
  const perFeature = 2 * g.batch * head * attentionPairs(g.sequence, true, spec.window, spec.chunked);
  const asKeys = { sequence: "keySequence" };
  g.operator({
    kind: "attention",
    name: "attention",
    module: spec.module,
    inputs: [
      query,
      { tensor: key, as: asKeys },
      { tensor: value, as: asKeys },
      ...(spec.sinks ? [spec.sinks] : []),
    ],
    outputs: [out, logSumExp],
    dims: {
      batch: g.batch,
      head,
      sequence: g.sequence,
      keySequence: g.sequence,
      headFeature,
      [valueAxis]: valueSize,
    },
    fixed: ["sequence", "keySequence", "headFeature", valueAxis],
    flops: {
      forward: perFeature * (headFeature + valueSize),
      backward: perFeature * (3 * headFeature + 2 * valueSize),
    },
    saved: [query, key, value, out, logSumExp],
    attributes: attributesOf(spec),
  });
  return out;
}
