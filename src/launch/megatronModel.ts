import type { Architecture, Plan } from "../contracts/index.js";
import type { Flag } from "./megatronFlag.js";
import {
  correctedRouters,
  hasBranchNorms,
  hasNormBehindEmbedding,
  hasWindow,
  queryKeyValueBias,
} from "./modelFacts.js";

/**
 * What Megatron-LM builds of a model: flags of `_add_network_size_args`, `_add_moe_args` and `_add_mla_args` in
 * megatron/training/arguments.py and of the fields of TransformerConfig (megatron/core/transformer).
 */

/** Families with parts that the flags below do not describe, and which. */
const refusedFamilies: Readonly<Record<string, string>> = {
  gemma2: "Gemma 2 caps its logits and has norms behind each branch, which no flag describes.",
  gemma3_text:
    "Gemma 3 has norms behind each branch and another rotary base in windows, which no flag describes.",
  gpt_oss:
    "GPT-OSS has attention sinks, clamped gates and biased experts, which the flags written here leave out.",
  llama4_text:
    "Llama 4 attends to pieces of the sequence and leaves positions out of some layers, which the flags written here do not describe.",
  opt: "OPT's offset positions and ReLU have no flag.",
};

/** What Megatron-LM cannot build of the plan's model. */
export function lostModel(plan: Plan): string[] {
  const { architecture } = plan.model;
  if (!architecture) return ["The model's architecture is not one that Megatron-LM builds from flags."];
  const { family, positions, gated, activation, attentionBias, mlpBias, experts } = architecture;
  const lost: string[] = [];
  if (refusedFamilies[family]) lost.push(refusedFamilies[family]);
  if (positions === "alibi") lost.push("Positions by ALiBi have no flag in Megatron-LM.");
  if (architecture.attentionChunk && !refusedFamilies[family]) {
    lost.push("Attention inside pieces of the sequence has no flag in Megatron-LM.");
  }
  if (architecture.parallelResidual) {
    lost.push("Attention and MLP side by side have no flag in Megatron-LM.");
  }
  if (!refusedFamilies[family] && activationFlags(architecture) === undefined) {
    lost.push(`An MLP with ${activation}${gated ? " and a gate" : ""} has no flag in Megatron-LM.`);
  }
  if (!refusedFamilies[family] && hasBranchNorms(plan)) {
    lost.push("Norms behind each branch have no flag in Megatron-LM.");
  }
  if (hasNormBehindEmbedding(plan)) lost.push("A norm behind the embedding has no flag in Megatron-LM.");
  if (mlpBias && !attentionBias)
    lost.push("Biases in MLPs and not in attention have no flag in Megatron-LM.");
  if (attentionBias && !mlpBias && !queryKeyValueBias.has(family) && !refusedFamilies[family]) {
    lost.push("A bias of attention's output and none in MLPs has no flag in Megatron-LM.");
  }
  if (architecture.nextTokenPredictions && positions !== "rotary" && positions !== "none") {
    lost.push("Megatron-LM predicts further tokens with rotary positions or none.");
  }
  const expertTensor = plan.mesh.experts?.tensor ?? plan.mesh.sizes[plan.mesh.axes.indexOf("tensor")] ?? 1;
  if (experts && mlpBias && expertTensor > 1) {
    lost.push("Experts with biases are not split over tensor ranks in Megatron-LM.");
  }
  return lost;
}

/** Flags of the MLP's activation; undefined where there is none. */
function activationFlags({ activation, gated, mlpBias }: Architecture): Flag[] | undefined {
  if (gated) {
    if (activation === "silu" || activation === "swish") return [["--swiglu"]];
    return activation === "quick_gelu" ? [["--quick-geglu"]] : undefined;
  }
  if (activation === "relu2" || activation === "squared_relu") {
    // The kernel that adds the bias on the way knows gelu alone.
    return [["--squared-relu"], ...(mlpBias ? [["--no-bias-gelu-fusion"] as const] : [])];
  }
  return activation.startsWith("gelu") ? [] : undefined;
}

/** Flags that describe the model. */
export function modelFlags(architecture: Architecture, plan: Plan): Flag[] {
  const { family, nextTokenPredictions, norm } = architecture;
  const flags: Flag[] = [
    ["--num-layers", String(architecture.layers)],
    ["--hidden-size", String(architecture.hidden)],
    ["--ffn-hidden-size", String(architecture.ffn)],
    ["--num-attention-heads", String(architecture.heads)],
    ["--kv-channels", String(architecture.headSize)],
    ["--seq-length", String(plan.batch.sequence)],
    ["--max-position-embeddings", String(Math.max(architecture.maxSequence, plan.batch.sequence))],
    ["--normalization", norm === "rms_norm" ? "RMSNorm" : "LayerNorm"],
    ["--vocab-size", String(architecture.vocabulary)],
    ["--make-vocab-size-divisible-by", "1"],
    ["--attention-dropout", "0"],
    ["--hidden-dropout", "0"],
  ];
  if (architecture.normEpsilon) flags.push(["--norm-epsilon", String(architecture.normEpsilon)]);
  // Its norms scale by one plus their weight.
  if (family === "nemotron") flags.push(["--apply-layernorm-1p"]);
  if (architecture.keyValueHeads !== architecture.heads && !architecture.latent) {
    flags.push(["--group-query-attention"], ["--num-query-groups", String(architecture.keyValueHeads)]);
  }
  flags.push(...(activationFlags(architecture) ?? []), ...positionFlags(architecture));
  if (!architecture.tiedEmbeddings) flags.push(["--untie-embeddings-and-output-weights"]);
  if (!architecture.mlpBias) flags.push(["--disable-bias-linear"]);
  if (architecture.attentionBias && !architecture.mlpBias) flags.push(["--add-qkv-bias"]);
  if (architecture.queryKeyNorm || architecture.latent) flags.push(["--qk-layernorm"]);
  flags.push(...windowFlags(architecture, plan.batch.sequence), ...latentFlags(architecture));
  flags.push(...expertFlags(architecture, plan.job));
  if (nextTokenPredictions) flags.push(["--mtp-num-layers", String(nextTokenPredictions)]);
  return flags;
}

function positionFlags({ positions, ropeTheta, rotaryFraction }: Architecture): Flag[] {
  if (positions !== "rotary") {
    return [["--position-embedding-type", positions === "learned" ? "learned_absolute" : "none"]];
  }
  const flags: Flag[] = [["--position-embedding-type", "rope"]];
  if (ropeTheta) flags.push(["--rotary-base", String(Math.round(ropeTheta))]);
  if (rotaryFraction && rotaryFraction !== 1) flags.push(["--rotary-percent", String(rotaryFraction)]);
  return flags;
}

/** A window counts the keys before the query; layers whose number is a multiple of the frequency see all keys. */
function windowFlags(architecture: Architecture, sequence: number): Flag[] {
  if (!hasWindow(architecture, sequence)) return [];
  const flags: Flag[] = [["--window-size", `${architecture.slidingWindow! - 1},0`]];
  const every = architecture.fullAttentionEvery;
  if (every) flags.push(["--window-attn-skip-freq", String(every)]);
  return flags;
}

function latentFlags({ latent }: Architecture): Flag[] {
  if (!latent) return [];
  const flags: Flag[] = [
    ["--multi-latent-attention"],
    ["--kv-lora-rank", String(latent.keyValueRank)],
    ["--qk-head-dim", String(latent.noRopeHeadSize)],
    ["--qk-pos-emb-head-dim", String(latent.ropeHeadSize)],
    ["--v-head-dim", String(latent.valueHeadSize)],
  ];
  if (latent.queryRank > 0) flags.push(["--q-lora-rank", String(latent.queryRank)]);
  return flags;
}

function expertFlags({ experts, layers, family }: Architecture, job: Plan["job"]): Flag[] {
  if (!experts) return [];
  const { routed, topK, ffn, shared, sharedFfn, denseLayers, every = 1 } = experts;
  const flags: Flag[] = [
    ["--num-experts", String(routed)],
    ["--moe-router-topk", String(topK)],
    ["--moe-ffn-hidden-size", String(ffn)],
    ["--moe-grouped-gemm"],
    ["--moe-token-dispatcher-type", job.expertDispatch === "fused" ? "flex" : "alltoall"],
    // Scores are f32 in the model that the plan was made for.
    ["--moe-router-dtype", "fp32"],
  ];
  if (job.expertDispatch === "fused") flags.push(["--moe-flex-dispatcher-backend", "deepep"]);
  // A softmax over one choice would be 1 whatever its score.
  if (topK === 1) flags.push(["--moe-router-pre-softmax"]);
  if (correctedRouters.has(family)) {
    flags.push(["--moe-router-score-function", "sigmoid"], ["--moe-router-enable-expert-bias"]);
  }
  if (shared > 0) flags.push(["--moe-shared-expert-intermediate-size", String(sharedFfn)]);
  if (shared > 0 && family === "qwen2_moe") flags.push(["--moe-shared-expert-gate"]);
  if (denseLayers > 0 || every > 1) {
    flags.push(["--moe-layer-freq", layerPattern(denseLayers, every, layers)]);
  }
  return flags;
}

/** Layers with experts as the Python list that Megatron-LM evaluates: 1 with, 0 without. */
function layerPattern(denseLayers: number, every: number, layers: number): string {
  const parts: string[] = [];
  const add = (list: string, count: number) => {
    if (count > 0) parts.push(count === 1 && list.startsWith("(") ? list : `${list}*${count}`);
  };
  add("[0]", denseLayers);
  const left = layers - denseLayers;
  if (every === 1) add("[1]", left);
  else {
    add(`([1]+[0]*${every - 1})`, Math.floor(left / every));
    const rest = left % every;
    add("[1]", Math.min(rest, 1));
    add("[0]", rest - 1);
  }
  return `(${parts.join("+")})`;
}
