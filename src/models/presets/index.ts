import { MpoptError } from "../../contracts/index.js";
import { deepseekV3, mixtral8x7b, qwen3With30bA3b } from "./experts.js";
import { gpt2, tinyGpt } from "./gpt.js";
import {
  llama31With8b,
  llama31With70b,
  llama31With405b,
  miniLlama,
  mistral7b,
  qwen25With72b,
} from "./llama.js";

const presets: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  gpt2,
  "mistral-7b": mistral7b,
  "llama-3.1-8b": llama31With8b,
  "llama-3.1-70b": llama31With70b,
  "llama-3.1-405b": llama31With405b,
  "qwen2.5-72b": qwen25With72b,
  "mixtral-8x7b": mixtral8x7b,
  "qwen3-30b-a3b": qwen3With30bA3b,
  "deepseek-v3": deepseekV3,
  "tiny-gpt": tinyGpt,
  "mini-llama": miniLlama,
};

/** Names of the models that ship with mpopt, written from their published dimensions. */
export const presetNames: readonly string[] = Object.keys(presets);

/**
 * A preset as a Hugging Face configuration.
 * @throws MpoptError E_USAGE for an unknown name.
 */
export function presetConfig(name: string): Readonly<Record<string, unknown>> {
  if (!Object.hasOwn(presets, name)) {
    throw new MpoptError(
      "E_USAGE",
      `Expected one of the model presets ${presetNames.join(", ")} but found "${name}".`,
    );
  }
  return structuredClone(presets[name]!);
}
