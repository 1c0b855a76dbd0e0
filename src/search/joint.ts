import { mixture, referenceDevice } from "../cluster/index.js";
import {
  type Certificate,
  type Cluster,
  type Job,
  type Model,
  MpoptError,
  type RunOptions,
} from "../contracts/index.js";
import { CommunicationModel } from "../cost/communication.js";
import { ComputeModel } from "../cost/compute.js";
import { MemoryModel } from "../cost/memory.js";
import { describeConfiguration, enumerateConfigurations, enumerateDegrees } from "./candidates.js";
import type { Configuration, CostModels, LayerChain } from "./configuration.js";
import { LayerChains } from "./layerChains.js";
import { StageCosts } from "./stageCosts.js";
import { cutStages, leastMaximum, type StageProblem } from "./stages.js";

/** The best configuration, its stages, and what the search knows about the others. */
export interface SearchResult {
  configuration: Configuration;
  chain: LayerChain;
  costs: StageCosts;
  models: CostModels;
  boundaries: number[];
  certificate: Certificate;
  rejected: { plan: string; reason: string; stepSeconds?: number; memoryBytes?: number }[];
}

interface Candidate {
  configuration: Configuration;
  chain: LayerChain;
  costs: StageCosts;
  lowerBound: number;
  /** Set where the candidate was the best one when it was visited. */
  objective?: number;
}

const alternativesShown = 6;
const misfitsShown = 4;
/** Variants of one division of the devices that are tried until one fits. */
const variantsTried = 6;

/**
 * The cost models of a cluster and a job.
 * @throws MpoptError E_INFEASIBLE where the cluster is not of equal hosts of one device kind.
 */
export function costModels(cluster: Cluster, job: Job): CostModels {
  const found = mixture(cluster);
  if (found) {
    throw new MpoptError(
      "E_INFEASIBLE",
      `Expected equal hosts of one device kind for a whole plan (\`mpopt solve MODEL --format model\` assigns stages on any cluster) but found ${found}.`,
    );
  }
  const device = referenceDevice(cluster);
  return {
    cluster,
    job,
    compute: new ComputeModel(device),
    communication: new CommunicationModel(cluster),
    memory: new MemoryModel(cluster, device, job),
  };
}

/** What `cutStages` asks, answered from stage costs. */
export function stageProblem(costs: StageCosts): StageProblem {
  const { pipeline, microBatches } = costs.configuration;
  return {
    layers: costs.layerCount,
    stages: pipeline,
    microBatches,
    leastSeconds: costs.wholeModel().seconds * (1 - 1e-12),
    seconds: (stage, start, end) => costs.passSeconds(stage, start, end),
    stepSeconds: (stage, start, end) => {
      const { gradientSynchronisation, optimizer } = costs.onceSeconds(stage, start, end);
      return gradientSynchronisation + optimizer;
    },
    fits: (stage, start, end) => costs.reservedBytes(stage, start, end) <= costs.limitBytes,
  };
}

/**
 * Searches data, tensor and pipeline degrees, micro-batch, recomputation, ZeRO and sequence parallelism, with
 * the best stages and shardings for each. Candidates are visited in the order of a lower bound on their step
 * time; the search ends when no bound is below the best answer, which proves it.
 *
 * A time limit ends the search early with the best answer so far and the least bound that is left.
 * @throws MpoptError E_INFEASIBLE naming the tightest constraint, E_CANCELLED.
 */
export async function searchPlan(
  model: Model,
  cluster: Cluster,
  job: Job,
  options: RunOptions = {},
): Promise<SearchResult> {
  const started = performance.now();
  const elapsed = () => (performance.now() - started) / 1000;
  const models = costModels(cluster, job);
  const blockLayers = model.layers.filter((layer) => layer.kind === "block").length;
  const degrees = enumerateDegrees(cluster, job, blockLayers);
  const configurations = degrees.flatMap((each) => enumerateConfigurations(job, each));
  if (configurations.length === 0) throw nothingDivides(job);
  const chains = new LayerChains(model, models, options.signal);
  const candidates: Candidate[] = [];
  for (const [i, configuration] of configurations.entries()) {
    options.signal?.throwIfAborted();
    const chain = await chains.chain(configuration);
    if (!chain) continue;
    const costs = new StageCosts(configuration, chain, models);
    candidates.push({ configuration, chain, costs, lowerBound: lowerBound(costs) });
    if (i % 256 === 0) {
      options.onProgress?.({
        message: `pricing configurations`,
        fraction: (0.7 * i) / configurations.length,
      });
    }
  }
  if (candidates.length === 0) throw chains.refusal ?? nothingDivides(job);
  candidates.sort((a, b) => a.lowerBound - b.lowerBound);

  let best: { candidate: Candidate; boundaries: number[]; objective: number } | undefined;
  let visited = 0;
  let complete = true;
  for (const candidate of candidates) {
    options.signal?.throwIfAborted();
    if (best && candidate.lowerBound >= best.objective) break;
    if (elapsed() > job.limits.searchSeconds && best) {
      complete = false;
      break;
    }
    visited++;
    const cut = cutStages(stageProblem(candidate.costs), best?.objective);
    if (cut) {
      candidate.objective = cut.objective;
      best = { candidate, boundaries: cut.boundaries, objective: cut.objective };
      options.onProgress?.({
        message: `${cut.objective.toPrecision(4)} s a step: ${describeConfiguration(candidate.configuration)}`,
        fraction: 0.7 + (0.3 * visited) / candidates.length,
      });
    }
    if (visited % 16 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  if (!best) throw fitsNowhere(candidates);
  const bound = complete ? best.objective : Math.min(best.objective, candidates[visited]!.lowerBound);
  const { configuration, chain, costs } = best.candidate;
  return {
    configuration,
    chain,
    costs,
    models,
    boundaries: best.boundaries,
    certificate: {
      status: complete ? "optimal" : "feasible",
      objective: best.objective,
      bound,
      gap: (best.objective - bound) / best.objective,
      seconds: elapsed(),
      space: spaceSearched(job),
      candidates: configurations.length,
    },
    rejected: [...alternatives(candidates, best.candidate), ...misfits(candidates, best.objective)],
  };
}

/** No cut of the candidate's layers takes less than this: see `cutStages` for the objective. */
function lowerBound(costs: StageCosts): number {
  const { pipeline, microBatches } = costs.configuration;
  const whole = costs.wholeModel();
  const sum = whole.seconds;
  const largest = Math.max(sum / pipeline, whole.largestLayerSeconds);
  return sum + (microBatches - 1) * largest + whole.leastOptimizerSeconds;
}

function spaceSearched(job: Job): string {
  const pins = Object.entries(job.pins)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name}=${value}`);
  return [
    "every division of all devices into data, tensor (inside the fast links) and pipeline degrees",
    "contiguous stages with any number of layers, 1F1B",
    "every micro-batch that divides the batch, up to 64 sequences",
    "sequence parallelism on or off, ZeRO 0 or 1, recomputation none, selective or full (one for all stages)",
    job.runtime === "any"
      ? "shardings of each distinct layer: all splits of named dimensions"
      : `shardings of each distinct layer: those that runtime ${job.runtime} executes`,
    ...(pins.length > 0 ? [`pinned: ${pins.join(", ")}`] : []),
  ].join("; ");
}

/** The best plan of the chosen degrees' next variant, and of other degrees. */
function alternatives(candidates: readonly Candidate[], chosen: Candidate): SearchResult["rejected"] {
  const key = ({ configuration: c }: Candidate) => `${c.tensor}/${c.pipeline}/${c.data}`;
  const variants = new Map<string, Candidate[]>();
  for (const candidate of candidates) {
    const list = variants.get(key(candidate)) ?? [];
    if (candidate !== chosen && list.length < variantsTried) list.push(candidate);
    variants.set(key(candidate), list);
  }
  const priced: { plan: string; reason: string; stepSeconds: number }[] = [];
  for (const list of [...variants.values()].slice(0, 3 * alternativesShown)) {
    for (const candidate of list) {
      const worst =
        priced.length < alternativesShown ? undefined : priced[alternativesShown - 1]!.stepSeconds;
      if (worst !== undefined && candidate.lowerBound >= worst) break;
      const cut = cutStages(stageProblem(candidate.costs), worst);
      if (!cut) continue;
      priced.push({
        plan: describeConfiguration(candidate.configuration),
        reason: `slower by ${((cut.objective / chosen.objective! - 1) * 100).toFixed(1)} %`,
        stepSeconds: cut.objective,
      });
      priced.sort((a, b) => a.stepSeconds - b.stepSeconds);
      break;
    }
  }
  return priced.slice(0, alternativesShown);
}

/** Candidates that might have been faster, had they fitted: those that miss by the least. */
function misfits(candidates: readonly Candidate[], objective: number): SearchResult["rejected"] {
  const faster = candidates.filter((candidate) => candidate.lowerBound < objective);
  const hopeful = faster
    .map((candidate) => ({ candidate, least: candidate.costs.wholeModel().leastStageBytes }))
    .sort((a, b) => a.least - b.least)
    .slice(0, 4 * misfitsShown);
  const missed = hopeful
    .map(({ candidate }) => ({ candidate, needed: leastMemory(candidate.costs) }))
    .filter(({ candidate, needed }) => needed > candidate.costs.limitBytes)
    .sort((a, b) => a.needed - b.needed);
  return missed.slice(0, misfitsShown).map(({ candidate, needed }) => ({
    plan: describeConfiguration(candidate.configuration),
    reason: `does not fit: ${gib(needed)} needed on the fullest device, ${gib(candidate.costs.limitBytes)} allowed`,
    memoryBytes: needed,
  }));
}

/** Least memory of the fullest device over all cuts, bytes. */
function leastMemory(costs: StageCosts): number {
  return leastMaximum(costs.layerCount, costs.configuration.pipeline, (stage, start, end) =>
    costs.reservedBytes(stage, start, end),
  );
}

function gib(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}

function fitsNowhere(candidates: readonly Candidate[]): MpoptError {
  let closest = candidates[0]!;
  let needed = Number.POSITIVE_INFINITY;
  for (const candidate of candidates) {
    const optimistic = candidate.costs.wholeModel().leastStageBytes;
    if (optimistic >= needed) continue;
    const memory = leastMemory(candidate.costs);
    if (memory < needed) {
      needed = memory;
      closest = candidate;
    }
  }
  return new MpoptError(
    "E_INFEASIBLE",
    `Expected a plan within ${gib(closest.costs.limitBytes)} a device but the smallest one found needs ${gib(needed)}.`,
    [
      `Smallest: ${describeConfiguration(closest.configuration)}.`,
      "The tightest constraint is device memory: use more devices, devices with more memory, or shorter sequences.",
    ],
  );
}

function nothingDivides(job: Job): MpoptError {
  return new MpoptError(
    "E_INFEASIBLE",
    `Expected a micro-batch that divides the global batch ${job.globalBatch} under the pins but found none.`,
    ["Remove a pin, or change the global batch."],
  );
}
