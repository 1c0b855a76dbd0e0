import type { Cluster, Job, Recompute } from "../contracts/index.js";
import type { CommunicationModel } from "../cost/communication.js";
import type { ComputeModel } from "../cost/compute.js";
import type { MemoryModel } from "../cost/memory.js";
import type { LayerCost } from "./intra.js";

/** Everything that a candidate fixes before its stages are cut. */
export interface Configuration {
  tensor: number;
  pipeline: number;
  data: number;
  microBatch: number;
  microBatches: number;
  sequenceParallel: boolean;
  recompute: Recompute;
  zero: 0 | 1;
}

/** Cost of the layers of a model under one configuration: the chain that stages are cut from. */
export interface LayerChain {
  embedding: LayerCost[];
  blocks: LayerCost[];
  head: LayerCost[];
}

/** The models that price a stage. */
export interface CostModels {
  cluster: Cluster;
  job: Job;
  compute: ComputeModel;
  communication: CommunicationModel;
  memory: MemoryModel;
}
