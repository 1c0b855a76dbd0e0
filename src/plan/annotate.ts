import { referenceDevice } from "../cluster/index.js";
import type { Cluster, Model, Plan, RunOptions } from "../contracts/index.js";
import { megatronBaselines } from "./baselines.js";
import { givenPrice } from "./money.js";
import { planSensitivity } from "./sensitivity.js";

export interface AnnotateOptions extends Pick<RunOptions, "signal"> {
  /** Price of one device, in place of the cluster's. */
  dollarsPerHour?: number;
  /** Leave out what takes further estimates: baselines and sensitivities. */
  plain?: boolean;
}

/**
 * What stands beside a plan that was found: price and calibration of its cluster, what rules of thumb give for the same
 * job, and what would make it faster.
 */
export async function annotatePlan(
  plan: Plan,
  model: Model,
  cluster: Cluster,
  { dollarsPerHour, plain = false, signal }: AnnotateOptions = {},
): Promise<Plan> {
  const price =
    dollarsPerHour === undefined ? referenceDevice(cluster).dollarsPerHour : givenPrice(dollarsPerHour);
  const { calibration } = cluster;
  return {
    ...plan,
    cluster: {
      ...plan.cluster,
      ...(price && { dollarsPerHour: price }),
      ...(calibration && { calibration }),
    },
    ...(!plain && {
      baselines: await megatronBaselines(model, cluster, plan.job, { signal }),
      sensitivity: planSensitivity(plan, model, cluster),
    }),
  };
}
