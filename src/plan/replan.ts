import { deviceCount, devicesPerNode, withDevices } from "../cluster/index.js";
import {
  type Cluster,
  type Job,
  type Model,
  MpoptError,
  type Plan,
  type RunOptions,
} from "../contracts/index.js";
import { createPlan, type PlanOptions } from "./index.js";

export interface ReplanOptions extends RunOptions, Pick<PlanOptions, "seed" | "version" | "lossyFor"> {
  /** What the plan was made from. */
  model: Model;
  /** The whole cluster, of which `devices` are left. */
  cluster: Cluster;
  devices: number;
}

export interface Replanned {
  plan: Plan;
  /** Pinned degrees that no plan for the devices that are left could keep. */
  released: (keyof Job["pins"])[];
}

/** Pins that multiply to a number of devices. */
const degreePins = ["data", "tensor", "pipeline", "context", "expert", "expertTensor", "shards"] as const;
/** Plans for fewer devices than all that are left: where their number does not divide the work, fewer are faster. */
const mostAlternatives = 4;

/**
 * The best plan of the same job for the devices that are left, in whole nodes where there are several. Not all of them
 * need be used: the fastest plan counts. Pinned degrees are kept where any plan keeps them.
 * @throws MpoptError E_USAGE where so many devices are not left of the cluster, E_INFEASIBLE where nothing fits,
 *   E_CANCELLED.
 */
export async function replan(plan: Plan, options: ReplanOptions): Promise<Replanned> {
  const { cluster, devices } = options;
  const all = deviceCount(cluster);
  if (devices < 1 || devices > all) {
    throw new MpoptError(
      "E_USAGE",
      `Expected 1 to ${all} devices of ${cluster.name} to plan for but found ${devices}.`,
    );
  }
  const perNode = devicesPerNode(cluster);
  const unit = devices > perNode ? perNode : 1;
  const counts = countsToTry(Math.floor(devices / unit)).map((count) => count * unit);
  const first = await bestOf(plan.job, counts, options);
  if (first.plan) return { plan: first.plan, released: [] };
  const released = degreePins.filter((pin) => plan.job.pins[pin] !== undefined);
  if (released.length === 0) throw first.error;
  const pins = Object.fromEntries(
    Object.entries(plan.job.pins).filter(([pin]) => !released.some((each) => each === pin)),
  );
  const second = await bestOf({ ...plan.job, pins }, counts, options);
  if (second.plan) return { plan: second.plan, released };
  throw second.error;
}

/** The count itself, then smaller ones with small factors, which divide batches and layers more easily. */
export function countsToTry(count: number): number[] {
  const others = Array.from({ length: count }, (_, i) => count - 1 - i).filter(
    (each) => each > 0 && hasSmallFactors(each),
  );
  return [count, ...others];
}

function hasSmallFactors(count: number): boolean {
  let left = count;
  for (const factor of [2, 3]) while (left % factor === 0) left /= factor;
  return left === 1;
}

/** The fastest plan over the first counts, and where none of those fits, the first that does. */
async function bestOf(
  job: Plan["job"],
  counts: readonly number[],
  { model, cluster, seed, version, lossyFor, signal, onProgress }: ReplanOptions,
): Promise<{ plan: Plan } | { plan?: undefined; error: MpoptError }> {
  let best: Plan | undefined;
  let refusal: MpoptError | undefined;
  for (const [i, devices] of counts.entries()) {
    if (best && i > mostAlternatives) break;
    signal?.throwIfAborted();
    onProgress?.({ message: `planning for ${devices} devices`, fraction: i / counts.length });
    try {
      const found = await createPlan({
        ...{ model, cluster: withDevices(cluster, devices), job, seed, version, lossyFor, signal },
        plain: true,
      });
      if (!best || found.estimate.stepSeconds < best.estimate.stepSeconds) best = found;
    } catch (error) {
      if (!(error instanceof MpoptError) || !["E_INFEASIBLE", "E_USAGE"].includes(error.code)) throw error;
      refusal ??= error;
    }
  }
  return best ? { plan: best } : { error: refusal! };
}
