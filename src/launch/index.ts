import { MpoptError, type Plan } from "../contracts/index.js";
import { accelerate } from "./accelerate.js";
import { deepspeed } from "./deepspeed.js";
import { type Exporter, type ExportResult, writeExport } from "./exporter.js";
import { jax } from "./jax.js";
import { kubernetesOver } from "./kubernetes.js";
import { megatron } from "./megatron.js";
import { megatronBridge } from "./megatronBridge.js";
import { slurmOver } from "./slurm.js";
import { torch } from "./torch.js";
import { torchtitan } from "./torchtitan.js";

export type { Elastic } from "./elastic.js";
export type { Exporter, ExportResult } from "./exporter.js";
export { findPython, type Python } from "./python.js";
export { type LaunchOptions, launch, type RunRecord } from "./run.js";
export { type StarterName, starterNames } from "./starters/index.js";
export { applyPlanPath } from "./torch.js";

/** Launchers that start the ranks of one node, by the name of the runtime that plans are searched for. */
const nodeExporters = {
  megatron,
  "megatron-bridge": megatronBridge,
  torch,
  deepspeed,
  accelerate,
  torchtitan,
  jax,
};

/** Every launcher that a plan can be written for, by the name that `--to` takes. */
export const exporters: Readonly<Record<string, Exporter>> = {
  ...nodeExporters,
  slurm: slurmOver(nodeExporters),
  kubernetes: kubernetesOver(nodeExporters),
};

/**
 * The exporter of a launcher.
 * @throws MpoptError E_USAGE for an unknown name.
 */
export function findExporter(target: string): Exporter {
  const exporter = Object.hasOwn(exporters, target) ? exporters[target] : undefined;
  if (exporter) return exporter;
  const known = Object.keys(exporters).join(", ");
  throw new MpoptError("E_USAGE", `Expected one of ${known} for the launcher but found "${target}".`);
}

/** Writes a plan in a launcher's form below `folder`; see `writeExport` for the errors. */
export function exportPlan(
  plan: Plan,
  target: string,
  folder: string,
  options: { allowLossy?: boolean } = {},
): ExportResult {
  return writeExport(findExporter(target), plan, folder, options);
}

/** Launcher → what it cannot express of the plan: the plan's `lossyFor`. */
export function lossyFor(plan: Plan): Record<string, string[]> {
  const lost = Object.values(exporters).map((exporter) => [exporter.name, exporter.lossy(plan)] as const);
  return Object.fromEntries(lost.filter(([, parts]) => parts.length > 0));
}
