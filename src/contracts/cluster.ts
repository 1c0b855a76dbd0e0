import { z } from "zod";
import { dtypeSchema, provenanceSchema, quantitySchema } from "./quantity.js";

/** `mpopt.cluster/1`: what the hardware does, every number with its origin. */

const positiveInteger = z.int().positive();

/**
 * Achieved rate against the size of one operation, for one kind of work on one device.
 * `work` and `rate` are FLOPs and FLOPs per second for `gemm` and `attention`, bytes moved (read + written)
 * and bytes per second for the rest. Points are ascending in `work`.
 */
export const computeTableSchema = z.object({
  operator: z.enum([
    "gemm",
    "attention",
    "elementwise",
    "reduction",
    "copy",
    "activation",
    "normalization",
    "loss",
    "embedding",
    /** Adding a parameter's gradient to the sum over micro-batches: two reads and a write of the gradient. */
    "accumulation",
    "optimizer",
  ]),
  /** Name of the operator that was measured, such as `rms_norm`; absent where the curve stands for all of its kind. */
  name: z.string().optional(),
  /**
   * Pass of training that the curve is for, `work` being that of the whole pass; absent where a forward-like
   * kernel stands for both.
   */
  pass: z.enum(["forward", "backward"]).optional(),
  /** True where the times are of whole calls of a framework; false or absent for bare kernels. */
  includesCall: z.boolean().optional(),
  dtype: dtypeSchema,
  unit: z.enum(["flop", "byte"]),
  points: z
    .array(
      z.object({
        work: z.number().positive(),
        rate: z.number().positive(),
        /** Dimensions of the measured operation, where it has any: {m, n, k}. */
        shape: z.record(z.string(), z.number()).optional(),
      }),
    )
    .min(1),
  provenance: provenanceSchema,
  source: z.string(),
});

export const deviceSchema = z.object({
  /** Name of the part: `h100-sxm`, `cpu`. */
  kind: z.string().min(1),
  type: z.enum(["cuda", "rocm", "cpu"]),
  /** How many of this kind, numbered one after another through the topology. */
  count: positiveInteger,
  memoryBytes: quantitySchema,
  /** Data-sheet peak without sparsity, FLOPs per second by dtype. */
  peakFlopsPerSecond: z.partialRecord(dtypeSchema, quantitySchema),
  memoryBytesPerSecond: quantitySchema,
  /** Time that one kernel or host call takes at least. */
  launchSeconds: quantitySchema,
  /**
   * Host time that a framework spends on one operator beside its kernel, forward and backward. Where the host
   * computes too (type `cpu`) it adds to the kernel's time. `sharded` is what a split operator adds to that.
   */
  callSeconds: z
    .object({
      forward: quantitySchema,
      backward: quantitySchema,
      sharded: z.object({ forward: quantitySchema, backward: quantitySchema }).optional(),
    })
    .optional(),
  compute: z.array(computeTableSchema),
  /** Factors on the rates that the compute tables give, where runs showed others; 1 where absent. */
  efficiency: z
    .object({
      gemm: quantitySchema,
      attention: quantitySchema,
      memory: quantitySchema,
    })
    .partial()
    .optional(),
  /**
   * Multiprocessors that tiles of a matrix product spread over (SMs, compute units). With it, products are priced
   * by their shape; without it, by their FLOPs alone.
   */
  multiprocessors: quantitySchema.optional(),
  /** Between device and host memory, one direction, for one device. */
  hostBytesPerSecond: quantitySchema.optional(),
  /** Price of one device for an hour, with its share of the host. */
  dollarsPerHour: quantitySchema.optional(),
});

/** A link between two neighbours of one level: time = latency + bytes / bytesPerSecond. */
export const linkSchema = z.object({
  latencySeconds: quantitySchema,
  /** One direction, for one device. */
  bytesPerSecond: quantitySchema,
  /** Measured point-to-point times, ascending in bytes; empty where only the two numbers are known. */
  points: z.array(z.object({ bytes: z.number().positive(), seconds: z.number().positive() })).default([]),
});

/** Measured times of one collective over so many neighbouring ranks, ascending in the bytes of the whole tensor. */
export const collectiveCurveSchema = z.object({
  collective: z.enum(["allReduce", "reduceScatter", "allGather", "allToAll"]),
  ranks: z.int().min(2),
  points: z.array(z.object({ bytes: z.number().positive(), seconds: z.number().positive() })).min(1),
  /**
   * The link that the times belong to. Where the level's link is another, as after a calibration, latency and volume
   * follow it; and collectives without curves of their own are derived from this one.
   */
  link: linkSchema.pick({ latencySeconds: true, bytesPerSecond: true }).optional(),
  provenance: provenanceSchema,
  source: z.string(),
});

/**
 * Innermost first: level 0 joins devices, level 1 joins groups of level 0, and so on; the last level has one
 * group. Either `groupSize` or `groupSizes` is given, and one of `link`, `links` and `memberLinks`.
 */
export const levelSchema = z.object({
  name: z.string().min(1),
  /** Members of the level below in one group of this level, where every group has as many. */
  groupSize: positiveInteger.optional(),
  /** Members of each group of this level, where groups differ in size. */
  groupSizes: z.array(positiveInteger).min(1).optional(),
  /** Joins two members of one group, in every group alike. */
  link: linkSchema.optional(),
  /** One for each group: joins two of its members. */
  links: z.array(linkSchema).min(1).optional(),
  /**
   * One for each member, the groups one after another: the member's own link into its group, such as a host's
   * network card. Two members talk at the lower bandwidth and the longer latency of theirs.
   */
  memberLinks: z.array(linkSchema).min(1).optional(),
  /** Curves of collectives inside one group of this level; the link prices those that are missing. */
  collectives: z.array(collectiveCurveSchema).optional(),
});

export const measurementSchema = z.object({
  what: z.string().min(1),
  /** Size of one operation in `unit`. */
  size: z.number().nonnegative(),
  unit: z.enum(["flop", "byte", "call"]),
  secondsMedian: z.number().positive(),
  p05: z.number().positive(),
  p95: z.number().positive(),
  samples: positiveInteger,
  /** Half width of the 95 % interval of the median, relative to the median. */
  confidence95: z.number().nonnegative(),
  provenance: provenanceSchema,
  method: z.string(),
});

/**
 * How predictions on a cluster agreed with runs on it, as shares of the measured step time; what `mpopt validate
 * --calibrate` found after its fit.
 */
export const calibrationSchema = z.object({
  /** Runs that were predicted and compared. */
  rows: positiveInteger,
  /** Mean of (predicted - measured) / measured. */
  bias: z.number(),
  /** Median of |predicted - measured| / measured. */
  p50: z.number().nonnegative(),
  /** What that stays within for 90 % of the runs. */
  p90: z.number().nonnegative(),
  /** The file of runs. */
  source: z.string(),
  /** ISO 8601. */
  date: z.string().optional(),
});

const clusterShape = z.object({
  schema: z.literal("mpopt.cluster/1"),
  name: z.string().min(1),
  source: z.string(),
  environment: z.object({
    host: z.string().optional(),
    /** ISO 8601. */
    date: z.string().optional(),
    os: z.string().optional(),
    processor: z.string().optional(),
    driver: z.string().optional(),
    libraries: z.record(z.string(), z.string()).default({}),
    clocks: z.record(z.string(), z.number()).default({}),
  }),
  devices: z.array(deviceSchema).min(1),
  topology: z.object({ levels: z.array(levelSchema).min(1) }),
  measurements: z.array(measurementSchema).default([]),
  /** Share of communication time that hides behind compute, by kind of communication. */
  overlap: z.object({
    gradientReduction: quantitySchema,
    pipelineTransfer: quantitySchema,
    /** Gathering parameters that ZeRO-3 shards, and scattering their gradients. */
    parameterGather: quantitySchema.optional(),
    /** Keys and values on their way around a context-parallel ring. */
    contextExchange: quantitySchema.optional(),
    /** Tokens on their way to experts and back. */
    expertExchange: quantitySchema.optional(),
    /** Collectives of tensor parallelism. */
    tensor: quantitySchema.optional(),
  }),
  /** Host seconds that one optimizer step takes beside its kernels: data loading, loss scaling, logging. */
  stepSeconds: quantitySchema.optional(),
  /** Host seconds that the stage of the loss takes a micro-batch beside its kernels: averages, checks, bookkeeping. */
  microBatchSeconds: quantitySchema.optional(),
  /** Tokens of the busiest expert-parallel rank over the mean; 1 where absent. */
  expertImbalance: quantitySchema.optional(),
  /** Slow-down of a link when all devices of a group use the level above at once; 1 is none. */
  contention: z.record(z.string(), quantitySchema).default({}),
  memoryOverheads: z.object({
    /** Driver context, libraries and communicators, bytes a device. */
    contextBytes: quantitySchema,
    /** Reserved over allocated, as a factor of at least 1. */
    fragmentation: quantitySchema,
  }),
  failedProbes: z.array(z.object({ probe: z.string(), reason: z.string() })).default([]),
  /** Absent where no run was compared. */
  calibration: calibrationSchema.optional(),
});

export const clusterSchema = clusterShape.superRefine((cluster, context) => {
  const fault = topologyFault(cluster);
  if (!fault) return;
  const path = ["topology", "levels", fault.level, fault.field];
  context.addIssue({ code: "custom", path, message: fault.expected });
});

/**
 * The first level whose sizes or links do not add up: each level takes all groups of the one below as members,
 * and the last one has one group.
 */
function topologyFault({ devices, topology }: z.infer<typeof clusterShape>) {
  const fault = (level: number, field: keyof Level, expected: string) => ({ level, field, expected });
  let members = devices.reduce((sum, device) => sum + device.count, 0);
  for (const [i, { groupSize, groupSizes, link, links, memberLinks }] of topology.levels.entries()) {
    const last = i === topology.levels.length - 1;
    const all = `the ${members} ${i === 0 ? "devices" : `groups of the level below`}`;
    let groups: number;
    if (groupSizes) {
      if (groupSize) return fault(i, "groupSizes", "nothing beside groupSize");
      const sum = groupSizes.reduce((total, size) => total + size, 0);
      if (sum !== members) return fault(i, "groupSizes", `sizes that add up to ${all}, not to ${sum},`);
      groups = groupSizes.length;
    } else {
      if (!groupSize) return fault(i, "groupSize", "a number");
      if (members % groupSize !== 0) return fault(i, "groupSize", `a size that divides ${all}`);
      groups = members / groupSize;
    }
    if (last && groups > 1) {
      return fault(i, groupSizes ? "groupSizes" : "groupSize", `one group of ${all}, not ${groups},`);
    }
    if (!link && !links && !memberLinks) return fault(i, "link", "an object");
    if (link && (links ?? memberLinks)) return fault(i, "link", "nothing beside links or memberLinks");
    if (links && memberLinks) return fault(i, "links", "nothing beside memberLinks");
    if (links && links.length !== groups) return fault(i, "links", `one link for each of ${groups} groups`);
    if (memberLinks && memberLinks.length !== members) {
      return fault(i, "memberLinks", `one link for each of ${all}`);
    }
    members = groups;
  }
  return undefined;
}

export type ComputeTable = z.infer<typeof computeTableSchema>;
export type Device = z.infer<typeof deviceSchema>;
export type Link = z.infer<typeof linkSchema>;
export type CollectiveCurve = z.infer<typeof collectiveCurveSchema>;
export type Level = z.infer<typeof levelSchema>;
export type Measurement = z.infer<typeof measurementSchema>;
export type Calibration = z.infer<typeof calibrationSchema>;
export type Cluster = z.infer<typeof clusterSchema>;
