import { z } from "zod";
import { planSchema } from "./plan.js";

/** `mpopt.run/1`: what a launch did, attempt by attempt, and what was measured of it. */

const seconds = z.number().nonnegative();
const bytes = z.number().nonnegative();
const index = z.int().nonnegative();
/** ISO 8601. */
const instant = z.string();

export const runStepSchema = z.object({
  step: index,
  seconds,
  /** Mean over the global batch; null where the script did not say. */
  loss: z.number().nullable(),
});

export const outcomeSchema = z.enum([
  /** Still at work, or mpopt itself was killed. */
  "running",
  "done",
  /** A rank failed, or the ranks could not be started. */
  "failed",
  "cancelled",
  /** The deadline passed. */
  "timeout",
]);
export type Outcome = z.infer<typeof outcomeSchema>;

export const runRankSchema = z.object({
  rank: index,
  host: z.string(),
  /** Exit status of the rank's process, negative for the signal that ended it; null where nobody saw it end. */
  exitCode: z.int().nullable(),
  /** Most memory that the rank has held, as its script reported it: allocated on a GPU, resident on a CPU. */
  peakMemoryBytes: bytes.nullable(),
  /** Most host memory that its process has had resident. */
  peakResidentBytes: bytes.nullable(),
});

export const attemptSchema = z.object({
  plan: planSchema,
  /** Of the plan's document, its fields in sorted order. */
  planSha256: z.string().regex(/^[0-9a-f]{64}$/),
  startedAt: instant,
  endedAt: instant.nullable(),
  outcome: outcomeSchema,
  /** Exit status of what started the ranks: 0 where all ended well, 128 + signal number where a signal ended it. */
  exitCode: z.int().nullable(),
  steps: z.array(runStepSchema),
  /** Median over the steps after the first two, which warm up; null where there are none. */
  medianStepSeconds: seconds.nullable(),
  /** Ranks that this mpopt started or saw start, in their order. */
  ranks: z.array(runRankSchema),
  /** Of the plan on its cluster, as `mpopt plan` priced it; `plan.estimate` has the terms. */
  predictedStepSeconds: seconds,
  /** Most memory of the ranks of each pipeline rank. */
  memory: z.array(
    z.object({
      pipelineRank: index,
      predictedBytes: bytes,
      measuredBytes: bytes.nullable(),
    }),
  ),
  /** What the script reported at its end. */
  summary: z.record(z.string(), z.unknown()).nullable(),
  /** Why it did not end well, in one sentence. */
  reason: z.string().nullable(),
  /** The last lines on stderr before the starter reported a failure. */
  lastLines: z.array(z.string()),
});

export const runSchema = z.object({
  schema: z.literal("mpopt.run/1"),
  name: z.string().min(1),
  startedAt: instant,
  endedAt: instant.nullable(),
  /** Of the last attempt, as the three below. */
  outcome: outcomeSchema,
  exitCode: z.int().nullable(),
  medianStepSeconds: seconds.nullable(),
  predictedStepSeconds: seconds,
  environment: z.object({
    host: z.string(),
    os: z.string(),
    processor: z.string(),
    mpopt: z.string(),
    python: z.string().nullable(),
    torch: z.string().nullable(),
    /** `torchrun`, `srun`, `mpirun` or `deepspeed`. */
    starter: z.string(),
    /** The training command, a word an entry. */
    command: z.array(z.string()),
    /** Variables that change what the ranks do, such as OMP_NUM_THREADS and NCCL's. */
    variables: z.record(z.string(), z.string()),
  }),
  /** The first under the plan that was given, later ones under plans for what was left. */
  attempts: z.array(attemptSchema).min(1),
});

export type RunStep = z.infer<typeof runStepSchema>;
export type RunRank = z.infer<typeof runRankSchema>;
export type Attempt = z.infer<typeof attemptSchema>;
export type Run = z.infer<typeof runSchema>;
