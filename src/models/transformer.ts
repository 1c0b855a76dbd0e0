import { type Architecture, type Model, MpoptError } from "../contracts/index.js";
import type { DocumentContext } from "./context.js";
import { buildDecoder } from "./decoder/build.js";
import type { RoutedExperts } from "./decoder/experts.js";
import {
  type DecoderLayer,
  type DecoderNames,
  type DecoderSpec,
  type Latent,
  llamaNames,
  megatronNames,
} from "./decoder/spec.js";
import type { Kernels } from "./graph.js";
import { ConfigFields } from "./huggingface/fields.js";

/** A decoder-only transformer by its dimensions, as tables of measured runs and papers state it. */
export interface TransformerDimensions {
  name: string;
  layers: number;
  hidden: number;
  /** Width of a dense MLP; of one half of it where it is gated. */
  ffn: number;
  heads: number;
  keyValueHeads: number;
  /** Features of a head; hidden / heads by default. */
  headSize?: number;
  /** Rows of the embedding, padding included. */
  vocabulary: number;
  /** Tokens of a sequence; so many positions are learned where they are. */
  sequence: number;
  /** MLPs multiply the activation with a second projection. */
  gated: boolean;
  /** `gelu`, `silu`, `relu`, `squared_relu`; another name counts as gelu. */
  activation: string;
  norm: Architecture["norm"];
  positions: Architecture["positions"];
  tiedEmbeddings: boolean;
  /** Biases of all linear layers and layer norms, or of those named. */
  biases: boolean | { qkv: boolean; output: boolean; mlp: boolean; norms: boolean };
  /** Attention and MLP side by side, on one norm (PaLM); with a norm each under `"separate_norms"` (GPT-NeoX). */
  parallelResidual?: boolean | "separate_norms";
  /** Norms behind each branch, too (Grok-1). */
  branchNorms?: boolean;
  /** Norms of q and k over the features of each head. */
  queryKeyNorm?: boolean;
  /** A norm behind the embedding (BLOOM). */
  embeddingNorm?: boolean;
  experts?: {
    routed: number;
    topK: number;
    /** Width of one routed expert. */
    ffn: number;
    /** Experts that all tokens go through; none by default. */
    shared?: number;
    /** Width of the shared ones together; shared x ffn by default. */
    sharedFfn?: number;
    /** Leading layers without experts; none by default. */
    denseLayers?: number;
    /** Router and experts have biases. */
    bias?: boolean;
    /** What enters the activation of an expert is clamped. */
    clamp?: boolean;
    /** Experts in the last of every so many layers (2 in Llama 4 Maverick); in all by default. */
    every?: number;
  };
  /** Multi-head latent attention. */
  latent?: Latent;
  slidingWindow?: {
    /** Keys that a query sees, itself included. */
    window: number;
    /** The last of every so many layers sees all keys (2 in GPT-OSS, 6 in Gemma 3); none does by default. */
    every?: number;
    /** The sequence is cut into pieces of `window` tokens in place of a window that slides (Llama 4). */
    chunked?: boolean;
  };
  /** Depth of multi-token prediction (1 in DeepSeek-V3). */
  nextTokenPredictions?: number;
  /**
   * Whether q, k, v are one product, and both halves of a gated MLP (Megatron-LM, llm-foundry), or products of their
   * own (torchtitan, Hugging Face). `fused` by default.
   */
  projections?: "fused" | "separate";
}

/** Epsilon of Megatron-LM's norms (--norm-epsilon). */
const epsilon = 1e-5;

/**
 * A model from its dimensions, at one sequence unless `context.reference` says otherwise. Equal layers share a
 * block. Modules have the names of Megatron-Core's GPTModel, of Llama where projections are separate, and of
 * DeepSeek's code inside latent attention.
 * @throws MpoptError E_FIELD with the first dimension that is none or does not fit the others.
 */
export function transformerModel(
  dimensions: TransformerDimensions,
  kernels: Kernels = {},
  context: Partial<Pick<DocumentContext, "reference" | "source">> = {},
): Model {
  const { name, sequence } = dimensions;
  const spec = specOf(dimensions, new ConfigFields({ ...dimensions }, name));
  const reference = context.reference ?? { batch: 1, sequence };
  return buildDecoder(spec, { name, source: context.source ?? name, reference, kernels });
}

function specOf(d: TransformerDimensions, fields: ConfigFields): DecoderSpec {
  const layers = fields.layers("layers");
  const hidden = fields.size("hidden");
  const heads = fields.size("heads");
  const keyValueHeads = fields.size("keyValueHeads");
  fields.divided(heads, "heads", keyValueHeads, "keyValueHeads");
  const headSize = fields.optionalSize("headSize", null) ?? fields.divided(hidden, "hidden", heads, "heads");
  const ffn = fields.size("ffn");
  const experts = expertsOf(d, layers);
  const windows = windowsOf(d, layers);
  const all = typeof d.biases === "boolean" ? d.biases : undefined;
  const { qkv, output, mlp, norms } =
    typeof d.biases === "object"
      ? d.biases
      : { qkv: all === true, output: all === true, mlp: all === true, norms: all === true };
  return {
    family: "transformer",
    names: namesOf(d),
    hidden,
    heads,
    keyValueHeads,
    headSize,
    ...(d.latent ? { latent: d.latent } : {}),
    vocabulary: fields.size("vocabulary"),
    maxSequence: fields.size("sequence"),
    activation: d.activation,
    gated: d.gated,
    norm: d.norm,
    epsilon,
    normBias: norms,
    bias: { qkv, output, mlp },
    positions: d.positions,
    ...(d.queryKeyNorm ? { queryKeyNorm: "affine" as const } : {}),
    ...(d.parallelResidual
      ? { parallelResidual: true, sharedNorm: d.parallelResidual !== "separate_norms" }
      : {}),
    tied: d.tiedEmbeddings,
    layers: Array.from({ length: layers }, (_, i) => ({
      ffn,
      rotary: d.positions === "rotary",
      experts: experts[i],
      ...windows[i],
    })),
    nextTokenPredictions: fields.count("nextTokenPredictions", 0),
  };
}

function namesOf(d: TransformerDimensions): DecoderNames {
  const names = d.projections === "separate" ? llamaNames : megatronNames;
  return {
    ...names,
    ...(d.positions === "learned"
      ? { positions: { module: "embedding.position_embeddings", addModule: "embedding" } }
      : {}),
    ...(d.embeddingNorm ? { embeddingNorm: "embedding.layernorm" } : {}),
    ...(d.branchNorms
      ? { branchNorms: { attention: "post_self_attn_layernorm", mlp: "post_mlp_layernorm" } }
      : {}),
  };
}

function expertsOf({ name, experts, biases }: TransformerDimensions, layers: number) {
  if (!experts) return Array<undefined>(layers).fill(undefined);
  const fields = new ConfigFields({ ...experts }, `${name}, experts`);
  const routed = fields.size("routed");
  const topK = fields.size("topK");
  if (topK > routed) throw fields.error("topK", `at most routed (${routed})`);
  const ffn = fields.size("ffn");
  const sharedFfn = fields.count("sharedFfn", fields.count("shared", 0) * ffn);
  const bias = biases === true || (typeof biases === "object" && biases.mlp);
  const spec: RoutedExperts = {
    experts: routed,
    topK,
    ffn,
    ...(experts.bias ? { bias: true } : {}),
    ...(experts.clamp ? { clamp: true } : {}),
    ...(sharedFfn > 0 ? { shared: { ffn: sharedFfn, bias } } : {}),
  };
  const first = fields.count("denseLayers", 0);
  const every = fields.size("every", 1);
  const list = Array.from({ length: layers }, (_, i) =>
    i >= first && (i + 1) % every === 0 ? spec : undefined,
  );
  if (!list.includes(spec)) {
    throw new MpoptError(
      "E_FIELD",
      `${name}: expected some of ${layers} layers with experts but found none.`,
    );
  }
  return list;
}

function windowsOf(
  { name, slidingWindow }: TransformerDimensions,
  layers: number,
): Pick<DecoderLayer, "window" | "chunked">[] {
  if (!slidingWindow) return Array(layers).fill({});
  const fields = new ConfigFields({ ...slidingWindow }, `${name}, slidingWindow`);
  const bounded = { window: fields.size("window"), ...(slidingWindow.chunked ? { chunked: true } : {}) };
  const every = fields.optionalSize("every", null);
  return Array.from({ length: layers }, (_, i) => (every !== null && (i + 1) % every === 0 ? {} : bounded));
}

/**
 * Rows of an embedding that is split over `tensor` devices: the vocabulary, padded to whole multiples on each
 * (Megatron-LM, --make-vocab-size-divisible-by, 128 by default, times the tensor-parallel degree).
 */
export function paddedVocabulary(vocabulary: number, tensor: number, multiple = 128): number {
  const unit = multiple * tensor;
  return Math.ceil(vocabulary / unit) * unit;
}
