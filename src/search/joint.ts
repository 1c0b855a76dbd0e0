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
import type { Candidate, Rejected } from "./candidate.js";
import { CandidatePool } from "./candidatePool.js";
import type { Configuration, CostModels, LayerChain } from "./configuration.js";
import { LayerChains } from "./layerChains.js";
import { searchFlush } from "./oneForwardOneBackward.js";
import type { PreparedSchedule } from "./preparedSchedule.js";
import {
  alternativesShown,
  fitsNowhere,
  flushAlternatives,
  misfits,
  scheduleAlternatives,
} from "./rejections.js";
import { openSchedules, scheduleChoices } from "./scheduleChoices.js";
import { schedulesSearched, searchSchedules } from "./scheduleSearch.js";
import { Space } from "./space.js";
import type { StageCosts } from "./stageCosts.js";

/** Candidates that are priced for the sake of alternatives alone. */
const alternativesPriced = 64;

/** The best configuration, its stages and schedule, and what the search knows about the others. */
export interface SearchResult {
  configuration: Configuration;
  chain: LayerChain;
  /** With the schedule's layout. */
  costs: StageCosts;
  models: CostModels;
  boundaries: number[];
  schedule: {
    name: string;
    /** Where the name does not say them. */
    actions?: string[];
    /** Absent where the step is priced in closed form. */
    prepared?: PreparedSchedule;
  };
  certificate: Certificate;
  rejected: Rejected[];
}

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

/** What searches share whose jobs differ in limits alone: priced layers do not depend on them. */
export interface SharedCosts {
  models: CostModels;
  chains: LayerChains;
}

/** Costs for one search, or for several under different limits. @throws MpoptError as `costModels`. */
export function sharedCosts(model: Model, cluster: Cluster, job: Job, signal?: AbortSignal): SharedCosts {
  const models = costModels(cluster, job);
  return { models, chains: new LayerChains(model, models, signal) };
}

export interface SearchOptions extends RunOptions {
  /** Of searches for the same model, cluster and job, limits apart. */
  costs?: SharedCosts;
}

/**
 * Searches data, tensor and pipeline degrees, micro-batch, recomputation, ZeRO, sequence parallelism and pipeline
 * schedule, with stages and shardings for each. Where 1F1B alone is open, stages are exact and the answer is proven by
 * `searchFlush`; otherwise `searchSchedules` finds it, with a bound over all schedules and cuts.
 *
 * A time limit ends the search early with the best answer so far.
 * @throws MpoptError E_INFEASIBLE naming the tightest constraint, E_USAGE for a pinned schedule that the runtime does
 * not execute, E_CANCELLED.
 */
export async function searchPlan(
  model: Model,
  cluster: Cluster,
  job: Job,
  options: SearchOptions = {},
): Promise<SearchResult> {
  const started = performance.now();
  const elapsed = () => (performance.now() - started) / 1000;
  const names = openSchedules(job);
  const { chains, models: shared } = options.costs ?? sharedCosts(model, cluster, job, options.signal);
  const models = { ...shared, job, memory: new MemoryModel(cluster, referenceDevice(cluster), job) };
  const blockLayers = model.layers.filter((layer) => layer.kind === "block").length;
  const space = new Space(model, cluster, job);
  const shapes = space.degrees().flatMap((each) => space.shapes(each));
  if (shapes.length === 0) throw nothingDivides(job);
  if (!shapes.some((each) => scheduleChoices(job, names, each, blockLayers).length > 0)) {
    throw noSchedule(job, names);
  }
  const pool = new CandidatePool(model, space, models, chains);
  await pool.prepare(shapes, options);
  if (pool.shapes.length === 0) throw chains.refusal ?? nothingDivides(job);

  const result =
    names.join() === "1f1b"
      ? await provenFlush(pool, job, elapsed, options)
      : await bestSchedule(pool, names, models, elapsed, options);
  if (!result) throw fitsNowhere(pool.tried());
  const { candidate, bound, objective, ...found } = result;
  return {
    configuration: candidate.configuration,
    chain: candidate.chain,
    models,
    ...found,
    certificate: {
      status: bound >= objective * (1 - 1e-12) ? "optimal" : "feasible",
      objective,
      bound,
      gap: (objective - bound) / objective,
      seconds: elapsed(),
      space: spaceSearched(job, names, space),
      candidates: pool.configurations,
    },
  };
}

type Found = Pick<SearchResult, "costs" | "boundaries" | "schedule" | "rejected"> & {
  candidate: Candidate;
  objective: number;
  bound: number;
};

async function provenFlush(
  pool: CandidatePool,
  job: Job,
  elapsed: () => number,
  options: RunOptions,
): Promise<Found | undefined> {
  const found = await searchFlush(pool, job, elapsed, options);
  if (!found) return undefined;
  const { candidate, objective } = found;
  const candidates = alternativesOf(pool, candidate);
  return {
    ...found,
    costs: candidate.costs,
    schedule: { name: "1f1b" },
    rejected: [...flushAlternatives(candidates, candidate, objective), ...misfits(candidates, objective)],
  };
}

/** Candidates that were priced, and more of them where few were: others are shown beside the best. */
function alternativesOf(pool: CandidatePool, chosen: Candidate): Candidate[] {
  const divisions = new Set<string>();
  const count = ({ configuration: { tensor, context, pipeline } }: Candidate) =>
    divisions.add(`${tensor}/${context}/${pipeline}`);
  for (const each of pool.priced) count(each);
  for (let i = 0; i < alternativesPriced && divisions.size <= alternativesShown; i++) {
    const next = pool.next();
    if (!next) break;
    count(next);
  }
  return [...new Set([chosen, ...pool.priced])].sort((a, b) => a.lowerBound - b.lowerBound);
}

async function bestSchedule(
  pool: CandidatePool,
  names: readonly string[],
  models: CostModels,
  elapsed: () => number,
  options: RunOptions,
): Promise<Found | undefined> {
  const found = await searchSchedules(pool, names, models, elapsed, options);
  if (!found) return undefined;
  const { best, bound, visited } = found;
  const { candidate, name, actions, schedule: prepared, costs, boundaries, seconds } = best;
  return {
    candidate,
    objective: seconds,
    bound,
    costs,
    boundaries,
    schedule: { name, prepared, ...(actions ? { actions } : {}) },
    rejected: [...scheduleAlternatives(visited, best), ...misfits(pool.tried(), seconds)],
  };
}

function spaceSearched(job: Job, names: readonly string[], space: Space): string {
  const pins = Object.entries(job.pins)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name}=${value}`);
  return [
    "every division of all devices into data, tensor (inside the fast links) and pipeline degrees",
    names.join() === "1f1b"
      ? "contiguous stages with any number of layers, 1F1B"
      : `contiguous stages with any number of layers, ${schedulesSearched(names, job)}`,
    "every micro-batch that divides the batch, up to 64 sequences",
    ...space.describe(),
    job.runtime === "any"
      ? "shardings of each distinct layer: the fastest of all splits of named dimensions, and the fastest that every launcher executes"
      : `shardings of each distinct layer: those that runtime ${job.runtime} executes`,
    ...(pins.length > 0 ? [`pinned: ${pins.join(", ")}`] : []),
  ].join("; ");
}

function nothingDivides(job: Job): MpoptError {
  return new MpoptError(
    "E_INFEASIBLE",
    `Expected a micro-batch that divides the global batch ${job.globalBatch} under the pins but found none.`,
    ["Remove a pin, or change the global batch."],
  );
}

function noSchedule(job: Job, names: readonly string[]): MpoptError {
  const { chunks, pipeline } = job.pins;
  const pinned = [
    ...(chunks === undefined ? [] : [`${chunks} chunks a rank`]),
    ...(pipeline === undefined ? [] : [`${pipeline} pipeline ranks`]),
  ];
  return new MpoptError(
    "E_INFEASIBLE",
    `Expected a schedule among ${names.join(", ")}${pinned.length > 0 ? ` for ${pinned.join(" and ")}` : ""} that the devices, layers and micro-batches allow but found none.`,
    ["Remove a pin, or choose another runtime."],
  );
}
