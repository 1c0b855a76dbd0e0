import type { Model, RunOptions } from "../contracts/index.js";
import type { HeldParameters } from "../cost/memory.js";
import { distinctLayers, tensorsById } from "../models/workload.js";
import type { Candidate } from "./candidate.js";
import type { Configuration, CostModels, LayerChain } from "./configuration.js";
import { groupsOf } from "./groups.js";
import { Heap } from "./heap.js";
import type { LayerChains } from "./layerChains.js";
import { fitsSomehow, leastSeconds } from "./oneForwardOneBackward.js";
import { type PricedLayer, priceChain } from "./pricedLayer.js";
import type { Space } from "./space.js";
import { StageCosts } from "./stageCosts.js";

/** Shapes whose candidates stand for all where none was tried. */
const shapesShown = 64;

/** A division of the work with a chain, before it is said what ZeRO shards and what is recomputed. */
export interface Shape {
  configuration: Configuration;
  chain: LayerChain;
  /** No plan of the shape takes less under any schedule with a flush that has one stage a rank. */
  bound: number;
  /** Exposed seconds of a transfer between neighbouring ranks of the pipeline, one way. */
  transferSeconds: number;
}

/** A configuration whose costs are not known yet, and what it takes at least. */
interface Unpriced {
  configuration: Configuration;
  chain: LayerChain;
}

type Entry =
  | { kind: "shape"; shape: Shape }
  | { kind: "unpriced"; unpriced: Unpriced }
  | { kind: "candidate"; candidate: Candidate };

/**
 * Candidates of a space in the order of their lower bounds, priced only as far as somebody asks. A shape stands for
 * all that is under it until its bound is the least, and a configuration for its reliefs.
 */
export class CandidatePool {
  readonly space: Space;
  readonly models: CostModels;
  readonly shapes: Shape[] = [];
  /** Candidates that 1F1B was tried for, so that somebody can say why they were not chosen. */
  readonly priced: Candidate[] = [];
  /** Configurations that were counted out by a bound or priced. */
  configurations = 0;
  readonly #chains: LayerChains;
  readonly #parameters: HeldParameters;
  readonly #open = new Heap<Entry>();

  constructor(model: Model, space: Space, models: CostModels, chains: LayerChains) {
    this.#parameters = parametersOf(model);
    this.space = space;
    this.models = models;
    this.#chains = chains;
  }

  /** Solves the layers of all shapes whose state may fit, of all where none does, and bounds them. */
  async prepare(all: readonly Configuration[], options: RunOptions): Promise<void> {
    const hopeful = all.filter((shape) => this.#stateFits(shape));
    const shapes = hopeful.length > 0 ? hopeful : all;
    const totals = new Map<LayerChain, ReturnType<typeof totalsOf>>();
    for (const [i, configuration] of shapes.entries()) {
      options.signal?.throwIfAborted();
      for (const chain of await this.#chains.chains(configuration)) {
        const known = totals.get(chain) ?? totalsOf(chain, configuration, this.models);
        totals.set(chain, known);
        const transferSeconds = transferOf(known.outputBytes, configuration, this.models);
        const bound = shapeBound(known, transferSeconds, configuration);
        const shape = { configuration, chain, bound, transferSeconds };
        this.shapes.push(shape);
        this.#open.push(bound, { kind: "shape", shape });
      }
      if (i % 256 !== 255) continue;
      options.onProgress?.({ message: "pricing shapes", fraction: (0.7 * i) / shapes.length });
      await new Promise((resolve) => setImmediate(resolve));
    }
    this.shapes.sort((a, b) => a.bound - b.bound);
  }

  /** Some device holds an equal share of the parameters, and its state at the least. */
  #stateFits(shape: Configuration): boolean {
    const { tensor, pipeline, expert, expertTensor } = shape;
    const { memory } = this.models;
    const each = memory.bytesEach(this.space.lightestSharding(shape));
    const { dense, expert: routed } = this.#parameters;
    const bytes = (dense / tensor) * each.dense + (routed / (expert * expertTensor)) * each.expert;
    return bytes / pipeline <= memory.roomBytes;
  }

  /** What the next candidate takes at least; Infinity where none is left. */
  get leastBound(): number {
    return this.#open.least;
  }

  /** The next candidate that fits under 1F1B, its bound below the cutoff; undefined where none is left. */
  next(cutoff = Number.POSITIVE_INFINITY): Candidate | undefined {
    while (this.#open.least < cutoff) {
      const entry = this.#open.pop()!;
      if (entry.kind === "candidate") {
        const { candidate } = entry;
        const fits = fitsSomehow(candidate.costs);
        this.#pushReliefs(candidate, fits);
        if (fits) return candidate;
      } else if (entry.kind === "shape") {
        const { shape } = entry;
        for (const configuration of this.space.roots(shape.configuration)) {
          this.#open.push(shape.bound, {
            kind: "unpriced",
            unpriced: { configuration, chain: shape.chain },
          });
        }
      } else {
        const candidate = this.price(entry.unpriced);
        this.priced.push(candidate);
        this.#open.push(candidate.lowerBound, { kind: "candidate", candidate });
      }
    }
    return undefined;
  }

  price({ configuration, chain }: Unpriced): Candidate {
    const costs = new StageCosts(configuration, chain, this.models);
    this.configurations++;
    return { configuration, chain, costs, lowerBound: leastSeconds(costs) };
  }

  /** Candidates that 1F1B was tried for; where it was not, those of the most promising shapes. */
  tried(): readonly Candidate[] {
    if (this.priced.length > 0) return this.priced;
    return this.shapes
      .slice(0, shapesShown)
      .flatMap(({ configuration, chain }) =>
        this.space.roots(configuration).map((root) => this.price({ configuration: root, chain })),
      );
  }

  /**
   * The fewest layers of each stage whose recomputation lets a configuration fit under 1F1B, `from` at least.
   * @returns undefined where none does.
   */
  fewestLayers(unpriced: Unpriced, from: number, most: number): number | undefined {
    const fits = (recomputeLayers: number) => {
      const configuration = { ...unpriced.configuration, recomputeLayers };
      return fitsSomehow(new StageCosts(configuration, unpriced.chain, this.models));
    };
    if (from > most || !fits(most)) return undefined;
    let low = from;
    let high = most;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (fits(middle)) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  #pushReliefs({ configuration, chain, lowerBound }: Candidate, fits: boolean): void {
    for (const relief of this.space.reliefs(configuration)) {
      let { recomputeLayers } = relief;
      if (!fits && recomputeLayers > configuration.recomputeLayers) {
        const most = chain.pattern.length - 1;
        const fewest = this.fewestLayers({ configuration: relief, chain }, recomputeLayers, most);
        if (fewest === undefined) continue;
        recomputeLayers = fewest;
      }
      const unpriced = { configuration: { ...relief, recomputeLayers }, chain };
      this.#open.push(lowerBound, { kind: "unpriced", unpriced });
    }
  }
}

/** Parameters of a model outside experts and in them; those that are stored twice count once. */
function parametersOf(model: Model): HeldParameters {
  const tensors = tensorsById(model);
  const held = { dense: 0, expert: 0 };
  for (const { count, operators } of distinctLayers(model)) {
    for (const operator of operators) {
      for (const operand of operator.inputs) {
        const { kind, shape, tiedTo } = tensors.get(operand.tensor)!;
        if (kind !== "parameter" || tiedTo) continue;
        const size = shape.reduce((product, n) => product * n, count);
        if (operator.kind === "grouped_linear") held.expert += size;
        else held.dense += size;
      }
    }
  }
  return held;
}

/** Sums of a chain's seconds for one micro-batch, with nothing sharded, recomputed or offloaded. */
function totalsOf(
  chain: LayerChain,
  configuration: Configuration,
  models: CostModels,
): { seconds: number; largest: number; outputBytes: number } {
  const { embedding, pattern, blocks, head } = priceChain(chain, configuration, models);
  const totals = { seconds: 0, largest: 0, outputBytes: (blocks[0] ?? embedding[0])?.outputBytes ?? 0 };
  const add = ({ forward, backward }: PricedLayer, count: number) => {
    totals.seconds += count * (forward + backward);
    totals.largest = Math.max(totals.largest, forward + backward);
  };
  for (const layer of [...embedding, ...head]) add(layer, 1);
  for (const [kind, block] of blocks.entries()) add(block, pattern.counts[kind]![pattern.length]!);
  return totals;
}

function transferOf(
  bytes: number,
  configuration: Configuration,
  { communication, cluster }: CostModels,
): number {
  if (configuration.pipeline === 1) return 0;
  const { tensor, data } = groupsOf(configuration);
  const exposed = 1 - cluster.overlap.pipelineTransfer.value;
  return exposed * communication.transferSeconds(bytes, tensor.size * data.size);
}

/** The part of `leastSeconds` that a shape fixes. */
function shapeBound(
  { seconds, largest }: ReturnType<typeof totalsOf>,
  transferSeconds: number,
  { pipeline, microBatches }: Configuration,
): number {
  const sum = seconds + 2 * (pipeline - 1) * transferSeconds;
  return (sum + (microBatches - 1) * Math.max(sum / pipeline, largest)) * (1 - 1e-12);
}
