import { deviceCount, devicesPerNode, uniformDevice } from "../cluster/index.js";
import {
  type Cluster,
  documentHash,
  type Estimate,
  type Job,
  type Model,
  noTerms,
  type OperatorPlacement,
  type Plan,
  type Stage,
  weakestProvenance,
} from "../contracts/index.js";
import { placementName } from "../cost/placement.js";
import { distinctLayers } from "../models/workload.js";
import type { Configuration, CostModels, LayerChain } from "../search/configuration.js";
import type { PreparedSchedule } from "../search/preparedSchedule.js";
import { layerTerms } from "../search/pricedLayer.js";
import { longestUpdate, passTimes, rankMemory } from "../search/pricing.js";
import type { StageCosts, StageSeconds } from "../search/stageCosts.js";
import { utilisation } from "./utilisation.js";

/** Axes of a configuration's mesh, outermost first; that of context parallelism only where it is used. */
export function meshAxes({
  pipeline,
  data,
  context,
  tensor,
}: Configuration): Pick<Plan["mesh"], "axes" | "sizes"> {
  return context > 1
    ? { axes: ["pipeline", "data", "context", "tensor"], sizes: [pipeline, data, context, tensor] }
    : { axes: ["pipeline", "data", "tensor"], sizes: [pipeline, data, tensor] };
}

/** Row r holds the coordinates of rank r, one an axis: the last axis counts fastest. */
export function rankTable(sizes: readonly number[]): number[][] {
  return sizes.reduce<number[][]>(
    (rows, size) => rows.flatMap((row) => Array.from({ length: size }, (_, i) => [...row, i])),
    [[]],
  );
}

/** Stages with their devices, modules and times. */
export function assembleStages(model: Model, costs: StageCosts, boundaries: readonly number[]): Stage[] {
  const { data, context, tensor, recompute, recomputeLayers } = costs.configuration;
  const { rankOfStage } = costs.layout;
  const modules = (kind: "embedding" | "block" | "head") =>
    model.layers.filter((layer) => layer.kind === kind).map((layer) => layer.modules);
  const blocks = modules("block");
  const width = data * context * tensor;
  const chunks = new Map<number, number>();
  return rankOfStage.map((rank, index): Stage => {
    const chunk = chunks.get(rank) ?? 0;
    chunks.set(rank, chunk + 1);
    const start = boundaries[index]!;
    const end = boundaries[index + 1]!;
    const embedding = index === 0;
    const head = index === rankOfStage.length - 1;
    const { forward, backward, backwardWeight } = costs.seconds(index, start, end);
    return {
      index,
      rank,
      chunk,
      devices: Array.from({ length: width }, (_, k) => rank * width + k),
      layers: { start, end },
      embedding,
      head,
      modules: [
        ...(embedding ? modules("embedding").flat() : []),
        ...blocks.slice(start, end).flat(),
        ...(head ? modules("head").flat() : []),
      ],
      recompute,
      ...(recomputeLayers > 0 ? { recomputeLayers: Math.min(recomputeLayers, end - start) } : {}),
      forwardSeconds: forward,
      backwardSeconds: backward,
      backwardWeightSeconds: backwardWeight,
    };
  });
}

/** Sharding of every operator of every distinct layer. */
export function assembleOperators(model: Model, chain: LayerChain): OperatorPlacement[] {
  const result: OperatorPlacement[] = [];
  const numbered = { embedding: 0, block: 0, head: 0 };
  const costOf = new Map<string, LayerChain["blocks"][number]>();
  for (const layer of model.layers) {
    const number = numbered[layer.kind]++;
    const cost =
      layer.kind === "block" ? chain.blocks[chain.pattern.kinds[number]!]! : chain[layer.kind][number]!;
    if (!costOf.has(layer.block)) costOf.set(layer.block, cost);
  }
  for (const { block, layer, operators } of distinctLayers(model)) {
    const { strategies } = costOf.get(block)!;
    operators.forEach((operator, i) => {
      const strategy = strategies[i]!;
      const modules = operator.modules ?? (operator.module ? [operator.module] : []);
      result.push({
        block,
        operator: operator.name,
        modules: layer.kind === "block" ? modules.map(starNumber) : modules,
        sharding: {
          tensor: {
            inputs: strategy.inputs.map((use) => placementName(use.placement)),
            outputs: strategy.outputs.map(placementName),
          },
        },
      });
    });
  }
  return result;
}

function starNumber(module: string): string {
  return module.replace(/\.\d+(?=\.|$)/, ".*");
}

/**
 * The estimate of a placement.
 * @param schedule what the simulator times; without one the pipeline is 1F1B in closed form: see `search/stages.ts`.
 */
export function assembleEstimate(
  model: Model,
  models: CostModels,
  costs: StageCosts,
  boundaries: readonly number[],
  schedule?: PreparedSchedule,
): Estimate {
  const { configuration } = costs;
  const { pipeline, data, context, tensor } = configuration;
  const width = data * context * tensor;
  const { job, cluster, compute, communication, memory } = models;
  const { stepSeconds, terms } = schedule
    ? simulatedStep(costs, boundaries, schedule)
    : closedFormStep(costs, boundaries);
  const capacity = stepSeconds * pipeline * width * compute.peak(job.dtypes.parameters);
  return {
    stepSeconds,
    tokensPerSecond: (job.globalBatch * job.sequence) / stepSeconds,
    ...utilisation(model, job, costs, boundaries, capacity),
    provenance: weakestProvenance([
      compute.provenance,
      communication.provenance,
      compute.device.memoryBytes.provenance,
      cluster.memoryOverheads.contextBytes.provenance,
    ]),
    terms,
    memory: Array.from({ length: pipeline }, (_, rank) => {
      const byTerm = schedule
        ? rankMemory(costs, boundaries, schedule.holdings, rank)
        : costs.memory(rank, boundaries[rank]!, boundaries[rank + 1]!);
      return {
        pipelineRank: rank,
        devices: width,
        terms: byTerm,
        allocatedBytes: memory.allocatedBytes(byTerm),
        reservedBytes: memory.reservedBytes(byTerm),
        limitBytes: memory.limitBytes,
      };
    }),
  };
}

type StepSeconds = Pick<Estimate, "stepSeconds" | "terms">;

/** 1F1B with one stage a rank, by the objective of `search/stages.ts`. */
function closedFormStep(costs: StageCosts, boundaries: readonly number[]): StepSeconds {
  const { pipeline, microBatches } = costs.configuration;
  const stages = Array.from({ length: pipeline }, (_, i) =>
    costs.seconds(i, boundaries[i]!, boundaries[i + 1]!),
  );
  const once = (stage: StageSeconds) => stage.gradientSynchronisation + stage.optimizer;
  const perMicroBatch = (stage: StageSeconds) => stage.forward + stage.backward;
  const slowest = stages.reduce((a, b) => (perMicroBatch(b) > perMicroBatch(a) ? b : a));
  const last = stages.reduce((a, b) => (once(b) > once(a) ? b : a));
  const sum = stages.reduce((total, stage) => total + perMicroBatch(stage), 0);
  return {
    stepSeconds: sum + (microBatches - 1) * perMicroBatch(slowest) + once(last),
    terms: {
      ...workTerms((term) => microBatches * slowest[term]),
      bubble: sum - perMicroBatch(slowest),
      gradientSynchronisation: last.gradientSynchronisation,
      optimizer: last.optimizer,
    },
  };
}

/** Any schedule, by the simulator: the busiest rank's work, and as bubble what the pipeline takes beyond it. */
function simulatedStep(
  costs: StageCosts,
  boundaries: readonly number[],
  schedule: PreparedSchedule,
): StepSeconds {
  const { microBatches } = costs.configuration;
  const times = passTimes(costs, boundaries);
  const pipelineSeconds = schedule.pipelineSeconds(times);
  const load = schedule.rankSeconds(times);
  const busiest = load.indexOf(load.reduce((a, b) => Math.max(a, b), 0));
  const own = schedule.work[busiest]!.map(({ stage, share }) => ({
    share: microBatches * share,
    seconds: costs.seconds(stage, boundaries[stage]!, boundaries[stage + 1]!),
  }));
  const update = longestUpdate(costs, boundaries, times, schedule);
  return {
    stepSeconds: pipelineSeconds + update.gradientSynchronisation + update.optimizer,
    terms: {
      ...workTerms((term) => own.reduce((sum, { share, seconds }) => sum + share * seconds[term], 0)),
      bubble: Math.max(0, pipelineSeconds - microBatches * load[busiest]!),
      gradientSynchronisation: update.gradientSynchronisation,
      optimizer: update.optimizer,
    },
  };
}

/** What the stages of a rank spend their micro-batches on, by the terms of an estimate. */
function workTerms(sum: (term: (typeof layerTerms)[number] | "transfer") => number): Estimate["terms"] {
  const terms = { ...noTerms, pipelineTransfer: sum("transfer") };
  for (const term of layerTerms) terms[term] = sum(term);
  return terms;
}

/** The parts of a plan that name its inputs. */
export function describeInputs(
  model: Model,
  cluster: Cluster,
  job: Job,
): Pick<Plan, "model" | "cluster" | "job"> {
  const device = uniformDevice(cluster)!;
  return {
    model: {
      name: model.name,
      source: model.source,
      sha256: documentHash(model),
      parameterCount: model.parameterCount,
      blockLayers: model.layers.filter((layer) => layer.kind === "block").length,
      architecture: model.architecture,
    },
    cluster: {
      name: cluster.name,
      source: cluster.source,
      sha256: documentHash(cluster),
      deviceKind: device.kind,
      deviceType: device.type,
      devices: deviceCount(cluster),
      devicesPerNode: devicesPerNode(cluster),
    },
    job,
  };
}
