import type {
  Architecture,
  ContextExchange,
  Job,
  Offload,
  Recompute,
  Runtime,
  Zero,
} from "../contracts/index.js";

/** The name of schedules that were searched for a plan; their actions stand in the plan. */
export const searchedSchedule = "searched";

/** How one configuration divides a job, as far as a runtime may have a say in it. */
export interface Division {
  tensor: number;
  context: number;
  pipeline: number;
  data: number;
  /** Micro-batches of one replica in a step. */
  microBatches: number;
  /** Ranks that share the experts of a layer, and ranks that share one expert. */
  expert: number;
  expertTensor: number;
  sequenceParallel: boolean;
  zero: Zero;
  /** Ranks that the ZeRO state is sharded over. */
  shards: number;
}

/** What a schedule is asked for. */
export interface ScheduleCounts {
  ranks: number;
  /** Stages that each rank holds. */
  chunks: number;
  microBatches: number;
  /** What is recomputed in its backward passes. */
  recompute: Recompute;
}

/**
 * What a runtime executes. The search keeps to it, exporters refuse what is outside, and prices follow `software`: one
 * description for all three. A rule that is left out allows everything that the lists allow.
 */
export interface RuntimeDescription {
  name: Runtime;
  /**
   * Whose kernels run a step: PyTorch's own (eager operators, copies around collectives), Megatron-Core's (gradient
   * sums fused into products), or `plain`, which assumes neither.
   */
  software: "megatron" | "pytorch" | "plain";
  /** Whether models are divided into stages. */
  pipeline: boolean;
  /** Whether activations between blocks may be split along the sequence over tensor ranks, or have to be. */
  sequenceParallel: readonly boolean[];
  /** Names of the schedules that it executes; a single stage runs as `1f1b`. */
  schedules: readonly string[];
  context: readonly ContextExchange[];
  /** Expert parallelism. */
  experts: boolean;
  /** In the order in which they are tried. */
  zero: readonly Zero[];
  /** Sharding groups smaller than all data-parallel ranks. */
  hybrid: boolean;
  /** From the fastest to the one that keeps the least. */
  recompute: readonly Recompute[];
  /** What the other layers of a stage may do where some are recomputed whole; empty where none may be. */
  besideWholeLayers: readonly Recompute[];
  offload: readonly Offload[];
  /** Operators are split over tensor ranks in any way, not only as launchers do it. */
  freeShardings?: boolean;
  /** Whether it divides devices so; asked before anything is said of ZeRO, schedule and experts. */
  divides?(division: Pick<Division, "tensor" | "context" | "pipeline" | "data">): boolean;
  /** Whether it divides the layers of an architecture into stages. */
  dividesLayers?(architecture: Architecture): boolean;
  /** Why it does not execute a schedule of such counts, in a clause after "but". */
  refusesSchedule?(name: string, counts: ScheduleCounts): string | undefined;
  /** Whether context-parallel ranks exchange an architecture's keys so. */
  exchanges?(exchange: ContextExchange, architecture: Architecture, sequence: number): boolean;
  /** Whether it divides the layers of a mixture over tensor ranks so; asked for more than one. */
  splitsExperts?(division: Pick<Division, "tensor" | "sequenceParallel">): boolean;
  /** Whether it divides experts over ranks so, where a layer has some. */
  dividesExperts?(
    division: Pick<Division, "tensor" | "context" | "data" | "expert" | "expertTensor">,
  ): boolean;
  /** Whether it shards the state of a division so, of a model whose dimensions are known or not. */
  shards?(division: Division, architecture?: Architecture): boolean;
  /** Whether it offloads the optimizer's state of a division. */
  offloads?(division: Division, optimizer: Job["optimizer"]): boolean;
}
