import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { checkDocument, type Model, MpoptError, readJson } from "../contracts/index.js";
import { checkModel } from "./check.js";
import type { Kernels, Workload } from "./graph.js";
import { importHuggingFace } from "./huggingface.js";
import { presetConfig, presetDimensions, presetNames } from "./presets/index.js";
import { transformerModel } from "./transformer.js";

export { checkModel } from "./check.js";
export type { Kernels } from "./graph.js";
export { importHuggingFace, supportedFamilies } from "./huggingface.js";
export { presetConfig, presetDimensions, presetNames } from "./presets/index.js";
export { paddedVocabulary, type TransformerDimensions, transformerModel } from "./transformer.js";
export * from "./workload.js";

/**
 * Loads a model from a `config.json`, a folder that holds one, an `mpopt.model/1` document, or a preset's
 * name. A file of that name goes before the preset.
 * @param options.reference workload that an imported configuration stands at.
 * @param options.kernels what runs an imported configuration: flash attention by default.
 * @throws MpoptError E_USAGE for a name that is neither, E_FILE, E_PARSE, E_VERSION, and what
 * `importHuggingFace` and `checkModel` throw.
 */
export function loadModel(
  reference: string,
  options: { reference?: Workload; kernels?: Kernels } = {},
): Model {
  const path = fileOf(reference);
  if (path === undefined) {
    if (!presetNames.includes(reference)) throw unknown(reference);
    const dimensions = presetDimensions(reference);
    if (dimensions) return transformerModel(dimensions, options.kernels, { reference: options.reference });
    const where = `preset ${reference}`;
    return importHuggingFace(presetConfig(reference), where, {
      ...options,
      name: reference,
      source: reference,
    });
  }
  const value = readJson(path);
  if (typeof value === "object" && value !== null && "schema" in value) {
    const model = checkDocument("model", value, path);
    checkModel(model, path);
    return model;
  }
  return importHuggingFace(value, path, options);
}

/** The file that a reference names, or undefined where there is none. */
function fileOf(reference: string): string | undefined {
  if (!existsSync(reference)) return undefined;
  if (!statSync(reference).isDirectory()) return reference;
  const inside = join(reference, "config.json");
  if (existsSync(inside)) return inside;
  if (presetNames.includes(reference)) return undefined;
  throw new MpoptError("E_FILE", `Expected a config.json in the folder ${reference} but it has none.`);
}

function unknown(reference: string): MpoptError {
  const presets = `Presets are ${presetNames.join(", ")}.`;
  if (/[/\\]|\.json$/.test(reference)) {
    return new MpoptError("E_FILE", `Expected a model at ${reference} but it does not exist.`, [presets]);
  }
  return new MpoptError(
    "E_USAGE",
    `Expected a preset, a config.json or an mpopt.model/1 file as the model but found "${reference}".`,
    [presets],
  );
}
