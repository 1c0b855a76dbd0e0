import type { RoutedExperts } from "../decoder/experts.js";
import type { ConfigFields } from "./fields.js";

/** The experts of every layer of a configuration, undefined where a layer is dense. */
export type ReadExperts = (fields: ConfigFields, layers: number) => (RoutedExperts | undefined)[];

/**
 * Experts that a token goes to.
 * @throws MpoptError E_FIELD for more than there are.
 */
export function choices(fields: ConfigFields, experts: number, expertsField: string): number {
  const topK = fields.size("num_experts_per_tok");
  if (topK > experts) throw fields.error("num_experts_per_tok", `at most ${expertsField} (${experts})`);
  return topK;
}

/** The first of the two names for the number of experts that a file uses. */
function expertsField(fields: ConfigFields): string {
  const general = fields.raw("num_experts") === undefined && fields.raw("num_local_experts") !== undefined;
  return general ? "num_local_experts" : "num_experts";
}

/** Mixtral: experts of the dense width in every layer. */
export const mixtralExperts: ReadExperts = (fields, layers) => {
  const experts = fields.size("num_local_experts");
  const topK = choices(fields, experts, "num_local_experts");
  return Array(layers).fill({ experts, topK, ffn: fields.size("intermediate_size") });
};

/** GPT-OSS: as Mixtral, with biases and clamped activations. */
export const gptOssExperts: ReadExperts = (fields, layers) =>
  Array(layers).fill({ ...mixtralExperts(fields, 1)[0], bias: true, clamp: true });

/** Qwen: experts in every decoder_sparse_step-th layer that mlp_only_layers does not name; a shared one in Qwen 2. */
export function qwenExperts(withShared: boolean): ReadExperts {
  return (fields, layers) => {
    const name = expertsField(fields);
    const experts = fields.count(name);
    if (experts === 0) return Array(layers).fill(undefined);
    const topK = choices(fields, experts, name);
    const spec: RoutedExperts = {
      experts,
      topK,
      ffn: fields.size("moe_intermediate_size"),
      ...(withShared
        ? { shared: { ffn: fields.size("shared_expert_intermediate_size"), bias: false, gated: true } }
        : {}),
    };
    const step = fields.size("decoder_sparse_step", 1);
    const dense = new Set(fields.indices("mlp_only_layers"));
    return Array.from({ length: layers }, (_, i) =>
      !dense.has(i) && (i + 1) % step === 0 ? spec : undefined,
    );
  };
}

/** Llama 4: every interleave_moe_layer_step-th layer, or those of moe_layers, with one shared expert. */
export const llama4Experts: ReadExperts = (fields, layers) => {
  const experts = fields.size("num_local_experts");
  const ffn = fields.size("intermediate_size");
  const topK = choices(fields, experts, "num_local_experts");
  const spec = { experts, topK, ffn, shared: { ffn, bias: false } };
  const step = fields.size("interleave_moe_layer_step", 1);
  const named = fields.raw("moe_layers");
  const listed = new Set(fields.indices("moe_layers"));
  const mixed = (i: number) => (Array.isArray(named) ? listed.has(i) : (i + 1) % step === 0);
  return Array.from({ length: layers }, (_, i) => (mixed(i) ? spec : undefined));
};

/** GLM 4.5: leading dense layers, then DeepSeek-V3's shared and routed experts. */
export const glmExperts: ReadExperts = (fields, layers) => {
  const experts = fields.size("n_routed_experts");
  const ffn = fields.size("moe_intermediate_size");
  const shared = fields.count("n_shared_experts", 1);
  const spec: RoutedExperts = {
    experts,
    topK: choices(fields, experts, "n_routed_experts"),
    ffn,
    correctionBias: true,
    ...(shared > 0 ? { shared: { ffn: shared * ffn, bias: false } } : {}),
  };
  const first = fields.count("first_k_dense_replace", 1);
  return Array.from({ length: layers }, (_, i) => (i >= first ? spec : undefined));
};
