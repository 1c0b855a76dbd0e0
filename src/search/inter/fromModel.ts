import { fastDomains, levelGroups, mixture, referenceDevice, slowestOf } from "../../cluster/index.js";
import { type Cluster, type Job, type Model, MpoptError, type Recompute } from "../../contracts/index.js";
import { stateBytes } from "../../cost/memory.js";
import { bytesOf } from "../../cost/operator.js";
import { checkLayeredGraph, type LayeredGraph, type LayeredVariant } from "../../models/layered.js";
import { tensorsById } from "../../models/workload.js";
import { divisors } from "../candidates.js";
import { singleDevice } from "../configuration.js";
import type { LayerCost } from "../intra.js";
import { costModels } from "../joint.js";
import { LayerChains } from "../layerChains.js";

/**
 * The layers of a model as a layered graph: for every tensor-parallel degree inside the fast links, and with
 * and without full recomputation, what the intra-operator search makes of each layer. Times hold one
 * micro-batch of `microBatch` sequences, tensor-parallel communication included.
 *
 * On a mixed cluster they are the times of its first device kind, which `machineOf` gives slowdown 1, see
 * `pricedCluster`.
 * @throws MpoptError E_INFEASIBLE when no degree divides the model.
 */
export async function layeredGraphOf(
  model: Model,
  cluster: Cluster,
  job: Job,
  microBatch: number,
  signal?: AbortSignal,
): Promise<LayeredGraph> {
  let refusal: MpoptError | undefined;
  const variants: LayeredVariant[][] = model.layers.map(() => []);
  for (const tensor of tensorDegrees(cluster)) {
    const chains = new LayerChains(model, costModels(pricedCluster(cluster, tensor), job), signal);
    const chain = await chains.chain({
      ...singleDevice,
      tensor,
      expertTensor: tensor,
      microBatch,
      microBatches: Math.max(1, Math.floor(job.globalBatch / microBatch)),
      sequenceParallel: tensor > 1 && job.sequence % tensor === 0,
    });
    refusal = chains.refusal ?? refusal;
    if (!chain) continue;
    const next = { embedding: 0, block: 0, head: 0 };
    model.layers.forEach((layer, i) => {
      const number = next[layer.kind]++;
      const cost =
        layer.kind === "block" ? chain.blocks[chain.pattern.kinds[number]!]! : chain[layer.kind][number]!;
      variants[i]!.push(variantOf(cost, tensor, "none", job));
      if (layer.kind === "block") variants[i]!.push(variantOf(cost, tensor, "full", job));
    });
  }
  if (variants.some((list) => list.length === 0)) {
    throw (
      refusal ??
      new MpoptError(
        "E_INFEASIBLE",
        `Expected a tensor-parallel degree that divides ${model.name} but found none.`,
      )
    );
  }
  const indexOf = new Map(model.layers.map((layer, i) => [layer.id, i]));
  const graph: LayeredGraph = {
    name: model.name,
    format: "model",
    nodes: model.layers.map((layer, i) => ({
      id: layer.id,
      name: layer.modules.join(" "),
      variants: variants[i]!,
    })),
    edges: model.layers.flatMap((layer, to) =>
      layer.predecessors.map((id) => ({
        from: indexOf.get(id)!,
        to,
        bytes: boundaryBytes(model, job, microBatch, id),
      })),
    ),
    header: {},
    warnings: [],
  };
  checkLayeredGraph(graph, model.name);
  return graph;
}

/** Divisors of the devices that fast links join; where those differ in number, powers of two as well. */
function tensorDegrees(cluster: Cluster): number[] {
  const sizes = [...new Set(fastDomains(cluster).map(({ start, end }) => end - start))];
  const degrees = new Set(sizes.flatMap(divisors));
  if (sizes.length > 1) for (let degree = 2; degree <= Math.max(...sizes); degree *= 2) degrees.add(degree);
  return [...degrees].sort((a, b) => a - b);
}

/**
 * The cluster that layers of one tensor-parallel degree are priced on: the cluster itself where it is equal
 * hosts of one kind. Otherwise one host of the first device kind, as wide as the degree, with the slowest of
 * the fast links that join so many devices of that kind, or of any kind where that one has no host so wide.
 */
function pricedCluster(cluster: Cluster, tensor: number): Cluster {
  if (!mixture(cluster)) return cluster;
  const reference = referenceDevice(cluster);
  const wide = fastDomains(cluster).filter(({ start, end }) => end - start >= tensor);
  const own = wide.filter(({ start }) => start + tensor <= reference.count);
  const link = slowestOf((own.length > 0 ? own : wide).map((domain) => domain.link));
  const { name, collectives } = cluster.topology.levels[0]!;
  // Curves of the innermost level hold inside one of its groups.
  const measured = levelGroups(cluster)[0]!.some(({ start, end }) => end - start >= tensor);
  return {
    ...cluster,
    devices: [{ ...reference, count: tensor }],
    topology: { levels: [{ name, groupSize: tensor, link, ...(measured ? { collectives } : {}) }] },
  };
}

function variantOf(cost: LayerCost, tensor: number, recompute: Recompute, job: Job): LayeredVariant {
  const state = stateBytes(job);
  const parameters = cost.parameters + cost.expertParameters;
  return {
    tensor,
    recompute: recompute !== "none",
    forwardSeconds: cost.forwardSeconds + cost.forwardCommunicationSeconds,
    backwardSeconds:
      cost.backwardSeconds + cost.backwardCommunicationSeconds + cost.recomputeSeconds[recompute],
    // Gradients are what data-parallel replicas reduce.
    parameterBytes: parameters * state.gradient,
    activationBytes: cost.savedBytes[recompute],
    fixedBytes: parameters * (state.parameter + state.gradient + state.optimizer) + cost.logitsBytes,
  };
}

/** Bytes that leave a layer: the outputs of its last operator that are activations. */
function boundaryBytes(model: Model, job: Job, microBatch: number, id: string): number {
  const layer = model.layers.find((each) => each.id === id)!;
  const tensors = tensorsById(model);
  const context = {
    reference: model.reference,
    workload: { batch: microBatch, sequence: job.sequence },
    dtype: job.dtypes.parameters,
  };
  return model.operators[layer.operators.end - 1]!.outputs.reduce(
    (sum, operand) => sum + bytesOf(tensors.get(operand.tensor)!, context),
    0,
  );
}
