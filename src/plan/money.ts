import type { Plan, Quantity } from "../contracts/index.js";

/** What a plan costs, dollars. */
export interface Money {
  perHour: number;
  /** One optimizer step. */
  perStep: number;
  perMillionTokens: number;
}

/** Money from devices, time and the price of a device; undefined where the price is not known. */
export function moneyOf({ cluster, estimate }: Pick<Plan, "cluster" | "estimate">): Money | undefined {
  if (!cluster.dollarsPerHour) return undefined;
  const perHour = cluster.devices * cluster.dollarsPerHour.value;
  const perSecond = perHour / 3600;
  return {
    perHour,
    perStep: perSecond * estimate.stepSeconds,
    perMillionTokens: (perSecond / estimate.tokensPerSecond) * 1e6,
  };
}

/** A price that the user gives, in place of the cluster's. */
export function givenPrice(dollarsPerHour: number): Quantity {
  return { value: dollarsPerHour, provenance: "assumed", source: "given for this plan" };
}
