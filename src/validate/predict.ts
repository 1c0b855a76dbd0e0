import { referenceDevice } from "../cluster/index.js";
import {
  type Cluster,
  type Estimate,
  type Model,
  MpoptError,
  type Plan,
  type RunOptions,
} from "../contracts/index.js";
import { MemoryModel } from "../cost/memory.js";
import { assembleEstimate } from "../plan/assemble.js";
import { estimatePlan, preparedScheduleOf } from "../plan/estimate.js";
import type { CostModels } from "../search/configuration.js";
import type { Holdings } from "../search/holdings.js";
import { costModels } from "../search/joint.js";
import { KnownShardings } from "../search/knownShardings.js";
import { LayerChains } from "../search/layerChains.js";
import { PreparedSchedule } from "../search/preparedSchedule.js";
import { makeSchedule } from "../search/scheduleChoices.js";
import { StageCosts } from "../search/stageCosts.js";
import { templateOfSized } from "./clusters.js";
import type { Software } from "./kinds.js";
import type { ClusterOf, Prediction, RunInputs, Unpredicted } from "./types.js";

/** A schedule of one stage a rank, all of which hold as many micro-batches as they may. */
class FilledSchedule extends PreparedSchedule {
  readonly #held: number;

  constructor(schedule: PreparedSchedule, held: number) {
    super(schedule.table);
    this.#held = Math.min(held, schedule.table.microBatches);
  }

  override get holdings(): Holdings {
    const own = super.holdings;
    return { ...own, ofRank: own.ofRank.map(() => [Int32Array.of(this.#held, 0)]) };
  }
}

/** What does not depend on a cluster's figures: kept between passes over the same runs. */
export class PredictionCache {
  readonly shardings = new KnownShardings();
  readonly #schedules = new Map<string, PreparedSchedule | undefined>();
  readonly #ofPlans = new Map<Plan, PreparedSchedule | undefined>();

  /** The schedule of a launched plan, undefined where its step is priced in closed form. */
  scheduleOfPlan(plan: Plan): PreparedSchedule | undefined {
    if (!this.#ofPlans.has(plan)) this.#ofPlans.set(plan, preparedScheduleOf(plan));
    return this.#ofPlans.get(plan);
  }

  /** The schedule of a run, undefined where it does not exist for its counts. */
  schedule({ schedule, configuration }: RunInputs): PreparedSchedule | undefined {
    const { pipeline, microBatches } = configuration;
    const { name, chunks, held } = schedule;
    const key = `${name}/${chunks}/${held}/${pipeline}/${microBatches}`;
    if (!this.#schedules.has(key)) {
      const made = makeSchedule(schedule, pipeline, microBatches);
      this.#schedules.set(key, made && held !== undefined ? new FilledSchedule(made, held) : made);
    }
    return this.#schedules.get(key);
  }
}

export interface Predictions {
  predictions: Prediction[];
  unpredicted: Unpredicted[];
}

/** Layers that were priced in one pass over runs. */
class PricedLayers {
  readonly #shardings: KnownShardings;
  readonly #chains = new Map<Cluster, Map<Model, Map<string, LayerChains>>>();

  constructor(shardings: KnownShardings) {
    this.#shardings = shardings;
  }

  /** @param key what the layers depend on beside cluster, model and configuration. */
  of(run: RunInputs, models: CostModels, key: string): LayerChains {
    const { tensor, context, expert } = run.configuration;
    // What stays inside a node costs the same in a cluster of any size.
    const inside = context === 1 && expert === 1 && run.devicesPerNode % tensor === 0;
    const { cluster } = models;
    const ofCluster = entry(this.#chains, inside ? templateOfSized(cluster) : cluster, () => new Map());
    const ofModel = entry(ofCluster, run.model, () => new Map());
    return entry(ofModel, key, () => new LayerChains(run.model, models, undefined, this.#shardings));
  }
}

function entry<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  const known = map.get(key);
  if (known !== undefined) return known;
  const made = make();
  map.set(key, made);
  return made;
}

/** What the runs on one cluster share: the models of its cost. */
class PricedCluster {
  readonly #cluster: Cluster;
  readonly #cache: PredictionCache;
  readonly #layers: PricedLayers;
  readonly #models = new Map<string, CostModels>();

  constructor(cluster: Cluster, cache: PredictionCache, layers: PricedLayers) {
    this.#cluster = cluster;
    this.#cache = cache;
    this.#layers = layers;
  }

  /** The run's prediction, or why there is none, as a clause. */
  async predict(run: RunInputs): Promise<Prediction | string> {
    const estimate = await this.#estimate(run);
    if (typeof estimate === "string") return estimate;
    const prediction = predictionOf(run, estimate);
    if (prediction.feasible || run.recomputeStated) return prediction;
    const least = await this.#estimate({
      ...run,
      configuration: { ...run.configuration, recompute: "full" },
    });
    return { ...prediction, feasible: typeof least !== "string" && fits(least) };
  }

  async #estimate(run: RunInputs): Promise<Estimate | string> {
    if (run.planned) return this.#estimateOfPlan(run.planned.plan, run.model);
    const { model, job, habits, configuration, boundaries } = run;
    // Layers depend on sequence, types and experts alone; the batch is the configuration's.
    const types = `${job.runtime}/${Object.values(job.dtypes).join()}/${habits.keeps}`;
    const key = `${job.sequence}/${job.expertDispatch}/${job.expertCapacity}/${types}`;
    const shared = entry(this.#models, key, () => ({
      ...costModels(this.#cluster, { ...job, globalBatch: 1 }),
      memory: new MemoryModel(this.#cluster, referenceDevice(this.#cluster), job, habits),
    }));
    const chains = this.#layers.of(run, shared, key);
    const chain = await chains.chain(configuration);
    if (!chain) return `its layers cannot be divided so: ${chains.refusal?.message}`;
    const models = { ...shared, job };
    if (run.schedule.name === "1f1b") {
      return assembleEstimate(model, models, new StageCosts(configuration, chain, models), boundaries);
    }
    const schedule = this.#cache.schedule(run);
    if (!schedule) {
      const { name, chunks } = run.schedule;
      return `schedule ${name} with ${chunks} chunks does not exist for ${configuration.pipeline} ranks and ${configuration.microBatches} micro-batches`;
    }
    const costs = new StageCosts(configuration, chain, models, schedule.layout);
    return assembleEstimate(model, models, costs, boundaries, schedule);
  }

  /** The plan's own shardings, as `mpopt estimate` prices them. */
  #estimateOfPlan(plan: Plan, model: Model): Estimate | string {
    try {
      return estimatePlan(plan, model, this.#cluster, this.#cache.scheduleOfPlan(plan));
    } catch (error) {
      if (error instanceof MpoptError && error.code === "E_PLAN_INVALID") return error.message;
      throw error;
    }
  }
}

/**
 * Predicts step time, memory and feasibility of runs through the cost path of `plan`: shardings of their layers, stage
 * costs, then the closed form of 1F1B or the simulator.
 * @param cache keeps what other figures of the same clusters do not change.
 * @throws MpoptError E_CANCELLED, and what a cluster without a needed figure throws.
 */
export async function predictAll(
  runs: readonly RunInputs[],
  clusterOf: ClusterOf,
  cache: PredictionCache = new PredictionCache(),
  options: RunOptions = {},
): Promise<Predictions> {
  const priced = new Map<Cluster, PricedCluster>();
  const layers = new PricedLayers(cache.shardings);
  const result: Predictions = { predictions: [], unpredicted: [] };
  for (const [i, run] of runs.entries()) {
    options.signal?.throwIfAborted();
    const cluster = clusterOf(run);
    if (typeof cluster === "string") {
      result.unpredicted.push({ id: run.id, reason: cluster });
      continue;
    }
    const on = entry(priced, cluster, () => new PricedCluster(cluster, cache, layers));
    const prediction = await on.predict(run);
    if (typeof prediction === "string") result.unpredicted.push({ id: run.id, reason: prediction });
    else result.predictions.push(prediction);
    if (i % 64 === 63) {
      if (i % 256 === 255) {
        options.onProgress?.({ message: "predicting runs", fraction: (i + 1) / runs.length });
      }
      // Lets an interrupt through.
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
  return result;
}

function fits({ memory }: Estimate): boolean {
  return memory.every((entry) => entry.reservedBytes <= entry.limitBytes);
}

function predictionOf(run: RunInputs, estimate: Estimate): Prediction {
  const { stepSeconds, terms, memory } = estimate;
  if (!(stepSeconds > 0) || !Number.isFinite(stepSeconds)) {
    throw new MpoptError(
      "E_PLAN_INVALID",
      `Expected a positive step time for ${run.id} but found ${stepSeconds}.`,
    );
  }
  const bytes = memory.map((entry) => shownBytes(run.software.memory, entry));
  return {
    id: run.id,
    stepSeconds,
    memoryGiB: Math.max(...bytes) / run.software.memoryUnit,
    feasible: fits(estimate),
    terms,
  };
}

/** Bytes of a device in the source's own sense. */
function shownBytes(
  sense: Software["memory"],
  { allocatedBytes, reservedBytes, terms }: Estimate["memory"][number],
): number {
  switch (sense) {
    case "allocated":
      return allocatedBytes - terms.context;
    case "reserved":
      return reservedBytes - terms.context;
    case "device":
      return reservedBytes;
  }
}
