import { deviceCount, devicesPerNode } from "../cluster/index.js";
import type { Baseline, Cluster, Estimate, Job, Model, Recompute, RunOptions } from "../contracts/index.js";
import { describeRuntime, scheduleRefusal } from "../runtimes/index.js";
import { describeConfiguration, divisors } from "../search/candidates.js";
import type { Configuration, CostModels } from "../search/configuration.js";
import { costModels } from "../search/joint.js";
import { LayerChains } from "../search/layerChains.js";
import { isClosedForm, makeSchedule, type ScheduleChoice } from "../search/scheduleChoices.js";
import { Space } from "../search/space.js";
import { StageCosts } from "../search/stageCosts.js";
import { assembleEstimate } from "./assemble.js";

/** Degrees that a rule tries, one after another, until a plan fits. */
interface Rung {
  tensor: number;
  pipeline: number;
}

/** A rule of thumb that users of Megatron-LM follow, as exactly as its source states it. */
interface Rule {
  name: Baseline["rule"];
  rungs(devices: number, node: number): Rung[];
  sequenceParallel: boolean;
  zero: 0 | 1;
  /** Tried with every micro-batch; the fastest that fits counts. */
  recompute: readonly Recompute[];
}

/**
 * - `sc21`: Narayanan et al., "Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM",
 *   SC'21. Takeaways 1 and 2 of section 3: tensor parallelism first, up to the GPUs of a node, then pipeline
 *   parallelism until the model fits, data parallelism for all other devices; takeaway 3: micro-batch by search. Full
 *   recomputation and a replicated optimizer, as in the paper's runs, and no sequence parallelism, which came later.
 * - `smallest-degree`: the smallest tensor x pipeline product that fits, the larger tensor degree (inside a node) of
 *   equal products first; data parallelism with a sharded optimizer (ZeRO-1) for all other devices. Micro-batch and
 *   recomputation by search.
 * - `node-tensor`: Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models", 2022, sections
 *   4.2 and 5, and the recipes of NeMo that follow it: tensor parallelism over the whole node with sequence
 *   parallelism, selective recomputation, pipeline parallelism until it fits, the distributed optimizer (ZeRO-1) over
 *   all other devices. Micro-batch by search.
 */
const rules: readonly Rule[] = [
  {
    name: "sc21",
    rungs: (devices, node) => [
      ...divisors(node).flatMap((tensor) => (devices % tensor === 0 ? [{ tensor, pipeline: 1 }] : [])),
      ...(devices % node === 0
        ? divisors(devices / node).flatMap((pipeline) => (pipeline > 1 ? [{ tensor: node, pipeline }] : []))
        : []),
    ],
    sequenceParallel: false,
    zero: 0,
    recompute: ["full"],
  },
  {
    name: "smallest-degree",
    rungs: (devices, node) =>
      divisors(devices).flatMap((product) =>
        divisors(node)
          .filter((tensor) => product % tensor === 0)
          .reverse()
          .map((tensor) => ({ tensor, pipeline: product / tensor })),
      ),
    sequenceParallel: true,
    zero: 1,
    recompute: ["none", "selective", "full"],
  },
  {
    name: "node-tensor",
    rungs: (devices, node) =>
      devices % node === 0 ? divisors(devices / node).map((pipeline) => ({ tensor: node, pipeline })) : [],
    sequenceParallel: true,
    zero: 1,
    recompute: ["selective"],
  },
];

/**
 * Boundaries of stages as Megatron-LM cuts them without a layout: as many layers in each; where they do not divide,
 * embedding and loss counted as a layer each (`--account-for-embedding-in-pipeline-split`,
 * `--account-for-loss-in-pipeline-split`); or else what is left in the last stage (`--decoder-last-pipeline-num-layers`).
 * @param chunks stages of each rank: the last way is for one.
 * @returns undefined where none divides.
 */
export function evenStages(blockLayers: number, ranks: number, chunks = 1): number[] | undefined {
  const stages = ranks * chunks;
  const cuts = (share: number, first: number) =>
    Array.from({ length: stages + 1 }, (_, i) =>
      i === 0 ? 0 : i === stages ? blockLayers : first + (i - 1) * share,
    );
  if (blockLayers % stages === 0) return cuts(blockLayers / stages, blockLayers / stages);
  const share = (blockLayers + 2) / stages;
  if (Number.isInteger(share) && share >= 1) return cuts(share, share - 1);
  const most = Math.ceil(blockLayers / stages);
  return chunks === 1 && most * (stages - 1) < blockLayers ? cuts(most, most) : undefined;
}

/** A way to run a rung, priced. */
interface Priced {
  configuration: Configuration;
  /** Stages of each rank. */
  chunks: number;
  stepSeconds: number;
  /** On the fullest device. */
  memoryBytes: number;
  fits: boolean;
  /** Parameters, gradients and optimizer state alone are too much: no micro-batch or recomputation helps. */
  hopeless: boolean;
}

/** Prices configurations with even stages by the functions that the search prices its own with. */
class Pricer {
  readonly #model: Model;
  readonly #models: CostModels;
  readonly #chains: LayerChains;
  readonly blockLayers: number;

  constructor(model: Model, models: CostModels, signal: AbortSignal | undefined) {
    this.#model = model;
    this.#models = models;
    this.#chains = new LayerChains(model, models, signal);
    this.blockLayers = model.layers.filter((layer) => layer.kind === "block").length;
  }

  /**
   * @param schedule what the simulator times; without one the pipeline is 1F1B in closed form.
   * @returns undefined where the layers cannot be divided so, or the schedule does not exist.
   */
  async price(configuration: Configuration, schedule?: ScheduleChoice): Promise<Priced | undefined> {
    const { pipeline, microBatches } = configuration;
    const boundaries = evenStages(this.blockLayers, pipeline, schedule?.chunks);
    if (!boundaries) return undefined;
    // Rules of thumb know the usual shardings alone.
    const { runtime } = this.#models.job;
    const chain = await this.#chains.chain(
      configuration,
      describeRuntime(runtime).freeShardings ? "portable" : runtime,
    );
    if (!chain) return undefined;
    const prepared = schedule && makeSchedule(schedule, pipeline, microBatches);
    if (schedule && !prepared) return undefined;
    const costs = new StageCosts(configuration, chain, this.#models, prepared?.layout);
    const estimate = assembleEstimate(this.#model, this.#models, costs, boundaries, prepared);
    const hopeless = estimate.memory.some(({ terms, limitBytes }) => {
      const { parameters, gradients, optimizer, context } = terms;
      return parameters + gradients + optimizer + context > limitBytes;
    });
    return {
      configuration,
      chunks: schedule?.chunks ?? 1,
      stepSeconds: estimate.stepSeconds,
      memoryBytes: fullestBytes(estimate),
      fits: estimate.memory.every((entry) => entry.reservedBytes <= entry.limitBytes),
      hopeless,
    };
  }
}

/** What the fullest device reserves. */
export function fullestBytes({ memory }: Pick<Estimate, "memory">): number {
  return memory.reduce((most, { reservedBytes }) => Math.max(most, reservedBytes), 0);
}

/** More chunks a rank than this are not tried: transfers grow with them. */
const mostChunks = 8;

/**
 * What a rule leaves open at its degrees: micro-batches, ascending. Experts are split like all layers under `sc21`,
 * which knows none; under the others they are shared by as many ranks as fit a node, each expert whole, as
 * Megatron-Core's guide to MoE asks (expert before tensor parallelism for experts, both inside the fast links). Where
 * the runtime has no expert parallelism they stay split.
 */
function shapesOf(space: Space, rule: Rule, rung: Rung, data: number, node: number): Configuration[] {
  const all = space.shapes({ ...rung, context: 1, data });
  const sequenceParallel = rule.sequenceParallel && all.some((shape) => shape.sequenceParallel);
  const open = all.filter((shape) => shape.sequenceParallel === sequenceParallel);
  const split = ({ expert, expertTensor }: Configuration) => expert === 1 && expertTensor === rung.tensor;
  const shared = open.filter((shape) => !split(shape) && shape.expert * shape.expertTensor <= node);
  if (rule.name === "sc21" || shared.length === 0) return open.filter(split);
  const width = Math.min(...shared.map(({ expertTensor }) => expertTensor));
  const whole = shared.filter(({ expertTensor }) => expertTensor === width);
  const most = Math.max(...whole.map(({ expert }) => expert));
  return whole.filter(({ expert }) => expert === most);
}

/** The best way to run one rung, or the smallest where none fits; undefined where the rung cannot be run at all. */
async function priceRung(pricer: Pricer, job: Job, rule: Rule, shapes: readonly Configuration[]) {
  let best: Priced | undefined;
  let smallest: Priced | undefined;
  for (const recompute of rule.recompute) {
    for (const shape of shapes) {
      const zero = shape.data > 1 ? rule.zero : 0;
      const shards = zero > 0 ? shape.data : 1;
      const found = await pricer.price({ ...shape, recompute, zero, shards });
      if (!found) break;
      if (!smallest || found.memoryBytes < smallest.memoryBytes) smallest = found;
      if (found.hopeless) return smallest;
      // Larger micro-batches need more.
      if (!found.fits) break;
      if (!best || found.stepSeconds < best.stepSeconds) best = found;
    }
  }
  return best ? await scheduled(pricer, job, best) : smallest;
}

/**
 * The same under the best schedule of Megatron-LM that the runtime executes: 1F1B, or interleaved stages (SC'21, section
 * 2.2.2). Priced as the job's own plan is: by the simulator where several schedules are open.
 */
async function scheduled(pricer: Pricer, job: Job, found: Priced): Promise<Priced> {
  if (isClosedForm(job, "1f1b")) return found;
  const { pipeline: ranks, microBatches, recompute } = found.configuration;
  let best = (await pricer.price(found.configuration, { name: "1f1b", chunks: 1 })) ?? found;
  if (ranks === 1 || !describeRuntime(job.runtime).schedules.includes("interleaved")) return best;
  for (let chunks = 2; chunks <= mostChunks; chunks++) {
    const counts = { ranks, chunks, microBatches, recompute };
    // Megatron-LM's condition, whatever the runtime: these are rules for its users.
    if (scheduleRefusal("megatron", "interleaved", counts) !== undefined) continue;
    const other = await pricer.price(found.configuration, { name: "interleaved", chunks });
    if (other?.fits && other.stepSeconds < best.stepSeconds) best = other;
  }
  return best;
}

/**
 * What three rules of thumb of Megatron-LM's users give for a job, priced by the cost model that prices mpopt's own
 * plan. Pinned choices do not bind them; the runtime, the batch and the memory limit do.
 * @throws MpoptError E_INFEASIBLE where the cluster is not of equal hosts of one device kind, E_CANCELLED.
 */
export async function megatronBaselines(
  model: Model,
  cluster: Cluster,
  job: Job,
  options: Pick<RunOptions, "signal"> = {},
): Promise<Baseline[]> {
  const pricer = new Pricer(model, costModels(cluster, job), options.signal);
  // Pins are mpopt's own business.
  const space = new Space(model, cluster, { ...job, pins: {} });
  const devices = deviceCount(cluster);
  const node = devicesPerNode(cluster);
  const result: Baseline[] = [];
  for (const rule of rules) {
    options.signal?.throwIfAborted();
    let last: Priced | undefined;
    for (const rung of rule.rungs(devices, node)) {
      const data = devices / rung.tensor / rung.pipeline;
      if (rung.pipeline > pricer.blockLayers || job.globalBatch % data !== 0) continue;
      const found = await priceRung(pricer, job, rule, shapesOf(space, rule, rung, data, node));
      if (!found) continue;
      last = found;
      if (found.fits) break;
    }
    result.push({ rule: rule.name, ...outcome(last) });
  }
  return result;
}

function outcome(found: Priced | undefined): Omit<Baseline, "rule"> {
  if (!found) {
    return { reason: "no degrees that it allows divide the layers, the heads and the batch" };
  }
  const { configuration, chunks, stepSeconds, memoryBytes, fits } = found;
  const interleaved = chunks > 1 ? `, ${chunks} interleaved chunks` : "";
  const plan = `${describeConfiguration(configuration)}${interleaved}`;
  if (fits) return { plan, stepSeconds, memoryBytes };
  return { plan, memoryBytes, reason: "does not fit with any degrees that it allows" };
}
