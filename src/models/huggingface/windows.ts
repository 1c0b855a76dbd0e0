import type { ConfigFields } from "./fields.js";

/** Which keys a layer's queries see: a window, pieces of one size (`chunked`), or all before them. */
export interface Window {
  window?: number;
  chunked?: boolean;
}

/** The windows of every layer of a configuration. */
export type ReadWindows = (fields: ConfigFields, layers: number) => Window[];

const layerTypes = ["full_attention", "sliding_attention"];
const all: Window = {};

export const fullAttention: ReadWindows = (_fields, layers) => Array(layers).fill(all);

/** A window where `slides` says so, unless the file lists `layer_types`. */
function windowsWhere(
  fields: ConfigFields,
  layers: number,
  window: number | null,
  slides: (layer: number) => boolean,
): Window[] {
  const types = fields.perLayer("layer_types", layers, layerTypes);
  const sliding = window === null ? all : { window };
  return Array.from({ length: layers }, (_, i) =>
    (types ? types[i] === "sliding_attention" : slides(i)) ? sliding : all,
  );
}

/** One window for all layers. */
export function uniformWindow(absent: number | null): ReadWindows {
  return (fields, layers) =>
    windowsWhere(fields, layers, fields.optionalSize("sliding_window", absent), () => true);
}

/** Qwen's window: only with use_sliding_window, and only in layers from max_window_layers on. */
export const qwenWindows: ReadWindows = (fields, layers) => {
  const first = fields.count("max_window_layers", 28);
  const window = fields.flag("use_sliding_window", false)
    ? fields.optionalSize("sliding_window", 4096)
    : null;
  return windowsWhere(fields, layers, window, (i) => i >= first);
};

/** Qwen3-MoE's: with use_sliding_window in all layers. */
export const qwenMoeWindows: ReadWindows = (fields, layers) =>
  fields.flag("use_sliding_window", false)
    ? uniformWindow(4096)(fields, layers)
    : fullAttention(fields, layers);

/** The last of every `sliding_window_pattern` layers sees all keys; of every `period` where the file omits it. */
export function alternatingWindows(period: number, absent: number): ReadWindows {
  return (fields, layers) => {
    const every = fields.size("sliding_window_pattern", period);
    const window = fields.optionalSize("sliding_window", absent);
    return windowsWhere(fields, layers, window, (i) => (i + 1) % every !== 0);
  };
}

/** True for the layers of Llama 4 that have rotary positions: no_rope_layers holds a 1 for them. */
export function llama4Rotary(fields: ConfigFields, layers: number): boolean[] {
  const given = fields.indices("no_rope_layers");
  const interval = fields.size("no_rope_layer_interval", 4);
  if (given.length > 0 && given.length < layers) {
    throw fields.error("no_rope_layers", `a list of at least ${layers} values`);
  }
  return Array.from({ length: layers }, (_, i) =>
    given.length > 0 ? given[i] === 1 : (i + 1) % interval !== 0,
  );
}

/** Llama 4: layers with rotary positions see pieces of the sequence, the others all of it. */
export const llama4Windows: ReadWindows = (fields, layers) => {
  const types = fields.perLayer("layer_types", layers, ["full_attention", "chunked_attention"]);
  const chunk = fields.optionalSize("attention_chunk_size", 8192);
  const pieces = chunk === null ? all : { window: chunk, chunked: true };
  return llama4Rotary(fields, layers).map((rotary, i) =>
    (types ? types[i] === "chunked_attention" : rotary) ? pieces : all,
  );
};
