import { type Layer, type Model, MpoptError, type Runtime } from "../contracts/index.js";
import type { CostContext } from "../cost/operator.js";
import { tensorsById } from "../models/workload.js";
import type { Configuration, CostModels, LayerChain } from "./configuration.js";
import { type LayerCost, priceChosen, solveLayer } from "./intra.js";
import type { KnownShardings } from "./knownShardings.js";

/**
 * Layer costs by what they depend on: tensor degree, micro-batch, sequence parallelism. Equal layers are
 * solved once, and every configuration that shares the three shares the chain.
 */
export class LayerChains {
  /** Why the last refused degree cannot run. */
  refusal: MpoptError | undefined;
  readonly #model: Model;
  readonly #models: CostModels;
  readonly #chains = new Map<string, LayerChain | undefined>();
  readonly #signal: AbortSignal | undefined;
  readonly #known: KnownShardings | undefined;

  /** @param known where shardings are looked up before they are solved, and kept after. */
  constructor(model: Model, models: CostModels, signal?: AbortSignal, known?: KnownShardings) {
    this.#model = model;
    this.#models = models;
    this.#signal = signal;
    this.#known = known;
  }

  /**
   * The chains of a configuration; none where some operator cannot be divided that way. Free shardings are chosen
   * by time alone: those that every launcher executes are a second chain beside them, which may hold less.
   */
  async chains(configuration: Configuration): Promise<LayerChain[]> {
    const { runtime } = this.#models.job;
    const chains: LayerChain[] = [];
    for (const rules of runtime === "any" ? (["any", "portable"] as const) : [runtime]) {
      const chain = await this.chain(configuration, rules);
      if (chain) chains.push(chain);
    }
    return chains;
  }

  /** The chain of a configuration under a runtime's rules; undefined where some operator cannot be divided so. */
  async chain(
    configuration: Configuration,
    runtime: Runtime = this.#models.job.runtime,
  ): Promise<LayerChain | undefined> {
    const { tensor, microBatch, sequenceParallel, microBatches } = configuration;
    // Only free shardings weigh the reduction of weight gradients, which is shared by all micro-batches.
    const repeats = runtime === "any" ? microBatches : this.#models.job.globalBatch;
    const key = `${runtime}/${tensor}/${microBatch}/${sequenceParallel}/${repeats}`;
    if (!this.#chains.has(key)) {
      this.#chains.set(key, await this.#solve(configuration, runtime, repeats, key));
    }
    return this.#chains.get(key);
  }

  async #solve(
    { tensor, microBatch, sequenceParallel }: Configuration,
    runtime: Runtime,
    microBatches: number,
    key: string,
  ): Promise<LayerChain | undefined> {
    const { job, compute, communication } = this.#models;
    const context: CostContext = {
      tensors: tensorsById(this.#model),
      reference: this.#model.reference,
      workload: { batch: microBatch, sequence: job.sequence },
      compute,
      dtype: job.dtypes.parameters,
    };
    // Chains of one search share a job; what is known from others need not.
    const knownKey = `${key}/${job.sequence}/${JSON.stringify(job.dtypes)}`;
    const solved = new Map<string, LayerCost>();
    const cost = async (layer: Layer): Promise<LayerCost> => {
      const known = solved.get(layer.block);
      if (known) return known;
      const operators = this.#model.operators.slice(layer.operators.start, layer.operators.end);
      const group = { size: tensor, stride: 1 };
      const input = {
        operators,
        context,
        communication,
        group,
        runtime,
        sequenceParallel,
        microBatches,
      };
      const chosen = this.#known?.get(this.#model, layer.block, knownKey);
      const found = chosen ? priceChosen(input, chosen) : await solveLayer(input, this.#signal);
      if (!chosen) {
        const splits = found.strategies.map((strategy) => strategy.split);
        this.#known?.set(this.#model, layer.block, knownKey, splits);
      }
      solved.set(layer.block, found);
      return found;
    };
    const chain: LayerChain = { embedding: [], blocks: [], head: [] };
    try {
      for (const layer of this.#model.layers) {
        const list = layer.kind === "block" ? chain.blocks : chain[layer.kind];
        list.push(await cost(layer));
      }
    } catch (error) {
      if (!(error instanceof MpoptError) || error.code !== "E_INFEASIBLE") throw error;
      this.refusal = error;
      return undefined;
    }
    return chain;
  }
}
