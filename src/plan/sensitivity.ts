import { withDeviceSpeed, withHostSpeed, withLinkSpeed } from "../cluster/index.js";
import {
  type Cluster,
  type Estimate,
  type Model,
  MpoptError,
  type Plan,
  type Quantity,
  type Sensitivity,
} from "../contracts/index.js";
import type { PreparedSchedule } from "../search/preparedSchedule.js";
import { estimatePlan, preparedScheduleOf } from "./estimate.js";

/** One thing changed: the plan, or the cluster that it is priced on. */
interface Change {
  change: string;
  plan?: Plan;
  cluster?: Cluster;
  ideal?: boolean;
}

/** Gains below this share of the tokens per second are not worth a line. */
const leastGain = 1e-3;

/**
 * What would make the same placement faster: it is priced again with one thing changed at a time, by the functions
 * that priced it. Memory is not asked: a change that needs more says what memory would be worth.
 * @returns those that gain, the largest gain in tokens per second first.
 */
export function planSensitivity(plan: Plan, model: Model, cluster: Cluster): Sensitivity[] {
  const result: Sensitivity[] = [];
  const schedule = preparedScheduleOf(plan);
  for (const { change, plan: other = plan, cluster: on = cluster, ideal } of changes(plan, cluster)) {
    const own = other.schedule === plan.schedule ? schedule : undefined;
    const estimate = priced(other, model, on, own);
    if (!estimate || estimate.tokensPerSecond < plan.estimate.tokensPerSecond * (1 + leastGain)) continue;
    const { stepSeconds, tokensPerSecond } = estimate;
    result.push({
      change,
      relieves: relieved(plan.estimate, estimate),
      ...(ideal && { ideal }),
      stepSeconds,
      tokensPerSecond,
    });
  }
  return result.sort((a, b) => b.tokensPerSecond - a.tokensPerSecond);
}

function priced(
  plan: Plan,
  model: Model,
  cluster: Cluster,
  schedule: PreparedSchedule | undefined,
): Estimate | undefined {
  try {
    return estimatePlan(plan, model, cluster, schedule);
  } catch (error) {
    // Not every schedule exists for every number of micro-batches.
    if (error instanceof MpoptError && ["E_PLAN_INVALID", "E_USAGE"].includes(error.code)) return undefined;
    throw error;
  }
}

/** Terms that take less time a token than before, the largest saving first. */
function relieved(before: Estimate, after: Estimate): string[] {
  const tokens = (estimate: Estimate) => estimate.tokensPerSecond * estimate.stepSeconds;
  const scale = tokens(before) / tokens(after);
  return Object.entries(before.terms)
    .map(([term, seconds]) => ({
      term,
      saved: seconds - after.terms[term as keyof Estimate["terms"]] * scale,
    }))
    .filter(({ saved }) => saved > (leastGain / 10) * before.stepSeconds)
    .sort((a, b) => b.saved - a.saved)
    .map(({ term }) => term);
}

function changes(plan: Plan, cluster: Cluster): Change[] {
  const devices = plan.cluster.devices;
  return [
    ...(devices > 1 ? linkChanges(cluster) : []),
    {
      change: "matrix products and attention twice as fast",
      cluster: withDeviceSpeed(cluster, 2, ["gemm", "attention"]),
    },
    { change: "device memory twice as fast", cluster: withDeviceSpeed(cluster, 2, ["memory"]) },
    ...overlapChanges(cluster),
    ...hostChanges(plan, cluster),
    ...narrowChange(plan, cluster),
    ...batchChange(plan),
    ...recomputeChange(plan),
  ];
}

function linkChanges(cluster: Cluster): Change[] {
  const { levels } = cluster.topology;
  return levels.map(({ name }, i) => ({
    change:
      levels.length > 1 && i === levels.length - 1 && name === "network"
        ? "a network twice as fast"
        : `links inside the ${name} twice as fast`,
    cluster: withLinkSpeed(cluster, 2, name),
  }));
}

function overlapChanges(cluster: Cluster): Change[] {
  const all: Quantity = { value: 1, provenance: "assumed", source: "all of it hidden" };
  const { overlap } = cluster;
  const kinds: [keyof Cluster["overlap"], string][] = [
    ["gradientReduction", "gradient reduction wholly beside the last backward"],
    ["pipelineTransfer", "pipeline transfers wholly beside compute"],
    ["tensor", "tensor-parallel communication wholly beside compute"],
    ["contextExchange", "context exchange wholly beside compute"],
    ["expertExchange", "expert exchange wholly beside compute"],
    ["parameterGather", "parameter gathering wholly beside compute"],
  ];
  return kinds.flatMap(([kind, change]) =>
    (overlap[kind]?.value ?? 0) < 1
      ? [{ change, ideal: true, cluster: { ...cluster, overlap: { ...overlap, [kind]: all } } }]
      : [],
  );
}

/** A faster host, where the plan waits for it. */
function hostChanges({ estimate, optimizer }: Plan, cluster: Cluster): Change[] {
  return [
    ...(optimizer.offload !== undefined
      ? [{ change: "links to host memory twice as fast", cluster: withHostSpeed(cluster, 2, "links") }]
      : []),
    ...(estimate.terms.host > 0
      ? [{ change: "calls of the framework in half the time", cluster: withHostSpeed(cluster, 2, "calls") }]
      : []),
  ];
}

/** Products of linear layers in fp8, where the devices have them and the plan does not. */
function narrowChange(plan: Plan, cluster: Cluster): Change[] {
  const { dtypes } = plan.job;
  const able = cluster.devices.every((device) => device.peakFlopsPerSecond.fp8);
  if (!able || dtypes.linear !== undefined || !["bf16", "f16"].includes(dtypes.parameters)) return [];
  const job = { ...plan.job, dtypes: { ...dtypes, linear: "fp8" as const } };
  return [{ change: "products of linear layers in fp8", plan: { ...plan, job } }];
}

/** Twice the micro-batches: what comes once a step, and what fills and drains the pipeline, counts half. */
function batchChange(plan: Plan): Change[] {
  if (plan.schedule.actions) return [];
  const global = 2 * plan.batch.global;
  const doubled: Plan = {
    ...plan,
    job: { ...plan.job, globalBatch: global },
    batch: { ...plan.batch, global },
    schedule: { ...plan.schedule, microBatches: 2 * plan.schedule.microBatches },
  };
  return [{ change: "twice the global batch", plan: doubled }];
}

function recomputeChange(plan: Plan): Change[] {
  const repeats = plan.stages.some((stage) => stage.recompute !== "none" || (stage.recomputeLayers ?? 0) > 0);
  if (!repeats) return [];
  const stages = plan.stages.map(({ recomputeLayers: _layers, ...stage }) => ({
    ...stage,
    recompute: "none" as const,
  }));
  return [{ change: "memory for all activations, nothing recomputed", plan: { ...plan, stages } }];
}
