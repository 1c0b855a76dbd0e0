import { z } from "zod";
import { calibrationSchema } from "./cluster.js";
import { contextExchangeSchema, jobSchema, offloadSchema, recomputeSchema } from "./job.js";
import { architectureSchema } from "./model.js";
import { provenanceSchema, quantitySchema } from "./quantity.js";

/** `mpopt.plan/1`: where everything runs, what it is expected to cost, and how sure the search is. */

const positiveInteger = z.int().positive();
const seconds = z.number().nonnegative();
const bytes = z.number().nonnegative();
const sha256 = z.string().regex(/^[0-9a-f]{64}$/);

/** Placement of one tensor on one mesh axis, written as in DTensor: `Shard(0)`, `Replicate`, `Partial`. */
export const placementSchema = z.string().regex(/^(Shard\(\d+\)|Replicate|Partial)$/);

export const stageSchema = z.object({
  /** Position in the order of the forward pass. */
  index: z.int().nonnegative(),
  /** Pipeline rank that holds the stage. */
  rank: z.int().nonnegative(),
  /** Which of the rank's chunks it is (0 unless stages are interleaved). */
  chunk: z.int().nonnegative(),
  /** Global ranks that run the stage. */
  devices: z.array(z.int().nonnegative()).min(1),
  /** Half-open range of block layers; the embedding and the head are named in `modules`. */
  layers: z.object({ start: z.int().nonnegative(), end: z.int().nonnegative() }),
  embedding: z.boolean(),
  head: z.boolean(),
  modules: z.array(z.string()),
  recompute: recomputeSchema,
  /** Leading layers that are recomputed whole whatever `recompute` says. */
  recomputeLayers: z.int().nonnegative().optional(),
  /** Time of one micro-batch on this stage, transfers to the next stage included. */
  forwardSeconds: seconds,
  backwardSeconds: seconds,
  /** Part of `backwardSeconds` that makes weight gradients, which no other stage waits for. */
  backwardWeightSeconds: seconds.optional(),
});

export const operatorPlacementSchema = z.object({
  /** Block that the operator belongs to; its sharding holds for every layer of the block. */
  block: z.string(),
  operator: z.string(),
  /** Modules with `*` in place of the layer's number. */
  modules: z.array(z.string()),
  /** One entry a mesh axis that shards operators (`tensor`), one placement an operand. */
  sharding: z.record(
    z.string(),
    z.object({ inputs: z.array(placementSchema), outputs: z.array(placementSchema) }),
  ),
});

export const memoryEntrySchema = z.object({
  pipelineRank: z.int().nonnegative(),
  /** How many devices hold exactly this. */
  devices: positiveInteger,
  terms: z.object({
    parameters: bytes,
    gradients: bytes,
    optimizer: bytes,
    activations: bytes,
    logits: bytes,
    workspace: bytes,
    context: bytes,
  }),
  allocatedBytes: bytes,
  reservedBytes: bytes,
  limitBytes: bytes,
});

export const certificateSchema = z.object({
  status: z.enum(["optimal", "feasible", "infeasible"]),
  /** Value of the search's objective, seconds a step. */
  objective: z.number(),
  /** No plan in the space searched is better than this. */
  bound: z.number(),
  /** (objective - bound) / objective. */
  gap: z.number().nonnegative(),
  seconds,
  /** What was searched, in words, with the restrictions that the bound relies on. */
  space: z.string(),
  candidates: z.int().nonnegative(),
});

export const estimateSchema = z.object({
  stepSeconds: seconds,
  tokensPerSecond: z.number().nonnegative(),
  /**
   * Model FLOPs utilisation: no credit for recomputation. Causal attention counts for the half that is computed
   * (Dao, FlashAttention-2, 2023, section 4.1), a sliding window for its keys.
   */
  mfu: z.number().nonnegative(),
  /** Hardware FLOPs utilisation: recomputation counted. */
  hfu: z.number().nonnegative(),
  /**
   * Both with attention counted over all pairs of tokens, as in Chowdhery et al. (PaLM, 2022, appendix B) and
   * Narayanan et al. (SC'21, appendix).
   */
  fullAttention: z.object({ mfu: z.number().nonnegative(), hfu: z.number().nonnegative() }).optional(),
  /** Weakest provenance of the figures that went in. */
  provenance: provenanceSchema,
  /** Exposed seconds of one step on the slowest path, by kind; they add up to `stepSeconds`. */
  terms: z.object({
    compute: seconds,
    recompute: seconds,
    tensorCommunication: seconds,
    pipelineTransfer: seconds,
    bubble: seconds,
    gradientSynchronisation: seconds,
    optimizer: seconds,
    /** Keys and values between context-parallel ranks. */
    contextCommunication: seconds.default(0),
    /** Tokens between expert-parallel ranks. */
    expertCommunication: seconds.default(0),
    /** Parameters that ZeRO-3 shards, and their gradients. */
    parameterGather: seconds.default(0),
    /** Waiting for host memory. */
    offload: seconds.default(0),
    /** Waiting for the host's calls, and what it does once a step. */
    host: seconds.default(0),
  }),
  /** One entry a pipeline rank: its devices hold the same. */
  memory: z.array(memoryEntrySchema),
});

/**
 * What a rule of thumb gives for the same job, priced by the same cost model: its best plan with the step time, or why
 * it has none.
 */
export const baselineSchema = z.object({
  rule: z.enum(["sc21", "smallest-degree", "node-tensor"]),
  /** What was chosen, in words; of a plan that does not fit, the last one that was tried. */
  plan: z.string().optional(),
  /** Absent where the rule gives no plan that fits. */
  stepSeconds: seconds.optional(),
  /** On the fullest device. */
  memoryBytes: bytes.optional(),
  /** Why the rule gives no plan. */
  reason: z.string().optional(),
});

/** The chosen placement priced again with one thing changed. */
export const sensitivitySchema = z.object({
  /** A clause: "links of level network twice as fast". */
  change: z.string(),
  /** Terms of the estimate that the change takes time off, the largest saving first. */
  relieves: z.array(z.string()),
  /** True where nobody reaches it: the gain is a bound. */
  ideal: z.boolean().optional(),
  stepSeconds: seconds,
  tokensPerSecond: z.number().nonnegative(),
});

export const planSchema = z.object({
  schema: z.literal("mpopt.plan/1"),
  name: z.string().min(1),
  model: z.object({
    name: z.string(),
    source: z.string(),
    sha256,
    parameterCount: positiveInteger,
    blockLayers: positiveInteger,
    architecture: architectureSchema.optional(),
  }),
  cluster: z.object({
    name: z.string(),
    source: z.string(),
    sha256,
    deviceKind: z.string(),
    deviceType: z.enum(["cuda", "rocm", "cpu"]),
    devices: positiveInteger,
    devicesPerNode: positiveInteger,
    /** Price of one device. */
    dollarsPerHour: quantitySchema.optional(),
    calibration: calibrationSchema.optional(),
  }),
  job: jobSchema,
  mesh: z.object({
    /** Outermost first: the last axis joins neighbouring ranks. */
    axes: z.array(z.enum(["pipeline", "data", "context", "tensor"])),
    sizes: z.array(positiveInteger),
    sequenceParallel: z.boolean(),
    contextExchange: contextExchangeSchema.optional(),
    /**
     * How the ranks of one stage hold experts: `expert` ranks share the experts of a layer, `tensor` ranks one
     * expert. Neighbouring ranks are first the tensor's, then the expert's.
     */
    experts: z.object({ expert: positiveInteger, tensor: positiveInteger }).optional(),
  }),
  /** Row r holds the coordinates of global rank r, one an axis of the mesh. */
  rankTable: z.array(z.array(z.int().nonnegative())),
  stages: z.array(stageSchema).min(1),
  operators: z.array(operatorPlacementSchema),
  schedule: z.object({
    name: z.string(),
    microBatches: positiveInteger,
    /**
     * What each pipeline rank does, one row a rank, in the CSV form of torch.distributed.pipelining; absent where
     * the name says it.
     */
    actions: z.array(z.string()).optional(),
  }),
  batch: z.object({ global: positiveInteger, micro: positiveInteger, sequence: positiveInteger }),
  optimizer: z.object({
    name: z.string(),
    zero: z.int().min(0).max(3),
    /** Ranks that the ZeRO state is sharded over where that is not all of the data-parallel ones. */
    shards: positiveInteger.optional(),
    offload: offloadSchema.optional(),
  }),
  estimate: estimateSchema,
  certificate: certificateSchema,
  rejected: z.array(
    z.object({
      plan: z.string(),
      reason: z.string(),
      stepSeconds: seconds.optional(),
      memoryBytes: bytes.optional(),
    }),
  ),
  /** What the usual rules of thumb give. */
  baselines: z.array(baselineSchema).optional(),
  sensitivity: z.array(sensitivitySchema).optional(),
  provenance: z.object({
    mpopt: z.string(),
    createdAt: z.string(),
    seed: z.int().nonnegative(),
    job: sha256,
  }),
  /** Launcher → what it cannot express. */
  lossyFor: z.record(z.string(), z.array(z.string())),
});

export type Stage = z.infer<typeof stageSchema>;
export type OperatorPlacement = z.infer<typeof operatorPlacementSchema>;
export type MemoryEntry = z.infer<typeof memoryEntrySchema>;
export type Baseline = z.infer<typeof baselineSchema>;
export type Sensitivity = z.infer<typeof sensitivitySchema>;
export type Certificate = z.infer<typeof certificateSchema>;
export type Estimate = z.infer<typeof estimateSchema>;
export type Plan = z.infer<typeof planSchema>;

/** No seconds of any term. */
export const noTerms: Readonly<Estimate["terms"]> = {
  compute: 0,
  recompute: 0,
  tensorCommunication: 0,
  pipelineTransfer: 0,
  bubble: 0,
  gradientSynchronisation: 0,
  optimizer: 0,
  contextCommunication: 0,
  expertCommunication: 0,
  parameterGather: 0,
  offload: 0,
  host: 0,
};

/** Devices on one axis of the plan's mesh; 1 where the mesh lacks the axis. */
export function axisSize(plan: Pick<Plan, "mesh">, axis: Plan["mesh"]["axes"][number]): number {
  const at = plan.mesh.axes.indexOf(axis);
  return at < 0 ? 1 : (plan.mesh.sizes[at] ?? 1);
}
