import { type DecoderNames, type DecoderSpec, llamaNames } from "../decoder/spec.js";
import {
  glmExperts,
  gptOssExperts,
  llama4Experts,
  mixtralExperts,
  qwenExperts,
  type ReadExperts,
} from "./experts.js";
import type { ConfigFields } from "./fields.js";
import {
  alternatingWindows,
  fullAttention,
  llama4Rotary,
  llama4Windows,
  qwenMoeWindows,
  qwenWindows,
  type ReadWindows,
  uniformWindow,
} from "./windows.js";

/** What differs between the families that share Llama's block, as functions of the configuration. */
export interface LlamaRules {
  names: DecoderNames;
  /** num_key_value_heads where a file omits it; undefined is as many as heads. */
  keyValueHeads?: number;
  /** head_dim where a file omits it; undefined is hidden / heads. */
  headSize?: number;
  /** The field that holds the width of a dense MLP. */
  ffnField: string;
  maxSequence: number;
  ropeTheta: number;
  /** partial_rotary_factor where a file omits it; undefined where the family rotates whole heads. */
  rotaryFraction?: number;
  norm: { kind: DecoderSpec["norm"]; field: string; epsilon: number };
  tied: boolean;
  gated: boolean;
  scaledEmbedding: boolean;
  softCaps: boolean;
  sinks: boolean;
  /** Whether num_nextn_predict_layers counts layers of multi-token prediction. */
  predictions: boolean;
  activation: { field: string; absent: string };
  queryKeyNorm(fields: ConfigFields): DecoderSpec["queryKeyNorm"];
  bias(fields: ConfigFields): DecoderSpec["bias"];
  windows: ReadWindows;
  /** Whether each layer has rotary positions. */
  rotary(fields: ConfigFields, layers: number): boolean[];
  experts: ReadExperts;
}

export type LlamaFamily =
  | "llama"
  | "mistral"
  | "qwen2"
  | "qwen3"
  | "gemma2"
  | "gemma3_text"
  | "nemotron"
  | "mixtral"
  | "qwen2_moe"
  | "qwen3_moe"
  | "gpt_oss"
  | "llama4_text"
  | "glm4_moe";

const llama: LlamaRules = {
  names: llamaNames,
  ffnField: "intermediate_size",
  maxSequence: 2048,
  ropeTheta: 10_000,
  norm: { kind: "rms_norm", field: "rms_norm_eps", epsilon: 1e-6 },
  tied: false,
  gated: true,
  scaledEmbedding: false,
  softCaps: false,
  sinks: false,
  predictions: false,
  activation: { field: "hidden_act", absent: "silu" },
  queryKeyNorm: () => undefined,
  bias: (fields) => ({ ...attentionBias(fields), mlp: fields.flag("mlp_bias", false) }),
  windows: fullAttention,
  rotary: (_fields, layers) => Array(layers).fill(true),
  experts: (_fields, layers) => Array(layers).fill(undefined),
};

const noBias = () => ({ qkv: false, output: false, mlp: false });
const qkvBias = () => ({ qkv: true, output: false, mlp: false });

function attentionBias(fields: ConfigFields, absent = false) {
  const bias = fields.flag("attention_bias", absent);
  return { qkv: bias, output: bias, mlp: false };
}

const rmsNorm = (epsilon: number) => ({ ...llama.norm, epsilon });

const qwen3: LlamaRules = {
  ...llama,
  keyValueHeads: 32,
  headSize: 128,
  maxSequence: 32_768,
  queryKeyNorm: () => "affine",
  bias: (fields) => attentionBias(fields),
  windows: qwenWindows,
};

const gemma2: LlamaRules = {
  ...llama,
  names: {
    ...llamaNames,
    mlpNorm: "pre_feedforward_layernorm",
    branchNorms: { attention: "post_attention_layernorm", mlp: "post_feedforward_layernorm" },
  },
  keyValueHeads: 4,
  headSize: 256,
  maxSequence: 8192,
  tied: true,
  scaledEmbedding: true,
  softCaps: true,
  activation: { field: "hidden_activation", absent: "gelu_pytorch_tanh" },
  bias: (fields) => attentionBias(fields),
  windows: alternatingWindows(2, 4096),
};

export const llamaFamilies: Readonly<Record<LlamaFamily, LlamaRules>> = {
  llama,
  mistral: {
    ...llama,
    keyValueHeads: 8,
    maxSequence: 131_072,
    bias: noBias,
    windows: uniformWindow(4096),
  },
  qwen2: { ...llama, keyValueHeads: 32, maxSequence: 32_768, bias: qkvBias, windows: qwenWindows },
  qwen3,
  gemma2,
  gemma3_text: {
    ...gemma2,
    maxSequence: 131_072,
    ropeTheta: 1e6,
    softCaps: false,
    queryKeyNorm: () => "affine",
    windows: alternatingWindows(6, 4096),
  },
  nemotron: {
    ...llama,
    maxSequence: 4096,
    rotaryFraction: 0.5,
    norm: { kind: "layer_norm", field: "norm_eps", epsilon: 1e-5 },
    gated: false,
    activation: { field: "hidden_act", absent: "relu2" },
  },
  mixtral: {
    ...llama,
    keyValueHeads: 8,
    maxSequence: 131_072,
    ropeTheta: 1e6,
    norm: rmsNorm(1e-5),
    bias: noBias,
    windows: uniformWindow(null),
    experts: mixtralExperts,
  },
  qwen2_moe: {
    ...llama,
    names: { ...llamaNames, sharedExpert: "shared_expert" },
    keyValueHeads: 16,
    maxSequence: 32_768,
    bias: (fields) => ({ ...qkvBias(), qkv: fields.flag("qkv_bias", true) }),
    windows: qwenWindows,
    experts: qwenExperts(true),
  },
  qwen3_moe: {
    ...qwen3,
    keyValueHeads: 4,
    headSize: undefined,
    windows: qwenMoeWindows,
    experts: qwenExperts(false),
  },
  gpt_oss: {
    ...llama,
    names: { ...llamaNames, router: "router" },
    keyValueHeads: 8,
    headSize: 64,
    maxSequence: 131_072,
    ropeTheta: 150_000,
    norm: rmsNorm(1e-5),
    sinks: true,
    bias: (fields) => attentionBias(fields, true),
    windows: alternatingWindows(2, 128),
    experts: gptOssExperts,
  },
  llama4_text: {
    ...llama,
    names: { ...llamaNames, mlp: "feed_forward", router: "router", sharedExpert: "shared_expert" },
    keyValueHeads: 8,
    headSize: 128,
    ffnField: "intermediate_size_mlp",
    maxSequence: 131_072,
    ropeTheta: 500_000,
    norm: rmsNorm(1e-5),
    queryKeyNorm: (fields) => (fields.flag("use_qk_norm", true) ? "plain" : undefined),
    bias: (fields) => attentionBias(fields),
    windows: llama4Windows,
    rotary: llama4Rotary,
    experts: llama4Experts,
  },
  glm4_moe: {
    ...llama,
    keyValueHeads: 8,
    headSize: 128,
    maxSequence: 131_072,
    rotaryFraction: 0.5,
    norm: rmsNorm(1e-5),
    predictions: true,
    queryKeyNorm: (fields) => (fields.flag("use_qk_norm", false) ? "affine" : undefined),
    bias: (fields) => ({ ...qkvBias(), qkv: fields.flag("attention_bias", false) }),
    experts: glmExperts,
  },
};
