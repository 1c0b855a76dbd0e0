import type { Plan } from "../contracts/index.js";
import { serialize } from "../contracts/index.js";
import type { Exporter } from "./exporter.js";
import { nodeLayout } from "./layout.js";
import { megatron, megatronEnvironment, megatronFlags } from "./megatron.js";
import { type Override, overridesOf, recipeOf } from "./megatronBridgeFields.js";
import { shellQuote } from "./shell.js";

/**
 * Megatron-Bridge of August 2026: a recipe and `KEY=VALUE` overrides of its ConfigContainer for
 * `scripts/training/run_recipe.py`. What Megatron-Core executes is described once, by the flags of `megatron`; here they
 * become fields.
 */
export const megatronBridge: Exporter = {
  name: "megatron-bridge",
  runtime: "megatron",
  lossy: (plan) => [...megatron.lossy(plan), ...lostFields(plan)],
  files: (plan) => ({
    "train.sh": launchScript(plan),
    "overrides.txt": `${overrides(plan).map(line).join("\n")}\n`,
    "plan.json": serialize(plan),
  }),
};

/** What has a flag in Megatron-LM and no field that a recipe leaves open. */
function lostFields({ job, model }: Plan): string[] {
  const { parameters, gradients, linear, scaling } = job.dtypes;
  const lost: string[] = [];
  // The named precision decides over `ddp.grad_reduce_in_fp32` (`update_config_with_precision_overrides`).
  if (parameters === "bf16" && gradients !== "f32") {
    lost.push(`Gradients are summed in ${gradients}, but Megatron-Bridge's bf16 precisions sum them in f32.`);
  }
  if (parameters === "f16" && gradients !== "f16") {
    lost.push(`Gradients are summed in ${gradients}, but Megatron-Bridge's f16 precisions sum them in f16.`);
  }
  // `bf16_with_fp8_current_scaling_mixed` and its likes.
  if (linear === "fp8" && scaling === "current") {
    lost.push("Megatron-Bridge's precision with current scaling leaves the first and last layers in bf16.");
  }
  if (model.architecture?.latent && recipeOf(model.architecture) === undefined) {
    lost.push("Latent attention has no fields in Megatron-Bridge's general recipe, and no other is known.");
  }
  return lost;
}

function overrides(plan: Plan): Override[] {
  return overridesOf(plan, megatronFlags(plan));
}

const line = ([key, value]: Override): string => `${key}=${value}`;

function launchScript(plan: Plan): string {
  const { world, nodes, ranksPerNode } = nodeLayout(plan);
  const { architecture } = plan.model;
  const recipe = (architecture && recipeOf(architecture)) ?? "vanilla_gpt_pretrain_config";
  return [
    "#!/usr/bin/env bash",
    `# Megatron-Bridge on ${world} devices: run on every node from the folder of Megatron-Bridge, with overrides for data`,
    "# and learning rate behind it. Set NODE_RANK, MASTER_ADDR and MASTER_PORT where there are several nodes.",
    "set -euo pipefail",
    `NODES="\${NNODES:-${nodes}}"`,
    `if [ "$NODES" != ${nodes} ]; then`,
    `  echo "Expected ${nodes} nodes of ${ranksPerNode} devices for this plan but found NNODES=$NODES." >&2`,
    "  exit 2",
    "fi",
    ...megatronEnvironment(plan),
    "OVERRIDES=(",
    ...overrides(plan).map((each) => `  ${shellQuote(line(each))}`),
    ")",
    `exec torchrun --nnodes ${nodes} --nproc-per-node ${ranksPerNode} --node-rank "\${NODE_RANK:-0}" \\`,
    `  --master-addr "\${MASTER_ADDR:-127.0.0.1}" --master-port "\${MASTER_PORT:-29500}" \\`,
    `  "\${BRIDGE_SCRIPT:-scripts/training/run_recipe.py}" --recipe ${recipe} --mode pretrain "\${OVERRIDES[@]}" "$@"`,
    "",
  ].join("\n");
}
