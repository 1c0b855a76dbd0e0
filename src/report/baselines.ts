import type { Baseline, Plan } from "../contracts/index.js";
import { formatBytes, formatPercent } from "./format.js";

/** Rules of thumb beside a plan: see `plan/baselines.ts` for what each one says exactly. */

const titles: Readonly<Record<Baseline["rule"], string>> = {
  sc21: "Narayanan et al., SC'21",
  "smallest-degree": "Smallest degree that fits",
  "node-tensor": "Korthikanti et al., NeMo",
};

const meanings: Readonly<Record<Baseline["rule"], string>> = {
  sc21: "tensor parallelism up to the node, then pipeline until it fits; full recomputation",
  "smallest-degree":
    "smallest tensor × pipeline product that fits, ZeRO-1; micro-batch and recomputation by search",
  "node-tensor":
    "tensor and sequence parallelism over the node, selective recomputation, pipeline until it fits, ZeRO-1",
};

export interface BaselineFact {
  title: string;
  meaning: string;
  /** Empty where the rule gives none. */
  plan: string;
  stepSeconds?: number;
  memoryBytes?: number;
  /** Step time of the rule over the plan's, minus 1: how much faster the plan is. */
  gain?: number;
  /** `mpopt's plan is 12.3 % faster`, or why the rule has no plan. */
  verdict: string;
}

/** The baselines of a plan as a person reads them; empty where the plan has none. */
export function baselineFacts(plan: Plan): BaselineFact[] {
  return (plan.baselines ?? []).map((baseline) => {
    const { rule, plan: words = "", stepSeconds, memoryBytes, reason } = baseline;
    const gain = stepSeconds === undefined ? undefined : stepSeconds / plan.estimate.stepSeconds - 1;
    return {
      title: titles[rule],
      meaning: meanings[rule],
      plan: words,
      ...(stepSeconds !== undefined && { stepSeconds }),
      ...(memoryBytes !== undefined && { memoryBytes }),
      ...(gain !== undefined && { gain }),
      verdict: gain === undefined ? refusal(reason, memoryBytes) : comparison(gain),
    };
  });
}

function comparison(gain: number): string {
  if (Math.abs(gain) < 5e-4) return "mpopt's plan takes as long";
  return gain > 0
    ? `mpopt's plan is ${formatPercent(gain)} faster`
    : `mpopt's plan is ${formatPercent(-gain)} slower, held by pins or the runtime`;
}

function refusal(reason = "no plan", memoryBytes: number | undefined): string {
  return memoryBytes === undefined ? reason : `${reason}: ${formatBytes(memoryBytes)} at the last`;
}
