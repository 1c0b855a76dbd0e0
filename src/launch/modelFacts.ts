import type { Architecture, Plan } from "../contracts/index.js";

/** What launchers that build a model from its dimensions ask beside them. */

/** Norms behind the branches of a block, by the names of the families that have them. */
const branchNorms = /\.(post_self_attn_layernorm|post_mlp_layernorm|post_feedforward_layernorm)$/;

/** Families whose `attentionBias` is one of q, k and v alone; elsewhere the output projection has one, too. */
export const queryKeyValueBias = new Set(["qwen2", "qwen2_moe", "glm4_moe", "transformer"]);

/** Families whose router adds a correction to sigmoid scores (DeepSeek-V3, 2024, section 2.1.2). */
export const correctedRouters = new Set(["deepseek_v3", "glm4_moe"]);

export function hasBranchNorms({ operators }: Plan): boolean {
  return operators.some(({ modules }) => modules.some((module) => branchNorms.test(module)));
}

export function hasNormBehindEmbedding({ operators }: Plan): boolean {
  return operators.some(({ block, operator }) => block === "embedding" && operator.includes("norm"));
}

/** Whether some queries do not see all keys before them at the plan's sequence length. */
export function hasWindow({ slidingWindow }: Architecture, sequence: number): boolean {
  return slidingWindow !== undefined && slidingWindow < sequence;
}

/** Whether a layer of a mixture has experts: after the leading dense ones, the first of every so many. */
export function hasExperts(
  { denseLayers, every = 1 }: NonNullable<Architecture["experts"]>,
  layer: number,
): boolean {
  return layer >= denseLayers && (layer - denseLayers) % every === 0;
}
