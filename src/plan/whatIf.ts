import { withDevices, withLinkSpeed, withPart } from "../cluster/index.js";
import { axisSize, type Cluster, MpoptError, type Plan } from "../contracts/index.js";
import { configurationOf } from "./estimate.js";
import { createPlan, type PlanOptions } from "./index.js";

/** One thing that is different, as the command line names it. */
export type WhatIfChange =
  | { kind: "gpus"; devices: number }
  | { kind: "batch"; globalBatch: number }
  | { kind: "sequence"; sequence: number }
  /** Links of a level so many times as fast; of the outermost one where it is not named. */
  | { kind: "link"; factor: number; level?: string }
  /** Devices of another part: `PART` or `PART:GPUS`, as `withPart` takes it. */
  | { kind: "gpu"; part: string };

/** What a choice of the plan was, and what it is. */
export interface ChoiceChange {
  field: string;
  before: string;
  after: string;
}

/** The best plan under one change. */
export interface WhatIf {
  change: WhatIfChange;
  /** `128 GPUs`, `network x2`. */
  name: string;
  /** Absent where nothing fits. */
  plan?: Plan;
  /** What the plan chose otherwise than the base. */
  choices: ChoiceChange[];
  /** Why there is no plan. */
  reason?: string;
}

/**
 * Plans again under each change by itself, with the whole search: nothing is scaled from the base plan.
 * @param options those of the base plan.
 * @throws MpoptError as `createPlan`, save E_INFEASIBLE, which is an answer; E_USAGE for a change that the cluster does
 *   not allow.
 */
export async function planWhatIf(
  base: Plan,
  changes: readonly WhatIfChange[],
  options: PlanOptions,
): Promise<WhatIf[]> {
  // All refusals come before the first search.
  const changed = changes.map((change) => ({ change, inputs: changedInputs(options, change) }));
  const result: WhatIf[] = [];
  for (const { change, inputs } of changed) {
    const name = changeName(change, options.cluster);
    options.onProgress?.({ message: name, fraction: result.length / changed.length });
    try {
      const plan = await createPlan({ ...inputs, plain: true, onProgress: undefined });
      result.push({ change, name, plan, choices: choiceChanges(base, plan) });
    } catch (error) {
      if (!(error instanceof MpoptError) || error.code !== "E_INFEASIBLE") throw error;
      result.push({ change, name, choices: [], reason: error.message });
    }
  }
  return result;
}

function changedInputs(options: PlanOptions, change: WhatIfChange): PlanOptions {
  const { cluster, job } = options;
  switch (change.kind) {
    case "gpus":
      return { ...options, cluster: withDevices(cluster, change.devices) };
    case "batch":
      return { ...options, job: { ...job, globalBatch: change.globalBatch } };
    case "sequence":
      return { ...options, job: { ...job, sequence: change.sequence } };
    case "link":
      return { ...options, cluster: withLinkSpeed(cluster, change.factor, change.level) };
    case "gpu": {
      // A price given for the base's devices is not that of others.
      const { dollarsPerHour: _given, ...rest } = options;
      return { ...rest, cluster: withPart(cluster, change.part) };
    }
  }
}

/** A change in words. */
export function changeName(change: WhatIfChange, cluster: Cluster): string {
  switch (change.kind) {
    case "gpus":
      return `${change.devices} device${change.devices === 1 ? "" : "s"}`;
    case "batch":
      return `batch ${change.globalBatch}`;
    case "sequence":
      return `sequence ${change.sequence}`;
    case "link":
      return `${change.level ?? cluster.topology.levels.at(-1)!.name} x${change.factor}`;
    case "gpu":
      return change.part;
  }
}

/** Choices that name a plan, each as a person reads it. */
const choices: readonly [string, (plan: Plan) => string][] = [
  ["tensor", (plan) => `${axisSize(plan, "tensor")}`],
  ["context", (plan) => `${axisSize(plan, "context")}`],
  ["pipeline", (plan) => `${axisSize(plan, "pipeline")}`],
  ["data", (plan) => `${axisSize(plan, "data")}`],
  ["expert", (plan) => `${configurationOf(plan).expert}`],
  ["expert tensor", (plan) => `${configurationOf(plan).expertTensor}`],
  ["micro-batch", (plan) => `${plan.batch.micro}`],
  ["sequence parallel", (plan) => (plan.mesh.sequenceParallel ? "on" : "off")],
  ["ZeRO", (plan) => `${plan.optimizer.zero}`],
  ["shards", (plan) => `${plan.optimizer.shards ?? "all"}`],
  ["recompute", (plan) => `${plan.stages[0]!.recompute}`],
  ["layers recomputed", (plan) => `${configurationOf(plan).recomputeLayers}`],
  ["offload", (plan) => plan.optimizer.offload ?? "none"],
  ["schedule", (plan) => plan.schedule.name],
  ["stages", (plan) => `${plan.stages.length}`],
];

/** The choices in which two plans differ. */
export function choiceChanges(base: Plan, plan: Plan): ChoiceChange[] {
  const experts = (each: Plan) => each.mesh.experts !== undefined;
  return choices.flatMap(([field, read]) => {
    // Experts that are split like all layers follow the tensor degree.
    if (field === "expert tensor" && !experts(base) && !experts(plan)) return [];
    const [before, after] = [read(base), read(plan)];
    return before === after ? [] : [{ field, before, after }];
  });
}

/**
 * Reads `gpus=64,128`, `batch=...`, `sequence=...`, `link=x0.5,node:x2` or `gpu=b200,gb200:4`.
 * @throws MpoptError E_USAGE.
 */
export function parseWhatIf(text: string): WhatIfChange[] {
  const at = text.indexOf("=");
  const kind = text.slice(0, Math.max(0, at));
  const values = text.slice(at + 1).split(",");
  const refuse = (expected: string, found: string) =>
    new MpoptError("E_USAGE", `Expected ${expected} for --what-if but found "${found}".`);
  const whole = (value: string) => {
    const number = Number(value);
    if (!/^\d+$/.test(value) || number < 1) throw refuse(`whole numbers after ${kind}=`, value);
    return number;
  };
  switch (kind) {
    case "gpus":
      return values.map((value) => ({ kind, devices: whole(value) }));
    case "batch":
      return values.map((value) => ({ kind, globalBatch: whole(value) }));
    case "sequence":
      return values.map((value) => ({ kind, sequence: whole(value) }));
    case "link":
      return values.map((value) => {
        const match = /^(?:([\w-]+):)?x?(\d+(?:\.\d+)?)$/.exec(value);
        const factor = Number(match?.[2]);
        if (!match || !(factor > 0)) throw refuse("x2, or LEVEL:x2, after link=", value);
        return { kind, factor, ...(match[1] && { level: match[1] }) };
      });
    case "gpu":
      return values.map((value) => {
        if (value === "") throw refuse("parts after gpu=", value);
        return { kind, part: value };
      });
    default:
      throw refuse("gpus=, batch=, sequence=, link= or gpu= with values", text);
  }
}
