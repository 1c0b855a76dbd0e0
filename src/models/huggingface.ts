import { basename, dirname } from "node:path";
import { type Model, MpoptError } from "../contracts/index.js";
import type { DocumentContext } from "./context.js";
import { importBloom } from "./huggingface/bloom.js";
import { deepseekImporter } from "./huggingface/deepseek.js";
import { ConfigFields } from "./huggingface/fields.js";
import { importGpt2 } from "./huggingface/gpt2.js";
import { importGptNeox } from "./huggingface/gptNeox.js";
import type { Importer } from "./huggingface/importer.js";
import { llamaImporter } from "./huggingface/llama.js";
import { importOpt } from "./huggingface/opt.js";
import { checkWorkload } from "./workload.js";

const importers: Readonly<Record<string, Importer>> = {
  llama: llamaImporter("llama"),
  mistral: llamaImporter("mistral"),
  qwen2: llamaImporter("qwen2"),
  qwen3: llamaImporter("qwen3"),
  gemma2: llamaImporter("gemma2"),
  gemma3_text: llamaImporter("gemma3_text"),
  nemotron: llamaImporter("nemotron"),
  gpt2: importGpt2,
  opt: importOpt,
  gpt_neox: importGptNeox,
  bloom: importBloom,
  mixtral: llamaImporter("mixtral"),
  qwen2_moe: llamaImporter("qwen2_moe"),
  qwen3_moe: llamaImporter("qwen3_moe"),
  gpt_oss: llamaImporter("gpt_oss"),
  llama4_text: llamaImporter("llama4_text"),
  glm4_moe: llamaImporter("glm4_moe"),
  deepseek_v2: deepseekImporter("deepseek_v2"),
  deepseek_v3: deepseekImporter("deepseek_v3"),
  // Kimi K2 is DeepSeek-V3 with other dimensions.
  kimi_k2: deepseekImporter("deepseek_v3"),
};

/** Class names of the families, for configurations that name their class alone. */
const classes: Readonly<Record<string, string>> = {
  Llama: "llama",
  Mistral: "mistral",
  Qwen2: "qwen2",
  Qwen3: "qwen3",
  Gemma2: "gemma2",
  Gemma3: "gemma3_text",
  Nemotron: "nemotron",
  GPT2: "gpt2",
  OPT: "opt",
  GPTNeoX: "gpt_neox",
  Bloom: "bloom",
  Mixtral: "mixtral",
  Qwen2Moe: "qwen2_moe",
  Qwen3Moe: "qwen3_moe",
  GptOss: "gpt_oss",
  Llama4: "llama4_text",
  Glm4Moe: "glm4_moe",
  DeepseekV2: "deepseek_v2",
  DeepseekV3: "deepseek_v3",
};

/** Values of model_type that are imported. */
export const supportedFamilies: readonly string[] = Object.keys(importers);

const remedy = `Supported are ${supportedFamilies.join(", ")}; for another model write its graph as an mpopt.model/1 document.`;

/** The part of a class name before what it is used for: `LlamaForCausalLM` is `Llama`. */
const causalClass = /^(\w+?)(ForCausalLM|LMHeadModel|DoubleHeadsModel|Model)$/;

function familyOf(config: Readonly<Record<string, unknown>>, fields: ConfigFields): string {
  const { where } = fields;
  const named = config.architectures;
  const list = named === undefined || named === null ? [] : named;
  if (!Array.isArray(list) || !list.every((name) => typeof name === "string")) {
    throw fields.error("architectures", "a list of class names");
  }
  const type = fields.text("model_type", "");
  const matches = list.map((name) => causalClass.exec(name)?.[1]);
  const family = type || matches.map((name) => (name ? classes[name] : undefined)).find((name) => name);
  if (family && Object.hasOwn(importers, family)) {
    if (list.length && matches.every((name) => name === undefined)) {
      throw new MpoptError(
        "E_ARCHITECTURE",
        `${where}: expected a causal language model but found ${list.join(", ")}.`,
        ["Give the configuration of the model with its language-model head."],
      );
    }
    return family;
  }
  if (typeof config.text_config === "object" && config.text_config !== null) {
    throw new MpoptError(
      "E_ARCHITECTURE",
      `${where}: expected a language model but found ${type || list.join(", ") || "a model"} of several parts, whose language model is under text_config.`,
      ["Write the object under text_config to a file of its own and import that.", remedy],
    );
  }
  if (!type && list.length === 0) {
    throw fields.error("model_type", "the name of an architecture", [remedy]);
  }
  throw new MpoptError(
    "E_ARCHITECTURE",
    `${where}: expected one of the architectures ${supportedFamilies.join(", ")} but found ${type || list.join(", ")}.`,
    ["For another model write its graph as an mpopt.model/1 document and give that file."],
  );
}

/**
 * Turns a Hugging Face `config.json` into a model document, at one sequence of at most 4096 tokens unless
 * `context.reference` says otherwise. Fused runtimes are assumed: one operator for q, k, v, and flash attention
 * unless `context.kernels` says otherwise.
 * Parameters are those that training updates; quantisation scales and rotary buffers are left out. Layers of
 * multi-token prediction are built where the configuration counts them, and left out of `parameterCount`, as of
 * published counts. Module and parameter names are those of transformers 5.
 * @param where the file, or the words that name the configuration in an error.
 * @throws MpoptError E_ARCHITECTURE for a family that is not supported, E_FIELD for a field that is missing,
 * of the wrong type, or does not fit the others, E_USAGE for a reference beyond learned positions.
 */
export function importHuggingFace(
  config: unknown,
  where: string,
  context: Partial<DocumentContext> = {},
): Model {
  if (typeof config !== "object" || config === null || Array.isArray(config)) {
    const found = Array.isArray(config) ? "a list" : config === null ? "null" : `a ${typeof config}`;
    throw new MpoptError(
      "E_FIELD",
      `${where}: expected an object of configuration fields but found ${found}.`,
    );
  }
  const values = config as Readonly<Record<string, unknown>>;
  const fields = new ConfigFields(values, where);
  const family = familyOf(values, fields);
  const model = importers[family]!(fields, {
    name: context.name ?? nameFrom(where, family),
    source: context.source ?? where,
    ...(context.reference ? { reference: context.reference } : {}),
    ...(context.kernels ? { kernels: context.kernels } : {}),
  });
  checkWorkload(model, model.reference);
  return model;
}

/** The folder that holds a `config.json`, or the file's own name without its ending. */
function nameFrom(where: string, family: string): string {
  const file = basename(where);
  const name = file === "config.json" ? basename(dirname(where)) : file.replace(/\.json$/, "");
  return name === "" || name === "." || name === ".." ? family : name;
}
