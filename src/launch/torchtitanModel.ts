import { type Architecture, axisSize, type Plan } from "../contracts/index.js";
import { hasBranchNorms, hasNormBehindEmbedding, hasWindow, queryKeyValueBias } from "./modelFacts.js";

/** Families with parts that none of the models that `torchtitanSource.ts` puts together has, and which. */
const refusedFamilies: Readonly<Record<string, string>> = {
  gpt_oss:
    "GPT-OSS has attention sinks, clamped gates and biased experts, which torchtitan's model of that name has in its own sizes alone.",
  llama4_text:
    "Llama 4 attends to pieces of the sequence and leaves positions out of some layers, which no model of torchtitan does.",
};

/** What torchtitan cannot build of the plan's model. */
export function lostModel(plan: Plan): string[] {
  const { architecture } = plan.model;
  if (!architecture) return ["The model's architecture is not one that torchtitan builds from dimensions."];
  const { family, positions, rotaryFraction = 1, gated, activation, norm, experts } = architecture;
  const lost: string[] = [];
  const refused = refusedFamilies[family];
  if (refused) return [refused];
  if (norm !== "rms_norm") lost.push("Norms subtract the mean, but torchtitan's decoders have RMSNorm.");
  if (positions !== "rotary" || rotaryFraction !== 1) {
    const found = positions === "rotary" ? `rotary over ${rotaryFraction} of a head` : positions;
    lost.push(`Positions are ${found}, but torchtitan's decoders rotate whole heads.`);
  }
  if (!gated || (activation !== "silu" && activation !== "swish")) {
    lost.push(`The MLP is ${activation}${gated ? " with" : " without"} a gate, but torchtitan has SwiGLU.`);
  }
  if (architecture.mlpBias) lost.push("MLPs have biases, which torchtitan's feed-forward layers lack.");
  if (architecture.attentionBias && !queryKeyValueBias.has(family)) {
    lost.push("Attention's output has a bias, which torchtitan's projection lacks.");
  }
  if (architecture.parallelResidual) {
    lost.push("Attention and MLP are side by side, but torchtitan runs them one after the other.");
  }
  if (hasWindow(architecture, plan.batch.sequence) || architecture.attentionChunk) {
    lost.push("Some layers see a part of the sequence, but torchtitan masks these models causally.");
  }
  if (hasBranchNorms(plan)) lost.push("Norms stand behind each branch, which torchtitan's blocks lack.");
  if (hasNormBehindEmbedding(plan)) lost.push("A norm stands behind the embedding, which torchtitan lacks.");
  if (architecture.latent && (architecture.queryKeyNorm || architecture.attentionBias)) {
    lost.push(
      "Latent attention has norms of heads or biases, which torchtitan's multi-head latent attention lacks.",
    );
  }
  if (experts && experts.shared > 0 && family === "qwen2_moe") {
    lost.push("The shared expert has a gate, which torchtitan's mixtures lack.");
  }
  if (architecture.nextTokenPredictions) {
    lost.push("Further tokens are predicted, for which the module written here sets up no loss.");
  }
  return [...lost, ...lostDivision(plan, architecture)];
}

/** Divisibility as `Decoder.Config.update_from_config` (torchtitan/models/common/decoder.py) asks for it. */
function lostDivision(plan: Plan, architecture: Architecture): string[] {
  const { heads, keyValueHeads, vocabulary, latent, experts } = architecture;
  const tensor = axisSize(plan, "tensor");
  const expert = plan.mesh.experts?.expert ?? 1;
  const lost: string[] = [];
  if (heads % tensor) {
    lost.push(`tensor_parallel_degree (${tensor}) must divide n_heads (${heads}) in torchtitan.`);
  } else if (!latent && keyValueHeads % tensor) {
    lost.push(`tensor_parallel_degree (${tensor}) must divide n_kv_heads (${keyValueHeads}) in torchtitan.`);
  }
  if (vocabulary % tensor) {
    lost.push(
      `A vocabulary of ${vocabulary} does not divide over ${tensor} tensor ranks, as torchtitan splits it.`,
    );
  }
  const widths = experts && expert === 1 ? [architecture.ffn, experts.ffn] : [architecture.ffn];
  for (const width of widths) {
    if (width % tensor) lost.push(`Layers of width ${width} do not divide over ${tensor} tensor ranks.`);
  }
  if (experts && experts.routed % expert) {
    lost.push(
      `num_experts (${experts.routed}) must be divisible by expert_parallel_degree (${expert}) in torchtitan.`,
    );
  }
  return lost;
}
