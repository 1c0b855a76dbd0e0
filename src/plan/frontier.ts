import { deviceCount, referenceDevice, withDevices } from "../cluster/index.js";
import { type Cluster, checkValue, jobSchema, MpoptError, type Plan } from "../contracts/index.js";
import { sharedCosts } from "../search/joint.js";
import { fullestBytes } from "./baselines.js";
import { createPlan, type PlanOptions } from "./index.js";
import { moneyOf } from "./money.js";

/** A plan that no other one found is better than in step time, memory, devices and money at once. */
export interface FrontierPoint {
  plan: Plan;
  devices: number;
  /** What the search allowed a device to hold, and what the plan's fullest one reserves. */
  limitBytes: number;
  memoryBytes: number;
  stepSeconds: number;
  /** Of one step; absent where devices have no price. */
  dollarsPerStep?: number;
}

export interface FrontierOptions extends PlanOptions {
  /** Device counts to plan for; the cluster's own unless given. */
  devices?: readonly number[];
  /** Plans found already, so that they need not be searched again: those of a whole cluster under the job's limit. */
  known?: readonly Plan[];
}

/** Between two limits of one device count: each is this share of what the plan before it holds. */
const limitStep = 0.85;

/**
 * The Pareto frontier of step time, memory a device, devices and money, as in TensorOpt (Cai et al., TPDS 2022): for
 * each number of devices the memory limit goes down from the job's to where nothing fits, each time to 85 % of what the
 * last plan holds, and each limit has its own search, with its own certificate. Plans that another one beats are left
 * out.
 *
 * Each search has the job's time limit; its certificate speaks of its own limit and devices.
 * @returns by devices, then from the fastest to the smallest.
 * @throws MpoptError E_INFEASIBLE where nothing fits any number of devices; as `withDevices` and `createPlan` otherwise.
 */
export async function planFrontier(options: FrontierOptions): Promise<FrontierPoint[]> {
  const { cluster, devices = [deviceCount(cluster)], known = [], ...rest } = options;
  const points: FrontierPoint[] = [];
  let refusal: MpoptError | undefined;
  for (const count of [...new Set(devices)].sort((a, b) => a - b)) {
    const on = withDevices(cluster, count);
    const first = known.find((plan) => plan.cluster.name === on.name);
    try {
      points.push(...(await limitSweep({ ...rest, cluster: on, plain: true }, first)));
    } catch (error) {
      if (!(error instanceof MpoptError) || error.code !== "E_INFEASIBLE") throw error;
      refusal = error;
    }
  }
  if (points.length === 0 && refusal) throw refusal;
  return nonDominated(points);
}

/** Plans of one cluster under ever lower memory limits. */
async function limitSweep(options: PlanOptions, first: Plan | undefined): Promise<FrontierPoint[]> {
  const { model, cluster, signal } = options;
  const job = checkValue(jobSchema, { schema: "mpopt.job/1", ...options.job }, "job");
  // Layers are priced once for all limits.
  const costs = sharedCosts(model, cluster, job, signal);
  const capacity = referenceDevice(cluster).memoryBytes.value;
  const points: FrontierPoint[] = [];
  let { memoryFraction } = job.limits;
  for (;;) {
    const limits = { ...job.limits, memoryFraction };
    options.onProgress?.({
      message: `${deviceCount(cluster)} devices, at most ${(memoryFraction * 100).toFixed(0)} % of their memory`,
    });
    let plan: Plan;
    try {
      plan =
        points.length === 0 && first
          ? first
          : await createPlan({ ...options, costs, job: { ...job, limits }, onProgress: undefined });
    } catch (error) {
      if (points.length > 0 && error instanceof MpoptError && error.code === "E_INFEASIBLE") return points;
      throw error;
    }
    const point = pointOf(plan, cluster);
    points.push(point);
    memoryFraction = (limitStep * point.memoryBytes) / capacity;
  }
}

function pointOf(plan: Plan, cluster: Cluster): FrontierPoint {
  const money = moneyOf(plan);
  return {
    plan,
    devices: deviceCount(cluster),
    limitBytes: plan.estimate.memory[0]!.limitBytes,
    memoryBytes: fullestBytes(plan.estimate),
    stepSeconds: plan.estimate.stepSeconds,
    ...(money && { dollarsPerStep: money.perStep }),
  };
}

/** What is better the smaller it is. Sums of the same seconds in another order count as equal. */
const objectives = ["stepSeconds", "memoryBytes", "devices", "dollarsPerStep"] as const;
const rounding = 1e-9;

/** The points that no other one is at least as good as in everything and better in something; one of equal ones. */
export function nonDominated<T extends Pick<FrontierPoint, (typeof objectives)[number]>>(
  points: readonly T[],
): T[] {
  const value = (point: T, objective: (typeof objectives)[number]) => point[objective] ?? 0;
  const noWorse = (a: T, b: T) =>
    objectives.every((objective) => value(a, objective) <= value(b, objective) * (1 + rounding));
  return points.filter(
    (point, i) =>
      !points.some((other, j) => i !== j && noWorse(other, point) && (!noWorse(point, other) || j < i)),
  );
}
