import type {
  Cluster,
  ContextExchange,
  Job,
  Layer,
  Model,
  Offload,
  Recompute,
  Zero,
} from "../contracts/index.js";
import type { CommunicationModel } from "../cost/communication.js";
import type { ComputeModel } from "../cost/compute.js";
import type { MemoryModel } from "../cost/memory.js";
import { type BlockPattern, patternOf } from "./blockSums.js";
import type { LayerCost } from "./intra.js";

/**
 * Everything that a candidate fixes before its stages are cut. Ranks are counted tensor first, then context, data and
 * pipeline: tensor x context x data x pipeline devices.
 */
export interface Configuration {
  tensor: number;
  /** Ranks that share the tokens of a sequence through the whole model. */
  context: number;
  contextExchange: ContextExchange;
  pipeline: number;
  /** Replicas, without the context-parallel ranks of each. */
  data: number;
  /** Ranks that share the experts of a layer; with `expertTensor` it divides tensor x context x data. */
  expert: number;
  /** Ranks that share one expert. */
  expertTensor: number;
  microBatch: number;
  microBatches: number;
  sequenceParallel: boolean;
  recompute: Recompute;
  /** Layers of each stage, from its first, that are recomputed whole beside what `recompute` says of the others. */
  recomputeLayers: number;
  zero: Zero;
  /** Ranks, among data x context of them, that the ZeRO state is sharded over. */
  shards: number;
  offload: Offload;
}

/** One device doing everything by itself. */
export const singleDevice: Configuration = {
  tensor: 1,
  context: 1,
  contextExchange: "ring",
  pipeline: 1,
  data: 1,
  expert: 1,
  expertTensor: 1,
  microBatch: 1,
  microBatches: 1,
  sequenceParallel: false,
  recompute: "none",
  recomputeLayers: 0,
  zero: 0,
  shards: 1,
  offload: "none",
};

/** Cost of the layers of a model under one configuration: the chain that stages are cut from. */
export interface LayerChain {
  embedding: LayerCost[];
  /** Which blocks are equal, and the block of each kind. */
  pattern: BlockPattern;
  blocks: LayerCost[];
  head: LayerCost[];
}

/** The chain of a model from the cost of each of its layers. */
export function chainOf(model: Model, costOf: (layer: Layer) => LayerCost): LayerChain {
  const pattern = patternOf(model);
  const of = (kind: Layer["kind"]) => model.layers.filter((layer) => layer.kind === kind);
  const blocks = of("block");
  return {
    embedding: of("embedding").map(costOf),
    pattern,
    blocks: Array.from({ length: pattern.kindCount }, (_, kind) =>
      costOf(blocks[pattern.kinds.indexOf(kind)]!),
    ),
    head: of("head").map(costOf),
  };
}

/** The models that price a stage. */
export interface CostModels {
  cluster: Cluster;
  job: Job;
  compute: ComputeModel;
  communication: CommunicationModel;
  memory: MemoryModel;
}
