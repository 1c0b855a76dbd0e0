import type { Architecture, Tensor } from "../../contracts/index.js";
import { GraphBuilder } from "../graph.js";
import { attention, rotary, separateQkv } from "./attention.js";
import { choices, type ExpertsSpec, mixtureOfExperts } from "./experts.js";
import type { ConfigFields } from "./fields.js";
import { type Importer, referenceWorkload } from "./importer.js";
import { add, gatedNames, mlp, norm, outputHead, projection, rescale, tokenEmbedding } from "./parts.js";

/**
 * Llama and the families that share its block: pre-norm, separate q, k, v, rotary positions, gated MLP.
 * Structure and defaults follow the configuration and modelling files of transformers 5.
 */

export type LlamaFamily = "llama" | "mistral" | "qwen2" | "qwen3" | "gemma2" | "mixtral" | "qwen3_moe";

/** What differs between the families, as a function of the configuration. */
interface Rules {
  /** num_key_value_heads where a file omits it; undefined is as many as heads. */
  keyValueHeads?: number;
  /** head_dim where a file omits it; undefined is hidden / heads. */
  headSize?: number;
  maxSequence: number;
  ropeTheta: number;
  normEpsilon: number;
  tied: boolean;
  queryKeyNorm: boolean;
  activation: { field: string; absent: string };
  bias(fields: ConfigFields): { qkv: boolean; output: boolean; mlp: boolean };
  /** Window of every layer, undefined where it sees all. */
  windows(fields: ConfigFields, layers: number): (number | undefined)[];
  /** The experts of every layer, undefined where it is dense. */
  experts(fields: ConfigFields, layers: number): (LayerExperts | undefined)[];
}

type LayerExperts = Omit<ExpertsSpec, "module" | "activation">;

const llama: Rules = {
  maxSequence: 2048,
  ropeTheta: 10_000,
  normEpsilon: 1e-6,
  tied: false,
  queryKeyNorm: false,
  activation: { field: "hidden_act", absent: "silu" },
  bias: (fields) => {
    const attentionBias = fields.flag("attention_bias", false);
    return { qkv: attentionBias, output: attentionBias, mlp: fields.flag("mlp_bias", false) };
  },
  windows: (_fields, layers) => Array(layers).fill(undefined),
  experts: (_fields, layers) => Array(layers).fill(undefined),
};

const noBias = () => ({ qkv: false, output: false, mlp: false });

function attentionBias(fields: ConfigFields) {
  const bias = fields.flag("attention_bias", false);
  return { qkv: bias, output: bias, mlp: false };
}

const layerTypes = ["full_attention", "sliding_attention"];

/** One window for all layers. */
function uniformWindow(absent: number | null): Rules["windows"] {
  return (fields, layers) => Array(layers).fill(fields.optionalSize("sliding_window", absent) ?? undefined);
}

/** Qwen's window: only with use_sliding_window, and only in layers from max_window_layers on. */
function qwenWindows(fields: ConfigFields, layers: number): (number | undefined)[] {
  const types = fields.perLayer("layer_types", layers, layerTypes);
  const first = fields.count("max_window_layers", 28);
  const window = fields.flag("use_sliding_window", false)
    ? fields.optionalSize("sliding_window", 4096)
    : null;
  const slides = (i: number) => (types ? types[i] === "sliding_attention" : i >= first);
  return Array.from({ length: layers }, (_, i) => (window !== null && slides(i) ? window : undefined));
}

/** Gemma 2 alternates, the first layer slides. */
function gemmaWindows(fields: ConfigFields, layers: number): (number | undefined)[] {
  const types = fields.perLayer("layer_types", layers, layerTypes);
  const window = fields.optionalSize("sliding_window", 4096) ?? undefined;
  const slides = (i: number) => (types ? types[i] === "sliding_attention" : i % 2 === 0);
  return Array.from({ length: layers }, (_, i) => (slides(i) ? window : undefined));
}

function mixtralExperts(fields: ConfigFields, layers: number): LayerExperts[] {
  const experts = fields.size("num_local_experts");
  const topK = choices(fields, experts, "num_local_experts");
  return Array(layers).fill({ experts, topK, ffn: fields.size("intermediate_size") });
}

/** Experts in every decoder_sparse_step-th layer that mlp_only_layers does not name. */
function qwenExperts(fields: ConfigFields, layers: number): (LayerExperts | undefined)[] {
  const field = fields.raw("num_experts") === undefined ? "num_local_experts" : "num_experts";
  const name = fields.raw(field) === undefined ? "num_experts" : field;
  const experts = fields.count(name);
  if (experts === 0) return Array(layers).fill(undefined);
  const spec = { experts, topK: choices(fields, experts, name), ffn: fields.size("moe_intermediate_size") };
  const step = fields.size("decoder_sparse_step", 1);
  const dense = new Set(fields.indices("mlp_only_layers"));
  return Array.from({ length: layers }, (_, i) => (!dense.has(i) && (i + 1) % step === 0 ? spec : undefined));
}

const families: Readonly<Record<LlamaFamily, Rules>> = {
  llama,
  mistral: {
    ...llama,
    keyValueHeads: 8,
    maxSequence: 131_072,
    bias: noBias,
    windows: uniformWindow(4096),
  },
  qwen2: {
    ...llama,
    keyValueHeads: 32,
    maxSequence: 32_768,
    bias: () => ({ qkv: true, output: false, mlp: false }),
    windows: qwenWindows,
  },
  qwen3: {
    ...llama,
    keyValueHeads: 32,
    headSize: 128,
    maxSequence: 32_768,
    queryKeyNorm: true,
    bias: attentionBias,
    windows: qwenWindows,
  },
  gemma2: {
    ...llama,
    keyValueHeads: 4,
    headSize: 256,
    maxSequence: 8192,
    tied: true,
    activation: { field: "hidden_activation", absent: "gelu_pytorch_tanh" },
    bias: attentionBias,
    windows: gemmaWindows,
  },
  mixtral: {
    ...llama,
    keyValueHeads: 8,
    maxSequence: 131_072,
    ropeTheta: 1e6,
    normEpsilon: 1e-5,
    bias: noBias,
    windows: uniformWindow(null),
    experts: mixtralExperts,
  },
  qwen3_moe: {
    ...llama,
    keyValueHeads: 4,
    maxSequence: 32_768,
    queryKeyNorm: true,
    bias: attentionBias,
    windows: (fields, layers) => {
      const slides = fields.flag("use_sliding_window", false);
      return slides ? uniformWindow(4096)(fields, layers) : Array(layers).fill(undefined);
    },
    experts: qwenExperts,
  },
};

function read(family: LlamaFamily, fields: ConfigFields) {
  const rules = families[family];
  const hidden = fields.size("hidden_size");
  const layers = fields.layers("num_hidden_layers");
  const heads = fields.size("num_attention_heads");
  const keyValueHeads = fields.size("num_key_value_heads", rules.keyValueHeads ?? heads, heads);
  const headSize = fields.headSize(hidden, heads, rules.headSize);
  fields.divided(heads, "num_attention_heads", keyValueHeads, "num_key_value_heads");
  const activation = fields.text(rules.activation.field, rules.activation.absent);
  const experts = rules.experts(fields, layers);
  return {
    family,
    hidden,
    layers,
    heads,
    keyValueHeads,
    headSize,
    activation,
    experts,
    ffn: fields.size("intermediate_size"),
    vocabulary: fields.size("vocab_size"),
    maxSequence: fields.size("max_position_embeddings", rules.maxSequence),
    epsilon: fields.positive("rms_norm_eps", rules.normEpsilon),
    ropeTheta: fields.rotary("rope_theta", "rope_theta", rules.ropeTheta),
    tied: fields.flag("tie_word_embeddings", rules.tied),
    bias: rules.bias(fields),
    windows: rules.windows(fields, layers),
    queryKeyNorm: rules.queryKeyNorm,
    fourNorms: family === "gemma2",
    softCapScores: family === "gemma2" && fields.raw("attn_logit_softcapping") !== null,
    softCapLogits: family === "gemma2" && fields.raw("final_logit_softcapping") !== null,
  };
}

type LlamaConfig = ReturnType<typeof read>;

/** Name of the block of layer i: by attention where windows differ, by MLP where experts differ. */
function blockName({ windows, experts }: LlamaConfig, i: number): string {
  const parts = [];
  if (new Set(windows).size > 1)
    parts.push(windows[i] === undefined ? "full_attention" : "sliding_attention");
  if (new Set(experts).size > 1) parts.push(experts[i] ? "expert" : "dense");
  return parts.join("_") || "decoder";
}

/** The layer's operators in the order of execution; returns what the next layer reads. */
function decoderLayer(g: GraphBuilder, c: LlamaConfig, i: number, x: Tensor): Tensor {
  const module = `model.layers.${i}`;
  const self = `${module}.self_attn`;
  const rms = (id: string, name: string, input: Tensor) =>
    norm(g, { id, kind: "rms_norm", module: `${module}.${name}`, epsilon: c.epsilon }, input);

  const normed = rms("input_norm", "input_layernorm", x);
  const qkv = separateQkv(g, { ...c, module: self, bias: c.bias.qkv }, normed);
  if (c.queryKeyNorm) {
    qkv.query = rms("query_norm", "self_attn.q_norm", qkv.query);
    qkv.key = rms("key_norm", "self_attn.k_norm", qkv.key);
  }
  const rotated = rotary(g, self, qkv, c.headSize);
  const attended = attention(g, { module: self, window: c.windows[i], softCap: c.softCapScores }, rotated);
  const out = { id: "o_proj", module: `${self}.o_proj`, out: { hidden: c.hidden }, bias: c.bias.output };
  let branch = projection(g, out, attended);
  if (c.fourNorms) branch = rms("post_attention_norm", "post_attention_layernorm", branch);
  const middle = add(g, "attention_add", module, x, branch);

  const beforeMlp = c.fourNorms ? "pre_feedforward_layernorm" : "post_attention_layernorm";
  branch = rms("mlp_norm", beforeMlp, middle);
  const { activation, ffn, bias } = c;
  const experts = c.experts[i];
  branch = experts
    ? mixtureOfExperts(g, { ...experts, module: `${module}.mlp`, activation }, branch)
    : mlp(g, { module: `${module}.mlp`, ...gatedNames, ffn, activation, bias: bias.mlp }, branch);
  if (c.fourNorms) branch = rms("post_mlp_norm", "post_feedforward_layernorm", branch);
  return add(g, "mlp_add", module, middle, branch);
}

function architecture(c: LlamaConfig): Architecture {
  const experts = c.experts.find((spec) => spec !== undefined);
  const slidingWindow = c.windows.find((window) => window !== undefined);
  return {
    family: c.family,
    hidden: c.hidden,
    ffn: c.ffn,
    layers: c.layers,
    heads: c.heads,
    keyValueHeads: c.keyValueHeads,
    headSize: c.headSize,
    vocabulary: c.vocabulary,
    maxSequence: c.maxSequence,
    gated: true,
    activation: c.activation,
    norm: "rms_norm",
    normEpsilon: c.epsilon,
    tiedEmbeddings: c.tied,
    positions: "rotary",
    ropeTheta: c.ropeTheta,
    attentionBias: c.bias.qkv,
    mlpBias: c.bias.mlp,
    queryKeyNorm: c.queryKeyNorm,
    ...(slidingWindow === undefined ? {} : { slidingWindow }),
    ...(experts && {
      experts: {
        routed: experts.experts,
        shared: 0,
        topK: experts.topK,
        ffn: experts.ffn,
        sharedFfn: 0,
        denseLayers: c.experts.indexOf(experts),
      },
    }),
  };
}

/** The importer of one Llama-like family. */
export function llamaImporter(family: LlamaFamily): Importer {
  return (fields, context) => {
    const c = read(family, fields);
    const g = new GraphBuilder(referenceWorkload(context, c.maxSequence), context.kernels);
    const embed = "model.embed_tokens";
    const first = { id: "embedding", kind: "embedding", modules: [embed], block: "embedding" } as const;
    const table = g.layer(first, () => {
      const { out, weight } = tokenEmbedding(g, {
        module: embed,
        vocabulary: c.vocabulary,
        features: { hidden: c.hidden },
      });
      // Gemma multiplies the embedding by the square root of the hidden size.
      return { weight, out: family === "gemma2" ? rescale(g, "scale", embed, out) : out };
    });
    let x = table.out;
    for (let i = 0; i < c.layers; i += 1) {
      const block = blockName(c, i);
      const layer = { id: `layers.${i}`, kind: "block", modules: [`model.layers.${i}`], block } as const;
      x = g.layer(layer, () => decoderLayer(g, c, i, x));
    }
    g.layer({ id: "head", kind: "head", modules: ["model.norm", "lm_head"], block: "head" }, () => {
      const last = { id: "final_norm", kind: "rms_norm", module: "model.norm", epsilon: c.epsilon } as const;
      const tiedTo = c.tied ? table.weight : undefined;
      const head = { module: "lm_head", vocabulary: c.vocabulary, tiedTo, softCap: c.softCapLogits };
      outputHead(g, head, norm(g, last, x));
    });
    return g.finish(context.name, context.source, architecture(c));
  };
}
