import {
  type Job,
  type Layer,
  type Model,
  MpoptError,
  type Operator,
  type Runtime,
} from "../contracts/index.js";
import type { ComputeModel } from "../cost/compute.js";
import type { KnownSeconds } from "../cost/operator.js";
import { type OverlapKind, overlapOf } from "../cost/overlap.js";
import { tensorsById } from "../models/workload.js";
import { describeRuntime } from "../runtimes/index.js";
import { type Configuration, type CostModels, chainOf, type LayerChain } from "./configuration.js";
import { groupsOf } from "./groups.js";
import { type LayerCost, priceChosen, solveLayer } from "./intra.js";
import type { LayerProblem, LayerProblemInput } from "./intraProblem.js";
import { KnownShardings } from "./knownShardings.js";
import { SolvedLayer } from "./solvedLayers.js";

/**
 * What a layer of a model is priced from under a configuration; search, estimate and checker share it.
 * @throws MpoptError E_INFEASIBLE where heads do not divide over tensor- and context-parallel ranks.
 */
export function layerInput(
  model: Model,
  models: CostModels,
  configuration: Configuration,
  runtime: Runtime,
  microBatches: number,
  known?: KnownSeconds,
): (operators: readonly Operator[]) => LayerProblemInput {
  const { job, compute, communication, cluster } = models;
  const { microBatch, context, contextExchange, expert, expertTensor, sequenceParallel } = configuration;
  const groups = groupsOf(configuration);
  const { software } = describeRuntime(job.runtime);
  const { sequence } = job;
  const imbalance = expert > 1 ? (cluster.expertImbalance?.value ?? 1) : 1;
  const shared = {
    context: {
      tensors: tensorsById(model),
      reference: model.reference,
      workload: {
        batch: microBatch,
        sequence: sequence / context,
        ...(context > 1 ? { keySequence: sequence } : {}),
      },
      compute,
      dtype: job.dtypes.parameters,
      ...(job.dtypes.linear && { linearDtype: job.dtypes.linear }),
      ...(job.dtypes.scaling && { scaling: job.dtypes.scaling }),
      eager: software === "pytorch",
      ...(known && { known }),
      experts: {
        parallel: expert,
        imbalance: job.expertCapacity ?? imbalance,
        fused: job.expertDispatch === "fused",
        padded: job.expertCapacity !== undefined,
      },
    },
    communication,
    group: groups.tensor,
    runtime,
    sequenceParallel,
    microBatches,
    expertTensor,
    contextGroup: groups.context,
    contextExchange,
    expertGroup: groups.expert,
    overlap: (kind: OverlapKind) => overlapOf(cluster, kind),
    ...(software === "pytorch" ? { copySeconds: (bytes: number) => copySeconds(compute, bytes, job) } : {}),
  };
  return (operators) => ({ operators, ...shared });
}

/**
 * Seconds to read and write so many bytes: PyTorch's collectives gather along the first axis, which is the batch, and
 * parts of the sequence are put in order by a copy (`torch.distributed._functional_collectives`).
 */
function copySeconds(compute: ComputeModel, bytes: number, { dtypes }: Job): number {
  return compute.seconds({ kind: "elementwise", dtype: dtypes.parameters, flops: 0, bytes: 2 * bytes });
}

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
  readonly #known: KnownShardings;
  readonly #operators = new Map<string, readonly Operator[]>();
  /** Prices of operators by degree and workload: rules and placements between operators share them. */
  readonly #seconds = new Map<string, KnownSeconds>();
  /** What is known of each layer under each shape: others differ in experts, exchange and micro-batches alone. */
  readonly #solved = new Map<string, SolvedLayer>();
  /** Chains by the costs of their layers, numbered as they come. */
  readonly #sameLayers = new Map<string, LayerChain>();
  readonly #numbers = new Map<LayerCost, number>();

  /** @param known where shardings are looked up before they are solved, and kept after. */
  constructor(model: Model, models: CostModels, signal?: AbortSignal, known = new KnownShardings()) {
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
    const free = describeRuntime(runtime).freeShardings && configuration.tensor > 1;
    for (const rules of free ? ([runtime, "portable"] as const) : [runtime]) {
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
    const { context, contextExchange, expert, expertTensor } = configuration;
    // Only free shardings weigh the reduction of weight gradients, which is shared by all micro-batches.
    const { freeShardings } = describeRuntime(runtime);
    const repeats = freeShardings ? microBatches : this.#models.job.globalBatch;
    const shape = `${runtime}/${tensor}/${microBatch}/${sequenceParallel}/${context}/${expertTensor}`;
    const place = `${context > 1 ? contextExchange : ""}/${expert}`;
    const key = `${shape}/${repeats}/${place}`;
    if (!this.#chains.has(key)) {
      this.#chains.set(key, await this.#solve(configuration, runtime, repeats, shape, place));
    }
    return this.#chains.get(key);
  }

  async #solve(
    configuration: Configuration,
    runtime: Runtime,
    microBatches: number,
    shape: string,
    place: string,
  ): Promise<LayerChain | undefined> {
    const { job } = this.#models;
    const { tensor, microBatch, context } = configuration;
    const work = `${tensor}/${microBatch}/${context}`;
    const seconds: KnownSeconds = this.#seconds.get(work) ?? new Map();
    this.#seconds.set(work, seconds);
    const inputOf = layerInput(this.#model, this.#models, configuration, runtime, microBatches, seconds);
    const ends = describeRuntime(runtime).freeShardings ? [1, job.globalBatch] : [];
    const costs = new Map<string, LayerCost>();
    try {
      for (const layer of this.#model.layers) {
        const { block } = layer;
        if (costs.has(block)) continue;
        const operators = this.#operators.get(block) ?? this.#operatorsOf(layer);
        const known = this.#solved.get(`${block}/${shape}`) ?? new SolvedLayer();
        this.#solved.set(`${block}/${shape}`, known);
        costs.set(
          block,
          await known.cost(inputOf(operators), place, ends, (input, problem) =>
            this.#price(block, shape, input, problem),
          ),
        );
      }
    } catch (error) {
      if (!(error instanceof MpoptError) || error.code !== "E_INFEASIBLE") throw error;
      this.refusal = error;
      return undefined;
    }
    const key = [...costs.values()].map((cost) => this.#numberOf(cost)).join();
    let chain = this.#sameLayers.get(key);
    if (!chain) {
      chain = chainOf(this.#model, (layer) => costs.get(layer.block)!);
      this.#sameLayers.set(key, chain);
    }
    return chain;
  }

  #numberOf(cost: LayerCost): number {
    const number = this.#numbers.get(cost) ?? this.#numbers.size;
    this.#numbers.set(cost, number);
    return number;
  }

  /** One list for each block, so that what is known of its operators is found again. */
  #operatorsOf(layer: Layer): readonly Operator[] {
    const operators = this.#model.operators.slice(layer.operators.start, layer.operators.end);
    this.#operators.set(layer.block, operators);
    return operators;
  }

  /** A layer from shardings that are known, or solved. */
  async #price(
    block: string,
    shape: string,
    input: LayerProblemInput,
    problem: () => LayerProblem,
  ): Promise<LayerCost> {
    const { sequence, dtypes } = this.#models.job;
    // Chains of one search share a job; what is known from others need not.
    const key = `${shape}/${input.microBatches}/${sequence}/${JSON.stringify(dtypes)}`;
    const chosen = this.#known.get(this.#model, block, key);
    if (chosen) return priceChosen(input, chosen);
    const cost = await solveLayer(input, this.#signal, problem());
    const splits = cost.strategies.map((strategy) => strategy.split);
    this.#known.set(this.#model, block, key, splits);
    return cost;
  }
}
