import { z } from "zod";
import { dtypeSchema } from "./quantity.js";

/** `mpopt.job/1`: what is to be trained, and what the user has already decided. */

const positiveInteger = z.int().positive();

export const recomputeSchema = z.enum(["none", "selective", "full"]);
export type Recompute = z.infer<typeof recomputeSchema>;

export const zeroSchema = z.union([z.literal(0), z.literal(1), z.literal(2), z.literal(3)]);
export type Zero = z.infer<typeof zeroSchema>;

/**
 * How context-parallel ranks see each other's keys: passed around a ring while attention computes (Liu et al.,
 * Ring Attention, 2023), or by exchanging sequence for heads before and after it (Jacobs et al., DeepSpeed
 * Ulysses, 2023).
 */
export const contextExchangeSchema = z.enum(["ring", "all-to-all"]);
export type ContextExchange = z.infer<typeof contextExchangeSchema>;

/** What lives in host memory while it is not used. */
export const offloadSchema = z.enum(["none", "optimizer", "activations", "both"]);
export type Offload = z.infer<typeof offloadSchema>;

/**
 * How the scale of a tensor in a narrow type is found: `delayed` from steps before, the maximum being taken on the
 * way; `current` from the tensor itself, in a pass before the cast; `row` from each row and each column by themselves;
 * `block` for each block of elements on the way (MXFP8, NVFP4, DeepSeek-V3's tiles). As in the recipes of Transformer
 * Engine and torchao.
 */
export const scalingSchema = z.enum(["delayed", "current", "row", "block"]);
export type Scaling = z.infer<typeof scalingSchema>;

/**
 * What the plan must be able to run on. `portable` holds what Megatron-LM and plain PyTorch share; `any` lifts the
 * launchers' limits.
 */
export const runtimeSchema = z.enum([
  "portable",
  "megatron",
  "torch",
  "torchtitan",
  "deepspeed",
  "accelerate",
  "jax",
  "any",
]);
export type Runtime = z.infer<typeof runtimeSchema>;

export const pinsSchema = z.strictObject({
  data: positiveInteger.optional(),
  tensor: positiveInteger.optional(),
  pipeline: positiveInteger.optional(),
  microBatch: positiveInteger.optional(),
  recompute: recomputeSchema.optional(),
  /** Layers of each stage, from its first, that are recomputed whole beside what `recompute` says of the others. */
  recomputeLayers: z.int().nonnegative().optional(),
  /**
   * ZeRO stage: 0 replicates everything over data-parallel ranks, 1 shards the optimizer state, 2 gradients too,
   * 3 parameters too.
   */
  zero: zeroSchema.optional(),
  /** Ranks that a ZeRO state is sharded over; the groups are replicas of each other (hybrid sharding). */
  shards: positiveInteger.optional(),
  sequenceParallel: z.boolean().optional(),
  /** Context-parallel degree: ranks that share the tokens of a sequence through all of the model. */
  context: positiveInteger.optional(),
  contextExchange: contextExchangeSchema.optional(),
  /** Expert-parallel degree: ranks that share the experts of a layer. It divides ranks already counted. */
  expert: positiveInteger.optional(),
  /** Tensor-parallel degree inside an expert. */
  expertTensor: positiveInteger.optional(),
  offload: offloadSchema.optional(),
  /** Name of the pipeline schedule; one without a flush has to be pinned. */
  schedule: z.string().min(1).optional(),
  /** Stages that each pipeline rank holds. */
  chunks: positiveInteger.optional(),
});
export type Pins = z.infer<typeof pinsSchema>;

/** Share of a device's memory that a plan may fill where the job does not say. */
export const defaultMemoryFraction = 0.94;

export const jobSchema = z.strictObject({
  schema: z.literal("mpopt.job/1"),
  /** Sequences in one optimizer step, over all ranks. */
  globalBatch: positiveInteger,
  /** Tokens in one sequence. */
  sequence: positiveInteger,
  dtypes: z
    .strictObject({
      parameters: dtypeSchema,
      gradients: dtypeSchema,
      optimizer: dtypeSchema,
      /**
       * Type of one micro-batch's gradients where they stay beside their sums, which are of type `gradients`
       * (DeepSpeed's BF16_Optimizer).
       */
      microBatchGradients: dtypeSchema.optional(),
      /** Type of the products of linear layers where it is narrower than that of the parameters. */
      linear: dtypeSchema.optional(),
      /** How operands of those are scaled; `delayed` where absent. */
      scaling: scalingSchema.optional(),
    })
    .default({ parameters: "bf16", gradients: "f32", optimizer: "f32" }),
  optimizer: z.enum(["adam", "sgd"]).default("adam"),
  /**
   * Tokens that an expert takes over the mean, padded to that where fewer come and dropped where more do (GShard,
   * 2020, section 2.2); absent where every token reaches its experts.
   */
  expertCapacity: z.number().min(1).optional(),
  /**
   * How tokens reach their experts: `all-to-all` sends every copy on its own and sorts by expert at both ends, `fused`
   * kernels send a token once to each rank and node and sort on the way (DeepEP, HybridEP).
   */
  expertDispatch: z.enum(["all-to-all", "fused"]).optional(),
  runtime: runtimeSchema.default("portable"),
  pins: pinsSchema.default({}),
  objective: z.enum(["time"]).default("time"),
  limits: z
    .strictObject({
      /** Share of a device's memory that a plan may fill. */
      memoryFraction: z.number().positive().max(1).default(defaultMemoryFraction),
      /** Wall-clock limit of the search. */
      searchSeconds: z.number().positive().default(60),
    })
    .default({ memoryFraction: defaultMemoryFraction, searchSeconds: 60 }),
});
export type Job = z.infer<typeof jobSchema>;
