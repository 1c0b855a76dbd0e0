import { z } from "zod";
import { dtypeSchema } from "./quantity.js";

/** `mpopt.job/1`: what is to be trained, and what the user has already decided. */

const positiveInteger = z.int().positive();

export const recomputeSchema = z.enum(["none", "selective", "full"]);
export type Recompute = z.infer<typeof recomputeSchema>;

/**
 * What the plan must be able to run on. `portable` holds what every exporter can express; `any` lifts the
 * launchers' limits.
 */
export const runtimeSchema = z.enum(["portable", "megatron", "torch", "any"]);
export type Runtime = z.infer<typeof runtimeSchema>;

export const pinsSchema = z.strictObject({
  data: positiveInteger.optional(),
  tensor: positiveInteger.optional(),
  pipeline: positiveInteger.optional(),
  microBatch: positiveInteger.optional(),
  recompute: recomputeSchema.optional(),
  /** ZeRO stage: 0 replicates the optimizer state, 1 shards it over data-parallel ranks. */
  zero: z.union([z.literal(0), z.literal(1)]).optional(),
  sequenceParallel: z.boolean().optional(),
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
    .strictObject({ parameters: dtypeSchema, gradients: dtypeSchema, optimizer: dtypeSchema })
    .default({ parameters: "bf16", gradients: "f32", optimizer: "f32" }),
  optimizer: z.enum(["adam", "sgd"]).default("adam"),
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
