import type { Device, Recompute } from "../contracts/index.js";
import { keepsProducts, stateBytes } from "../cost/memory.js";
import { exposedSeconds, overlapOf } from "../cost/overlap.js";
import { describeRuntime } from "../runtimes/index.js";
import { type BlockPattern, type BlockSum, BlockSums } from "./blockSums.js";
import type { Configuration, CostModels, LayerChain } from "./configuration.js";
import { type Groups, groupsOf } from "./groups.js";
import type { LayerCost } from "./intra.js";
import type { ChainPasses } from "./scheduleBounds.js";
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

/** The layers of a chain under a configuration. What searches ask of them all is worked out once. */
export class PricedChain {
  /** Which blocks are equal, and the block of each kind. */
  readonly pattern: BlockPattern;
  /** Sums of passes, once somebody asked for them. */
  passes: ChainPasses | undefined;
  #sums: BlockSums | undefined;
  #wholeSums: BlockSums | undefined;
  #hot: Readonly<Record<HotField, [BlockSum, BlockSum | undefined]>> | undefined;
  #moments: Readonly<Record<"workspace" | "recomputed" | "standIns", number>> | undefined;

  /** @param whole blocks recomputed whole, where the configuration has layers of that sort beside others. */
  constructor(
    pattern: BlockPattern,
    readonly embedding: readonly PricedLayer[],
    readonly blocks: readonly PricedLayer[],
    readonly whole: readonly PricedLayer[] | undefined,
    readonly head: readonly PricedLayer[],
  ) {
    this.pattern = pattern;
  }

  /** Sums over ranges of blocks as they are. */
  get sums(): BlockSums {
    this.#sums ??= new BlockSums(this.pattern, this.blocks);
    return this.#sums;
  }

  /** Sums over ranges of blocks recomputed whole, where some are. */
  get wholeSums(): BlockSums | undefined {
    if (this.whole) this.#wholeSums ??= new BlockSums(this.pattern, this.whole);
    return this.#wholeSums;
  }

  /** Sums that searches ask for in their inner loops, of blocks as they are and recomputed whole. */
  get hot(): Readonly<Record<HotField, [BlockSum, BlockSum | undefined]>> {
    if (!this.#hot) {
      const both = (field: HotField): [BlockSum, BlockSum | undefined] => [
        this.sums.of(field),
        this.wholeSums?.of(field),
      ];
      this.#hot = {
        forward: both("forward"),
        backward: both("backward"),
        saved: both("saved"),
        parameters: both("parameters"),
        expertParameters: both("expertParameters"),
      };
    }
    return this.#hot;
  }

  /** Parameters a device that embedding and head share when they sit on one stage. */
  get tiedParameters(): number {
    let sum = 0;
    for (const layer of this.head) sum += layer.tiedParameters;
    return sum;
  }

  /** Most bytes that a block holds inside one call, and that its recomputation brings back; what all keep for autograd. */
  get moments(): Readonly<Record<"workspace" | "recomputed" | "standIns", number>> {
    if (!this.#moments) {
      let workspace = 0;
      let recomputed = 0;
      const shapes = new Map<string, number>();
      for (const block of this.whole ? [...this.blocks, ...this.whole] : this.blocks) {
        workspace = Math.max(workspace, block.workspace);
        recomputed = Math.max(recomputed, block.recomputed);
        for (const [shape, bytes] of block.standIns) shapes.set(shape, bytes);
      }
      let standIns = 0;
      for (const bytes of shapes.values()) standIns += bytes;
      this.#moments = { workspace, recomputed, standIns };
    }
    return this.#moments;
  }
}

type HotField = "forward" | "backward" | "saved" | "parameters" | "expertParameters";

/** What the prices of a chain's layers depend on beside the configuration. */
type Pricing = Pick<CostModels, "cluster" | "compute" | "communication"> &
  Pick<CostModels["job"], "dtypes" | "runtime" | "expertCapacity">;

const pricedChains = new WeakMap<LayerChain, { by: Pricing; chains: Map<string, PricedChain> }>();

/** Prices every distinct layer of a chain, once for all configurations that gather nothing for their layers. */
export function priceChain(
  chain: LayerChain,
  configuration: Configuration,
  models: CostModels,
  groups = groupsOf(configuration),
): PricedChain {
  if (configuration.zero >= 2) return pricedChain(chain, configuration, models, groups);
  const { cluster, compute, communication, memory, job } = models;
  const { dtypes, runtime, expertCapacity } = job;
  const { tensor, context, contextExchange, recompute, recomputeLayers, offload } = configuration;
  const by: Pricing = { cluster, compute, communication, dtypes, runtime, expertCapacity };
  let known = pricedChains.get(chain);
  if (!known || !samePricing(known.by, by)) {
    known = { by, chains: new Map() };
    pricedChains.set(chain, known);
  }
  const { habits } = memory;
  const whole = recomputeLayers > 0 && recompute !== "full";
  const products = keepsProducts(habits, configuration);
  const key = `${recompute}/${whole}/${offload}/${tensor}/${context}/${contextExchange}/${products}/${habits.fusedWeightGradients}`;
  let priced = known.chains.get(key);
  if (!priced) {
    priced = pricedChain(chain, configuration, models, groups);
    known.chains.set(key, priced);
  }
  return priced;
}

function samePricing(one: Pricing, other: Pricing): boolean {
  return (
    one.cluster === other.cluster &&
    one.compute === other.compute &&
    one.communication === other.communication &&
    one.dtypes === other.dtypes &&
    one.runtime === other.runtime &&
    one.expertCapacity === other.expertCapacity
  );
}

function pricedChain(
  chain: LayerChain,
  configuration: Configuration,
  models: CostModels,
  groups: Groups,
): PricedChain {
  const { recompute, recomputeLayers } = configuration;
  const lossSeconds = models.cluster.microBatchSeconds?.value ?? 0;
  const { habits } = models.memory;
  const ends = { fused: false, byProducts: false };
  // The tables at both ends are products of the model's own code, whose gradients are added by autograd, and which
  // nothing repeats.
  const inner = { fused: habits.fusedWeightGradients, byProducts: keepsProducts(habits, configuration) };
  const priced = (layers: readonly LayerCost[], how: Recompute, place = ends) =>
    layers.map((layer) => priceLayer(layer, how, place, configuration, groups, models));
  const { pattern, blocks } = chain;
  const head = priced(chain.head, "none");
  if (lossSeconds > 0 && head[0]) head[0] = withHost(head[0], lossSeconds);
  return new PricedChain(
    pattern,
    priced(chain.embedding, "none"),
    priced(blocks, recompute, inner),
    recomputeLayers > 0 && recompute !== "full" ? priced(blocks, "full", inner) : undefined,
    head,
  );
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
