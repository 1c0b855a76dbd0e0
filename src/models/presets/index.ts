import { MpoptError } from "../../contracts/index.js";
import type { TransformerDimensions } from "../transformer.js";
import * as dimensions from "./dimensions.js";
import * as experts from "./experts.js";
import * as gpt from "./gpt.js";
import * as llama from "./llama.js";

type Config = Readonly<Record<string, unknown>>;

/** Presets that a Hugging Face configuration describes. */
const configs: Readonly<Record<string, Config>> = {
  gpt2: gpt.gpt2,
  "gpt-neox-20b": gpt.gptNeox20b,
  "opt-175b": gpt.opt175b,
  "bloom-176b": gpt.bloom176b,
  "mistral-7b": llama.mistral7b,
  "llama-2-7b": llama.llama2With7b,
  "llama-2-13b": llama.llama2With13b,
  "llama-2-70b": llama.llama2With70b,
  "llama-3-8b": llama.llama3With8b,
  "llama-3-70b": llama.llama3With70b,
  "llama-3.1-8b": llama.llama31With8b,
  "llama-3.1-70b": llama.llama31With70b,
  "llama-3.1-405b": llama.llama31With405b,
  "llama-3.2-1b": llama.llama32With1b,
  "llama-3.2-3b": llama.llama32With3b,
  "llama-3.3-70b": llama.llama31With70b,
  "llama-4-scout": experts.llama4Scout,
  "llama-4-maverick": experts.llama4Maverick,
  "qwen2.5-72b": llama.qwen25With72b,
  "qwen3-30b-a3b": experts.qwen3With30bA3b,
  "qwen3-235b-a22b": experts.qwen3With235bA22b,
  "gemma-2-27b": llama.gemma2With27b,
  "gemma-3-27b": llama.gemma3With27b,
  "nemotron-4-340b": llama.nemotron4With340b,
  "mixtral-8x7b": experts.mixtral8x7b,
  "mixtral-8x22b": experts.mixtral8x22b,
  "gpt-oss-20b": experts.gptOss20b,
  "gpt-oss-120b": experts.gptOss120b,
  "glm-4.5": experts.glm45,
  "glm-4.5-air": experts.glm45Air,
  "deepseek-v2": experts.deepseekV2,
  "deepseek-v3": experts.deepseekV3,
  "deepseek-v3-mtp": experts.deepseekV3WithPrediction,
  "kimi-k2": experts.kimiK2,
  "tiny-gpt": gpt.tinyGpt,
  "mini-llama": llama.miniLlama,
};

/** Presets that dimensions alone describe. */
const plain: Readonly<Record<string, Omit<TransformerDimensions, "name">>> = {
  "gpt3-175b": dimensions.gpt3With175b,
  "megatron-22b": dimensions.megatron22b,
  "megatron-175b": dimensions.megatron175b,
  "megatron-530b": dimensions.megatron530b,
  "mt-nlg-530b": dimensions.megatron530b,
  "megatron-1t": dimensions.megatron1t,
  "grok-1": dimensions.grok1,
  "palm-540b": dimensions.palm540b,
};

/** Names of the models that ship with mpopt, written from their published dimensions. */
export const presetNames: readonly string[] = [...Object.keys(configs), ...Object.keys(plain)];

/**
 * A preset as a Hugging Face configuration.
 * @throws MpoptError E_USAGE for an unknown name, and for a preset that no such configuration describes.
 */
export function presetConfig(name: string): Config {
  if (!Object.hasOwn(configs, name)) {
    throw new MpoptError(
      "E_USAGE",
      `Expected one of the model presets ${Object.keys(configs).join(", ")} but found "${name}".`,
    );
  }
  return structuredClone(configs[name]!);
}

/** A preset by its dimensions; undefined for one that has a configuration, and for an unknown name. */
export function presetDimensions(name: string): TransformerDimensions | undefined {
  return Object.hasOwn(plain, name) ? { name, ...structuredClone(plain[name]!) } : undefined;
}
