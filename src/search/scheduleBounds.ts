import type { PricedChain, PricedLayer } from "./pricedLayer.js";
import type { StageCosts } from "./stageCosts.js";

/** What the schedules that are searched have in common. */
export interface ScheduleTraits {
  /** Some run the halves of backwards apart. */
  split: boolean;
  /** Some hold every layer on two ranks, with half of the micro-batches each. */
  bidirectional: boolean;
}

/** One layer under a configuration, for one micro-batch. */
interface LayerPass {
  forward: number;
  /** Recomputation and the gradient that the layer before waits for. */
  backwardInput: number;
  /** Everything. */
  pass: number;
  savedBytes: number;
  /** Between the halves of a backward. */
  betweenBytes: number;
  parameters: number;
  expertParameters: number;
}

/** Sums over a chain of layers that bounds and estimates need. */
export interface ChainPasses {
  /** In the order of the forward pass. */
  layers: LayerPass[];
  blocks: number;
  embedding: LayerPass;
  head: LayerPass;
  /** The least of all blocks in each figure. */
  leastBlock: LayerPass;
  largestPass: number;
  total: LayerPass;
  weightSeconds: number;
}

/** Passes of all layers of a configuration: where some are recomputed whole, the time of none and the memory of all. */
export function chainPasses(chain: PricedChain): ChainPasses {
  chain.passes ??= sumPasses(chain);
  return chain.passes;
}

function sumPasses({ embedding, pattern, blocks, whole, head }: PricedChain): ChainPasses {
  const passOf = (layer: PricedLayer, held = layer): LayerPass => ({
    forward: layer.forward,
    backwardInput: layer.backward - layer.backwardWeight,
    pass: layer.forward + layer.backward,
    savedBytes: held.saved,
    betweenBytes: Math.min(layer.between, held.between),
    parameters: layer.parameters,
    expertParameters: layer.expertParameters,
  });
  const first = embedding.map((layer) => passOf(layer));
  const kinds = blocks.map((layer, kind) => passOf(layer, whole?.[kind]));
  const last = head.map((layer) => passOf(layer));
  const total = noPass();
  const ends = [noPass(), noPass()] as const;
  for (const [i, list] of [first, last].entries()) for (const pass of list) addPass(ends[i]!, pass, 1);
  for (const pass of ends) addPass(total, pass, 1);
  for (const [kind, pass] of kinds.entries()) addPass(total, pass, pattern.counts[kind]![pattern.length]!);
  return {
    layers: [...first, ...Array.from(pattern.kinds, (kind) => kinds[kind]!), ...last],
    blocks: pattern.length,
    embedding: ends[0],
    head: ends[1],
    leastBlock: leastOf(kinds),
    largestPass: [...first, ...kinds, ...last].reduce((most, each) => Math.max(most, each.pass), 0),
    total,
    weightSeconds: total.pass - total.forward - total.backwardInput,
  };
}

const passFields = [
  "forward",
  "backwardInput",
  "pass",
  "savedBytes",
  "betweenBytes",
  "parameters",
  "expertParameters",
] as const satisfies readonly (keyof LayerPass)[];

function noPass(): LayerPass {
  return {
    forward: 0,
    backwardInput: 0,
    pass: 0,
    savedBytes: 0,
    betweenBytes: 0,
    parameters: 0,
    expertParameters: 0,
  };
}

function addPass(sum: LayerPass, pass: LayerPass, count: number): void {
  for (const field of passFields) sum[field] += count * pass[field];
}

/** The least of all passes in each figure. */
function leastOf(passes: readonly LayerPass[]): LayerPass {
  const least = noPass();
  for (const field of passFields) {
    if (passes.length > 0) least[field] = Math.min(...passes.map((pass) => pass[field]));
  }
  return least;
}

/**
 * A load, seconds a micro-batch, that some rank has under every way to divide the layers: their mean over the ranks,
 * the largest layer, and the least load at which ranks have room for all blocks, each taken as the least one.
 * @param extraSeconds transfers of one rank beyond those of one stage.
 */
export function leastRankSeconds(
  passes: ChainPasses,
  ranks: number,
  transferSeconds: number,
  bidirectional: boolean,
  extraSeconds = 0,
): number {
  const { embedding, head, leastBlock, largestPass, total, blocks } = passes;
  if (ranks === 1) return total.pass;
  const around = 2 * transferSeconds + extraSeconds;
  const mean =
    (total.pass + 2 * (ranks - 1) * transferSeconds) / ranks + (extraSeconds * (ranks - 1)) / ranks;
  let low = Math.max(mean, largestPass / (bidirectional ? 2 : 1));
  if (leastBlock.pass <= 0) return low;
  const unit = bidirectional ? leastBlock.pass / 2 : leastBlock.pass;
  const room = (load: number, used: number) => Math.max(0, Math.floor((load - used) / unit + 1e-9));
  const fits = (load: number) => {
    const middle = room(load, around);
    const ends = embedding.pass + head.pass;
    if (bidirectional) {
      const both = ends / 2 + transferSeconds;
      return load >= both && 2 * room(load, both) + (ranks - 2) * middle >= 2 * blocks;
    }
    const first = embedding.pass + transferSeconds;
    const last = head.pass + transferSeconds;
    const apart = room(load, first) + room(load, last) + (ranks - 2) * middle;
    const together = load >= ends + around ? room(load, ends + around) + (ranks - 1) * middle : 0;
    return load >= Math.max(first, last) && Math.max(apart, together) >= blocks;
  };
  let high = Math.max(low, total.pass + around + extraSeconds);
  if (fits(low)) return low;
  for (let i = 0; i < 50; i++) {
    const middle = (low + high) / 2;
    if (fits(middle)) high = middle;
    else low = middle;
  }
  return low;
}

/**
 * No schedule with a flush runs a step of the configuration in less, however the layers are cut into stages and
 * chunks; Infinity where none fits the memory. The larger of `timeBound` and
 *
 * - what memory allows: a layer's activations stay from its forward to its backward, so for at least R, the way from
 *   there to the end and back. Over a step of T seconds all ranks hold m Σ savedBytes · R byte-seconds, at most T times
 *   the room that parameters and optimizer leave.
 *
 * To it comes the update of a rank with an equal share of the parameters, its reduction as hidden as can be. Without a
 * pipeline the time is exact.
 */
export function scheduleBound(costs: StageCosts, passes: ChainPasses, traits: ScheduleTraits): number {
  const { pipeline, recomputeLayers } = costs.configuration;
  const { layers, total } = passes;
  // Passes of layers that may be recomputed are bounds themselves.
  if (pipeline === 1 && recomputeLayers === 0) return wholeSeconds(costs);
  const memory = memorySeconds(costs, layers, total.savedBytes, (i) => layers[i]!.savedBytes);
  return Math.max(timeBound(costs, passes, traits), memory) + leastUpdateSeconds(costs);
}

/**
 * Seconds in which the ranks' room holds the activations of all micro-batches; Infinity where not those of one.
 * @param savedOf bytes of each layer, `savedBytes` together.
 */
function memorySeconds(
  costs: StageCosts,
  layers: readonly Pick<LayerPass, "forward" | "backwardInput">[],
  savedBytes: number,
  savedOf: (layer: number) => number,
): number {
  const room = activationRoom(costs);
  if (room < savedBytes) return Number.POSITIVE_INFINITY;
  let byteSeconds = 0;
  let rest = 0;
  for (let i = layers.length - 1; i >= 0; i--) {
    const layer = layers[i]!;
    rest += layer.forward + layer.backwardInput;
    byteSeconds += savedOf(i) * rest;
  }
  return room > 0 ? (costs.configuration.microBatches * byteSeconds) / room : 0;
}

/** Parts that the shares of recomputed blocks are cut into. */
const familyParts = 12;

/**
 * `scheduleBound` for configurations that differ in how many layers of each stage are recomputed whole. Of each part
 * of the shares of all blocks, from none to all, the time is that of the least share and the memory that of the
 * largest, with those blocks recomputed that hold their activations longest.
 * @param costs of one such configuration.
 * @param base passes with no block recomputed whole.
 * @param whole passes that hold what remains where all are.
 */
export function familyBound(
  costs: StageCosts,
  base: ChainPasses,
  whole: ChainPasses,
  traits: ScheduleTraits,
): number {
  const { blocks, total } = base;
  const { blocks: kinds, whole: repeated = [] } = costs.chain;
  const repeats = kinds.map(
    (kind, i) => (repeated[i]?.forward ?? 0) + (repeated[i]?.backward ?? 0) - kind.forward - kind.backward,
  );
  const each = Math.max(0, Math.min(...repeats));
  const saved = new Float64Array(base.layers.length);
  let bound = Number.POSITIVE_INFINITY;
  for (let part = 0; part < familyParts; part++) {
    const extra = (part / familyParts) * blocks * each;
    const slower = {
      ...total,
      pass: total.pass + extra,
      backwardInput: total.backwardInput + extra,
    };
    let left = Math.ceil(((part + 1) / familyParts) * blocks);
    let savedBytes = 0;
    for (let i = 0; i < saved.length; i++) {
      const own = base.layers[i]!.savedBytes;
      const relieved = whole.layers[i]!.savedBytes;
      saved[i] = relieved < own && left-- > 0 ? relieved : own;
      savedBytes += saved[i]!;
    }
    const time = timeBound(costs, { ...base, total: slower }, traits);
    const memory = memorySeconds(costs, base.layers, savedBytes, (i) => saved[i]!);
    bound = Math.min(bound, Math.max(time, memory));
  }
  return bound + leastUpdateSeconds(costs);
}

/**
 * The part of `scheduleBound` that neither memory nor the update decides, the largest of
 *
 * - the load of the fullest rank, m times;
 * - the mean over ranks of their load, what lies before their first forward (the r-th rank to start waits for at least
 *   r stages) and, where backwards are whole, behind their last backward;
 * - one micro-batch's way forward and back.
 */
export function timeBound(
  costs: Pick<StageCosts, "configuration" | "transferSeconds">,
  passes: ChainPasses,
  traits: ScheduleTraits,
): number {
  const { pipeline, microBatches } = costs.configuration;
  const { embedding, leastBlock, total } = passes;
  const { transferSeconds: transfer } = costs;
  if (pipeline === 1) return microBatches * total.pass;
  const load = microBatches * leastRankSeconds(passes, pipeline, transfer, traits.bidirectional);
  const crossings = 2 * (pipeline - 1) * transfer;
  const stagesAhead = (rank: number, first: number, block: number) =>
    rank === 0 ? 0 : first + (rank - 1) * (block + transfer);
  let waiting = 0;
  for (let rank = 0; rank < pipeline; rank++) {
    const before = traits.bidirectional ? Math.min(rank, pipeline - 1 - rank) : rank;
    waiting += stagesAhead(before, embedding.forward + transfer, leastBlock.forward);
    if (traits.split) continue;
    waiting += stagesAhead(before, embedding.pass - embedding.forward, leastBlock.pass - leastBlock.forward);
  }
  const mean = (microBatches * (total.pass + crossings) + waiting) / pipeline;
  const way = total.forward + total.backwardInput + crossings;
  return Math.max(load, mean, way);
}

/** Bytes that all ranks together have left beside one copy of parameters, gradients and optimizer. */
export function activationRoom(costs: StageCosts): number {
  const held = costs.stateTerms(costs.wholeParameters);
  const fixed = held.parameters + held.gradients + held.optimizer;
  return costs.configuration.pipeline * costs.roomBytes - fixed;
}

/** Some rank has at least an equal share of the parameters. */
export function leastUpdateSeconds(costs: StageCosts): number {
  const { pipeline } = costs.configuration;
  const { dense, expert } = costs.wholeParameters;
  const share = { dense: dense / pipeline, expert: expert / pipeline };
  const { gradientSynchronisation, optimizer } = costs.update.seconds(share, Number.POSITIVE_INFINITY, 0);
  return gradientSynchronisation + optimizer;
}

/** A step of one stage; Infinity where it does not fit. */
function wholeSeconds(costs: StageCosts): number {
  const { layerCount, configuration } = costs;
  if (costs.reservedBytes(0, 0, layerCount) > costs.limitBytes) return Number.POSITIVE_INFINITY;
  const { gradientSynchronisation, optimizer } = costs.onceSeconds(0, 0, layerCount);
  const pass = costs.passSeconds(0, 0, layerCount);
  return configuration.microBatches * pass + gradientSynchronisation + optimizer;
}
