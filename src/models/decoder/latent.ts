import type { Tensor } from "../../contracts/index.js";
import { axesOf, elements, type GraphBuilder } from "../graph.js";
import type { QueryKeyValue } from "./attention.js";
import { linear, norm, projection } from "./parts.js";
import type { DecoderSpec, Latent } from "./spec.js";

/** The inner norms take their default epsilon in the published code. */
const latentEpsilon = 1e-6;

/**
 * Queries, keys and values of multi-head latent attention (DeepSeek-V2, 2024, section 2.1). Keys and values are
 * projected up from one latent vector a token, a rotary part of the key is shared by all heads; training keeps the
 * projected ones, as attention reads them.
 */
export function latentQkv(
  g: GraphBuilder,
  c: DecoderSpec & { latent: Latent },
  module: string,
  x: Tensor,
): QueryKeyValue {
  const { heads: head, latent } = c;
  const { keyValueRank, queryRank } = latent;
  const { noRopeHeadSize: noRopeSize, ropeHeadSize: ropeSize, valueHeadSize: valueSize } = latent;
  const bias = c.bias.qkv;
  const headFeature = noRopeSize + ropeSize;
  const rms = (id: string, name: string, input: Tensor) =>
    norm(g, { id, kind: "rms_norm", module: `${module}.${name}`, epsilon: latentEpsilon }, input);

  const queryOut = { out: { head, headFeature }, bias: false, fixed: ["headFeature"] };
  let query: Tensor;
  if (queryRank === 0) {
    query = projection(g, { id: "q_proj", module: `${module}.q_proj`, ...queryOut }, x);
  } else {
    const down = { id: "q_a_proj", module: `${module}.q_a_proj`, out: { queryRank }, bias };
    const compressed = rms("q_a_norm", "q_a_layernorm", projection(g, { ...down, fixed: ["queryRank"] }, x));
    query = projection(g, { id: "q_b_proj", module: `${module}.q_b_proj`, ...queryOut }, compressed);
  }

  // One weight yields the latent and the rotary key, which all heads share.
  const compressed = g.activation("key_value_latent", { ...g.tokens, keyValueRank });
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
      biases: bias ? [g.parameter(`${kvA}.bias`, rows)] : [],
      outputs: [compressed, ropeKey],
    },
    x,
  );
  const normedLatent = rms("kv_a_norm", "kv_a_layernorm", compressed);
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
  return assemble(g, module, { query, noRopeKey, ropeKey, value });
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
