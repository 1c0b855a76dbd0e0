import { z } from "zod";
import { dtypeSchema } from "./quantity.js";

/**
 * `mpopt.model/1`: an operator graph with named loop dimensions.
 *
 * Sizes stand at a reference workload (`reference`: sequences per micro-batch, tokens per sequence). Every
 * axis that grows with the workload carries the name `batch`, `sequence` or `keySequence`, so that the graph
 * can be evaluated at any other batch and sequence (see `models/workload.ts`).
 */

const positiveInteger = z.int().positive();
const identifier = z.string().min(1);

export const tensorSchema = z.object({
  id: identifier,
  shape: z.array(z.int().nonnegative()),
  /** One name an axis of `shape`. */
  axes: z.array(identifier),
  dtype: dtypeSchema,
  kind: z.enum(["input", "parameter", "activation", "gradient", "state"]),
  /** Fully qualified parameter name in the framework, where the tensor is a parameter. */
  name: z.string().optional(),
  /** The id of the parameter that this one shares its storage with (tied embeddings). */
  tiedTo: identifier.optional(),
  /** True for a parameter of multi-token prediction: trained, but no part of the published count. */
  auxiliary: z.boolean().optional(),
});

/** A tensor as an operator sees it: which of the operator's loop dimensions runs over each axis. */
export const operandSchema = z.object({
  tensor: identifier,
  /**
   * One entry an axis of the tensor: the loop dimension's name, or null where the axis is not a loop
   * dimension of this operator. An axis may be shorter than its loop dimension: 8 key heads under 64 heads.
   */
  dims: z.array(identifier.nullable()),
});

export const dimensionSchema = z.object({
  name: identifier,
  size: positiveInteger,
  /** False where the operator cannot be split along this dimension without changing its result. */
  splittable: z.boolean().default(true),
});

export const operatorKindSchema = z.enum([
  "embedding",
  "linear",
  "grouped_linear",
  "attention",
  "norm",
  "elementwise",
  "router",
  "dispatch",
  "combine",
  "cross_entropy",
  "convolution",
  "custom",
]);

export const operatorSchema = z.object({
  id: identifier,
  kind: operatorKindSchema,
  /** What it computes in the framework's words: `silu_mul`, `rms_norm`, `aten.mm`. */
  name: identifier,
  /** Fully qualified module name. */
  module: z.string(),
  /** Further modules that this operator stands for (a fused q, k, v projection has three). */
  modules: z.array(z.string()).optional(),
  inputs: z.array(operandSchema),
  outputs: z.array(operandSchema),
  dims: z.array(dimensionSchema),
  /** Floating-point operations at the reference workload, a multiply-add counted as two. */
  flops: z.object({ forward: z.number().nonnegative(), backward: z.number().nonnegative() }),
  /** Tensors that stay in memory between forward and backward. */
  savedForBackward: z.array(identifier),
  /** Kind-specific facts: `causal`, `window`, `gated`, `topK`. */
  attributes: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])).optional(),
  measured: z
    .object({ forwardSeconds: z.number().nonnegative(), backwardSeconds: z.number().nonnegative() })
    .optional(),
});

const operatorRange = z.object({ start: z.int().nonnegative(), end: z.int().nonnegative() });

/** The smallest unit that a pipeline may place. */
export const layerSchema = z.object({
  id: identifier,
  /** `block` layers are numbered from 0 in a plan's `layers` ranges; the others hang on the ends. */
  kind: z.enum(["embedding", "block", "head"]),
  /** Fully qualified modules that make up this layer, each in exactly one layer. */
  modules: z.array(z.string()).min(1),
  /** Half-open range into `operators`. */
  operators: operatorRange,
  /** Id of the entry in `blocks` that this layer is an instance of. */
  block: identifier,
  /** Ids of the layers whose outputs this one reads. */
  predecessors: z.array(identifier),
});

/** A region that repeats: all its layers have equal operators, in the same order. */
export const blockSchema = z.object({
  id: identifier,
  layers: z.array(identifier).min(1),
});

/** Dimensions of a transformer in one vocabulary, for launchers that build the model from flags. */
export const architectureSchema = z.object({
  family: identifier,
  hidden: positiveInteger,
  ffn: positiveInteger,
  layers: positiveInteger,
  heads: positiveInteger,
  keyValueHeads: positiveInteger,
  headSize: positiveInteger,
  vocabulary: positiveInteger,
  maxSequence: positiveInteger,
  gated: z.boolean(),
  activation: identifier,
  norm: z.enum(["layer_norm", "rms_norm"]),
  normEpsilon: z.number().positive().optional(),
  tiedEmbeddings: z.boolean(),
  positions: z.enum(["rotary", "learned", "alibi", "none"]),
  ropeTheta: z.number().positive().optional(),
  rotaryFraction: z.number().positive().optional(),
  attentionBias: z.boolean(),
  mlpBias: z.boolean(),
  slidingWindow: positiveInteger.optional(),
  /** Pieces that see themselves only, in place of a window that slides (Llama 4). */
  attentionChunk: positiveInteger.optional(),
  /** Where a window or pieces bound attention: the last of every so many layers sees all keys; absent, none does. */
  fullAttentionEvery: positiveInteger.optional(),
  parallelResidual: z.boolean().optional(),
  queryKeyNorm: z.boolean().optional(),
  experts: z
    .object({
      routed: positiveInteger,
      shared: z.int().nonnegative(),
      topK: positiveInteger,
      ffn: positiveInteger,
      sharedFfn: z.int().nonnegative(),
      /** Leading layers without experts. */
      denseLayers: z.int().nonnegative(),
      /** From there on one layer of so many has experts; each where absent. */
      every: positiveInteger.optional(),
    })
    .optional(),
  /** Further tokens predicted at each position by layers of their own, beside `layers` (DeepSeek-V3). */
  nextTokenPredictions: positiveInteger.optional(),
  /** Multi-head latent attention (DeepSeek-V2). */
  latent: z
    .object({
      queryRank: z.int().nonnegative(),
      keyValueRank: positiveInteger,
      ropeHeadSize: positiveInteger,
      noRopeHeadSize: positiveInteger,
      valueHeadSize: positiveInteger,
    })
    .optional(),
});

export const modelSchema = z.object({
  schema: z.literal("mpopt.model/1"),
  name: identifier,
  /** What the document was made from: a preset's name or a file. */
  source: z.string(),
  parameterCount: positiveInteger,
  reference: z.object({ batch: positiveInteger, sequence: positiveInteger }),
  tensors: z.array(tensorSchema),
  operators: z.array(operatorSchema),
  blocks: z.array(blockSchema),
  layers: z.array(layerSchema).min(1),
  architecture: architectureSchema.optional(),
});

export type Tensor = z.infer<typeof tensorSchema>;
export type Operand = z.infer<typeof operandSchema>;
export type Dimension = z.infer<typeof dimensionSchema>;
export type OperatorKind = z.infer<typeof operatorKindSchema>;
export type Operator = z.infer<typeof operatorSchema>;
export type Layer = z.infer<typeof layerSchema>;
export type Block = z.infer<typeof blockSchema>;
export type Architecture = z.infer<typeof architectureSchema>;
export type Model = z.infer<typeof modelSchema>;
