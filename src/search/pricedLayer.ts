import type { Device, Recompute } from "../contracts/index.js";
import { keepsProducts, stateBytes } from "../cost/memory.js";
import { exposedSeconds, overlapOf } from "../cost/overlap.js";
import { describeRuntime } from "../runtimes/index.js";
import type { BlockPattern } from "./blockSums.js";
import type { Configuration, CostModels, LayerChain } from "./configuration.js";
import { type Groups, groupsOf } from "./groups.js";
import type { LayerCost } from "./intra.js";
import { assumedHostBytesPerSecond } from "./updateCosts.js";

/** What seconds of a layer are spent on; they add up to its forward and backward. */
export const layerTerms = [
  "compute",
  "recompute",
  "tensorCommunication",
  "contextCommunication",
  "expertCommunication",
  "parameterGather",
  "offload",
  "host",
] as const;

/** What a layer takes and holds on a device, all of it summed over layers. */
export const layerFields = [
  ...layerTerms,
  "forward",
  "backward",
  "backwardWeight",
  "parameters",
  "expertParameters",
  "saved",
  "between",
  "weights",
] as const;

/**
 * One layer under one configuration, for one micro-batch on one device. Forward and backward are the device's seconds
 * with exposed communication and recomputation, and with what they wait for the host that calls them.
 * `saved` stays from forward to backward, `between` from one half of the backward to the other: weight gradients need
 * all that was saved, recomputation included (M_W of Qi et al., ICLR 2024, table 1, is nearly M_B). `weights` are
 * seconds once a step of weight gradients that are partial sums.
 */
export type PricedLayer = Record<(typeof layerFields)[number], number> & {
  /** Activations that recomputation brings back, once. */
  recomputed: number;
  /** Bytes that live only inside one call, or between neighbouring layers: gathered parameters, moving activations. */
  workspace: number;
  logitsBytes: number;
  logitsGradientBytes: number;
  outputBytes: number;
  tiedParameters: number;
  /** Bytes of what products hand to autograd for each shape of weight, where they add gradients up by themselves. */
  standIns: ReadonlyMap<string, number>;
};

export type LayerField = (typeof layerFields)[number];

/** The layers of a chain under a configuration. */
export interface PricedChain {
  embedding: PricedLayer[];
  /** Which blocks are equal, and the block of each kind. */
  pattern: BlockPattern;
  blocks: PricedLayer[];
  /** The same recomputed whole, where the configuration has layers of that sort beside others. */
  whole: PricedLayer[] | undefined;
  head: PricedLayer[];
}

/** Prices every distinct layer of a chain once. */
export function priceChain(chain: LayerChain, configuration: Configuration, models: CostModels): PricedChain {
  const groups = groupsOf(configuration);
  const { recompute, recomputeLayers } = configuration;
  const lossSeconds = models.cluster.microBatchSeconds?.value ?? 0;
  const { habits } = models.memory;
  const ends = { fused: false, byProducts: false };
  // The tables at both ends are products of the model's own code, whose gradients are added by autograd, and which
  // nothing repeats.
  const inner = { fused: habits.fusedWeightGradients, byProducts: keepsProducts(habits, configuration) };
  const priced = (layers: readonly LayerCost[], how: Recompute, place = ends) =>
    layers.map((layer) => priceLayer(layer, how, place, configuration, groups, models));
  const { pattern, blocks: kinds } = chain;
  return {
    embedding: priced(chain.embedding, "none"),
    pattern,
    blocks: priced(kinds, recompute, inner),
    whole: recomputeLayers > 0 && recompute !== "full" ? priced(kinds, "full", inner) : undefined,
    head: priced(chain.head, "none").map((layer, i) => (i === 0 ? withHost(layer, lossSeconds) : layer)),
  };
}

/** A layer that the host holds up in its forward pass, whatever the device does. */
function withHost(layer: PricedLayer, seconds: number): PricedLayer {
  return { ...layer, host: layer.host + seconds, forward: layer.forward + seconds };
}

function priceLayer(
  layer: LayerCost,
  recompute: Recompute,
  { fused, byProducts }: { fused: boolean; byProducts: boolean },
  configuration: Configuration,
  groups: Groups,
  models: CostModels,
): PricedLayer {
  const { compute: device, cluster } = models;
  const repeats = {
    compute: layer.recomputeSeconds[recompute] - layer.recomputeCommunicationSeconds[recompute],
    tensor: layer.recomputeCommunicationSeconds[recompute],
    // Attention repeats its exchange of keys with it, a whole layer that of its tokens too.
    context: recompute === "none" ? 0 : layer.contextSeconds.forward,
    expert: recompute === "full" ? layer.expertSeconds.forward : 0,
  };
  const communication = {
    forward: layer.forwardCommunicationSeconds + layer.contextSeconds.forward + layer.expertSeconds.forward,
    backward:
      layer.backwardCommunicationSeconds +
      layer.contextSeconds.backward +
      layer.expertSeconds.backward +
      repeats.tensor +
      repeats.context +
      repeats.expert,
  };
  const busyBackward = layer.backwardSeconds + repeats.compute;
  const gather = gatherOf(layer, configuration, groups, models);
  const share = overlapOf(cluster, "parameterGather");
  const gatherForward = exposedSeconds(gather.forward, layer.forwardSeconds, share) + gather.copies.forward;
  const gatherBackward = exposedSeconds(gather.backward, busyBackward, share) + gather.copies.backward;
  const { context, contextExchange } = configuration;
  // Attention keeps its result as it was before it was exchanged (Transformer Engine 2.8, AttnFuncWithCPAndQKVOA2A);
  // what the next product keeps is another tensor.
  const exchanged = context > 1 && contextExchange === "all-to-all" ? layer.attentionBytes : 0;
  const all = layer.savedBytes.none + exchanged;
  const kept = recompute === "none" ? all : layer.savedBytes[recompute];
  const saved = byProducts ? layer.productBytes : kept;
  const between = recompute === "full" ? Math.max(all, kept) : kept;
  const away = configuration.offload === "activations" || configuration.offload === "both";
  const link = device.device.hostBytesPerSecond?.value ?? assumedHostBytesPerSecond;
  const moving = away ? saved / link : 0;
  const movedForward = exposedSeconds(moving, layer.forwardSeconds, 1);
  const movedBackward = exposedSeconds(moving, busyBackward, 1);
  const element = stateBytes(models.job).parameter;
  const host = hostSeconds(layer, configuration, device.device);
  const stops = layer.expertParameters > 0 && models.job.expertCapacity === undefined;
  const exponent = stops ? countingExponent : floorExponent;
  const hostForward = waitSeconds(layer.forwardSeconds, host.forward, exponent);
  const hostBackward =
    waitSeconds(layer.backwardSeconds, host.backward, exponent) +
    (recompute === "full" ? waitSeconds(repeats.compute, host.forward, exponent) : 0);
  return {
    compute: layer.forwardSeconds + layer.backwardSeconds,
    recompute: repeats.compute,
    tensorCommunication:
      layer.forwardCommunicationSeconds + layer.backwardCommunicationSeconds + repeats.tensor,
    contextCommunication: layer.contextSeconds.forward + layer.contextSeconds.backward + repeats.context,
    expertCommunication: layer.expertSeconds.forward + layer.expertSeconds.backward + repeats.expert,
    parameterGather: gatherForward + gatherBackward,
    offload: movedForward + movedBackward,
    host: hostForward + hostBackward,
    forward: layer.forwardSeconds + communication.forward + gatherForward + movedForward + hostForward,
    backward: busyBackward + communication.backward + gatherBackward + movedBackward + hostBackward,
    backwardWeight: layer.backwardWeightSeconds,
    parameters: layer.parameters,
    expertParameters: layer.expertParameters,
    saved: away ? 0 : saved,
    between: away ? 0 : between,
    weights: layer.weightGradientSeconds,
    recomputed: all - saved,
    // Two layers' activations are on their way while one computes. Gathered gradients are whole anyway.
    workspace:
      layer.workspaceBytes +
      (gather.bytes || (fused ? 0 : layer.weights.largest * element)) +
      (away ? 2 * saved : 0),
    standIns: fused
      ? new Map([...layer.weights.shapes].map(([shape, elements]) => [shape, elements * element]))
      : noStandIns,
    logitsBytes: layer.logitsBytes,
    logitsGradientBytes: layer.logitsGradientBytes,
    outputBytes: layer.outputBytes,
    tiedParameters: layer.tiedParameters,
  };
}

const noStandIns: ReadonlyMap<string, number> = new Map();

/** Seconds that the host takes to call a layer's kernels; 0 where the calls are in the kernels' times. */
function hostSeconds(
  { calls }: LayerCost,
  { tensor }: Configuration,
  { type, callSeconds }: Device,
): { forward: number; backward: number } {
  if (type === "cpu" || !callSeconds) return { forward: 0, backward: 0 };
  const { sharded } = callSeconds;
  const each = (pass: "forward" | "backward") =>
    callSeconds[pass].value + (tensor > 1 ? (sharded?.[pass].value ?? 0) : 0);
  return { forward: calls.forward * each("forward"), backward: calls.backward * each("backward") };
}

/** How sharply the slower of host and device decides: calls and kernels vary, and the queue between them is short. */
const floorExponent = 6;
/**
 * The same in a mixture whose experts take any number of tokens: the host counts them, for which it waits until the
 * device is there, and then the device for it. Between a sum and the longer; `fitted` to Qwen3-30B in NeMo's table.
 */
const countingExponent = 3;

/** What a pass takes beyond the device's seconds where the host needs `host` to call it. */
function waitSeconds(device: number, host: number, exponent: number): number {
  if (host <= 0) return 0;
  const larger = Math.max(device, host);
  const both = larger * ((device / larger) ** exponent + (host / larger) ** exponent) ** (1 / exponent);
  return both - device;
}

/** What ZeRO adds to each pass of a layer. */
interface Gather {
  /** Seconds of collectives, which may hide. */
  forward: number;
  backward: number;
  /** Seconds of the device's own copies around them, which may not. */
  copies: { forward: number; backward: number };
  /** Bytes of whole parameters and gradients beside the shards. */
  bytes: number;
}

const noGather: Gather = { forward: 0, backward: 0, copies: { forward: 0, backward: 0 }, bytes: 0 };

/**
 * Stage 3 gathers a layer's parameters before both passes and scatters its gradients after, stage 2 scatters gradients
 * with every micro-batch (Rajbhandari et al. 2020, section 7; Zhao et al., PyTorch FSDP, VLDB 2023, section 3.2). Under
 * stage 3 the parameters of two layers are whole at a time, and the gradient of one. PyTorch's stage 2 gathers with
 * every micro-batch as well, before the forward pass alone (SHARD_GRAD_OP). It copies parameters from the gathered
 * buffer into tensors of their own, and gradients into one buffer in the type they are reduced in
 * (`foreach_all_gather_copy_out` and `foreach_reduce_scatter_copy_in` of torch.distributed.fsdp); Megatron-FSDP computes
 * in the buffers.
 */
function gatherOf(
  { parameters, expertParameters }: LayerCost,
  { zero, microBatches }: Configuration,
  { shards, expertShards }: Groups,
  { communication, compute, job }: CostModels,
): Gather {
  const byPyTorch = describeRuntime(job.runtime).software === "pytorch";
  if (zero < 2 || (zero === 2 && microBatches === 1 && !byPyTorch)) return noGather;
  const state = stateBytes(job);
  const both = (collective: "allGather" | "reduceScatter", bytes: number) =>
    communication.collectiveSeconds(collective, parameters * bytes, shards) +
    communication.collectiveSeconds(collective, expertParameters * bytes, expertShards);
  const gathered = (shards.size > 1 ? parameters : 0) + (expertShards.size > 1 ? expertParameters : 0);
  const copied = byPyTorch ? gathered : 0;
  const dtype = job.dtypes.parameters;
  const copy = (bytes: number) =>
    compute.seconds({ kind: "elementwise", dtype, flops: 0, bytes: copied * bytes });
  const scatter = both("reduceScatter", state.gradient);
  const copyIn = copy(state.parameter + state.gradient);
  const gather = zero === 3 || byPyTorch ? both("allGather", state.parameter) : 0;
  const copyOut = copy(2 * state.parameter);
  if (zero === 2) {
    return { forward: gather, backward: scatter, copies: { forward: copyOut, backward: copyIn }, bytes: 0 };
  }
  const whole = parameters * (1 - 1 / shards.size) + expertParameters * (1 - 1 / expertShards.size);
  return {
    forward: gather,
    backward: gather + scatter,
    copies: { forward: copyOut, backward: copyOut + copyIn },
    bytes: whole * (2 * state.parameter + state.gradient),
  };
}
