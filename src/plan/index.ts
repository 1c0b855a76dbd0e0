import {
  type Cluster,
  cancellable,
  checkValue,
  documentHash,
  type Job,
  jobSchema,
  type Model,
  MpoptError,
  version as ownVersion,
  type Plan,
} from "../contracts/index.js";
import { checkWorkload } from "../models/workload.js";
import { describeConfiguration } from "../search/candidates.js";
import { type SearchOptions, searchPlan } from "../search/joint.js";
import { type AnnotateOptions, annotatePlan } from "./annotate.js";
import {
  assembleEstimate,
  assembleOperators,
  assembleStages,
  describeInputs,
  meshAxes,
  rankTable,
} from "./assemble.js";
import { checkPlan } from "./check.js";

export { checkPlan, type Violation } from "./check.js";
export { estimatePlan } from "./estimate.js";

export interface PlanOptions extends SearchOptions, Omit<AnnotateOptions, "signal"> {
  model: Model;
  cluster: Cluster;
  /** A job; what is left out takes the defaults of `mpopt.job/1`. */
  job: Omit<Partial<Job>, "schema"> & Pick<Job, "globalBatch" | "sequence">;
  seed?: number;
  /** Written into the plan's provenance; the version of mpopt where it is omitted. */
  version?: string;
  /** Launcher → what it cannot express, asked once the plan stands. */
  lossyFor?: (plan: Plan) => Record<string, string[]>;
}

/**
 * The best plan for a model on a cluster, with its proof, checked before it is returned.
 * @throws MpoptError E_FIELD for a job that does not fit its contract, E_INFEASIBLE, E_CANCELLED,
 *   E_PLAN_INVALID if the plan breaks an invariant (a defect of mpopt).
 */
export async function createPlan(options: PlanOptions): Promise<Plan> {
  return cancellable(options.signal, "The search was stopped.", () => searchAndAssemble(options));
}

async function searchAndAssemble(options: PlanOptions): Promise<Plan> {
  const { model, cluster, seed = 0, version = ownVersion } = options;
  const job = checkValue(jobSchema, { schema: "mpopt.job/1", ...options.job }, "job");
  checkWorkload(model, { batch: 1, sequence: job.sequence });
  const result = await searchPlan(model, cluster, job, options);
  const { configuration, costs, boundaries, chain, schedule } = result;
  const { tensor, context, contextExchange, expert, expertTensor, sequenceParallel } = configuration;
  const { zero, shards, offload, data } = configuration;
  const mesh: Plan["mesh"] = {
    ...meshAxes(configuration),
    sequenceParallel,
    ...(context > 1 ? { contextExchange } : {}),
    ...(expert > 1 || expertTensor !== tensor ? { experts: { expert, tensor: expertTensor } } : {}),
  };
  const plan: Plan = {
    schema: "mpopt.plan/1",
    name: `${model.name} on ${cluster.name}`,
    ...describeInputs(model, cluster, job),
    mesh,
    rankTable: rankTable(mesh.sizes),
    stages: assembleStages(model, costs, boundaries),
    operators: assembleOperators(model, chain),
    schedule: {
      name: schedule.name,
      microBatches: configuration.microBatches,
      ...(schedule.actions ? { actions: schedule.actions } : {}),
    },
    batch: { global: job.globalBatch, micro: configuration.microBatch, sequence: job.sequence },
    optimizer: {
      name: job.optimizer,
      zero,
      ...(zero > 0 && shards !== data * context ? { shards } : {}),
      ...(offload === "none" ? {} : { offload }),
    },
    estimate: assembleEstimate(model, result.models, costs, boundaries, schedule.prepared),
    certificate: result.certificate,
    rejected: result.rejected,
    provenance: {
      mpopt: version,
      createdAt: new Date().toISOString(),
      seed,
      job: documentHash(job),
    },
    lossyFor: {},
  };
  if (options.lossyFor) plan.lossyFor = options.lossyFor(plan);
  const violations = checkPlan(plan, { model, cluster });
  if (violations.length > 0) {
    throw new MpoptError(
      "E_PLAN_INVALID",
      `Expected the plan (${describeConfiguration(configuration)}) to hold its invariants but found: ${violations[0]!.message}`,
      violations.slice(1).map((each) => each.message),
    );
  }
  return await annotatePlan(plan, model, cluster, options);
}
