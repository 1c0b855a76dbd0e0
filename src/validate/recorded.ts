import { readdirSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import {
  type Attempt,
  axisSize,
  documentHash,
  MpoptError,
  readDocument,
  readJson,
} from "../contracts/index.js";
import { habitsOf } from "../cost/memory.js";
import { configurationOf } from "../plan/estimate.js";
import { type LoadedInputs, loadInputs } from "../plan/sources.js";
import { type RunRecord, runRecords } from "./columns.js";
import { softwareOf } from "./kinds.js";
import type { RunInputs } from "./types.js";
import type { RecordedRuns } from "./validate.js";

/**
 * Reads what launches recorded: `mpopt.run/1` files, and those in folders. Each attempt with a step time is a run; it is
 * predicted with its own plan, model and cluster.
 * @throws MpoptError E_FILE for what cannot be read and a folder without records, as `readDocument` for a file that is
 *   none.
 */
export function recordedRuns(paths: readonly string[]): RecordedRuns {
  const result: RecordedRuns = { where: paths.join(", "), records: [], runs: [], unpredicted: [] };
  const inputs = new Map<string, LoadedInputs>();
  const ids = new Set<string>();
  for (const path of paths.flatMap(recordsAt)) {
    const { attempts } = readDocument("run", path);
    for (const [i, attempt] of attempts.entries()) {
      if (attempt.medianStepSeconds === null) continue;
      const id = uniqueId(attempt, basename(path, ".json"), attempts.length > 1 ? i + 1 : undefined, ids);
      const { plan } = attempt;
      const key = [plan.model.source, plan.model.sha256, plan.cluster.source, plan.cluster.sha256].join("\n");
      const loaded = inputs.get(key) ?? loadInputs(plan);
      inputs.set(key, loaded);
      result.records.push(rowOf(attempt, id, path));
      const { model, cluster, remarks } = loaded;
      if (model && cluster) result.runs.push(inputsOf(attempt, id, model, cluster));
      else result.unpredicted.push({ id, reason: remarks[0]!.replace(/[:;] give --\w+\.$|\.$/, "") });
    }
  }
  if (result.records.length > 0) return result;
  throw new MpoptError("E_FILE", `Expected runs with a step time in ${result.where} but found none.`, [
    "`mpopt launch` writes one a launch, PLAN.run.json.",
  ]);
}

/** Whether a path is a folder, or a file that is no table. */
export function isRecorded(path: string): boolean {
  return !path.endsWith(".csv") && (path.endsWith(".json") || isFolder(path));
}

function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}

function recordsAt(path: string): string[] {
  if (!isFolder(path)) return [path];
  const files = readdirSync(path)
    .filter((name) => name.endsWith(".json"))
    .sort()
    .map((name) => join(path, name));
  // Plans and clusters may lie beside them.
  return files.filter((file) => {
    const { schema } = (readJson(file) ?? {}) as { schema?: unknown };
    return typeof schema === "string" && schema.startsWith("mpopt.run/");
  });
}

/** `CLUSTER-FILE`: the cluster is the group that scores are taken over. */
function uniqueId({ plan }: Attempt, file: string, attempt: number | undefined, taken: Set<string>): string {
  const name = `${plan.cluster.name}-${file.replaceAll("-", "_")}${attempt === undefined ? "" : `.${attempt}`}`;
  let id = name;
  for (let i = 2; taken.has(id); i++) id = `${name}~${i}`;
  taken.add(id);
  return id;
}

/** The attempt as a row of a table, for the scorer. */
function rowOf(
  { plan, planSha256, medianStepSeconds, memory }: Attempt,
  id: string,
  where: string,
): RunRecord {
  const { model, cluster, batch, optimizer, schedule, job } = plan;
  const { tensor, pipeline, data, context, expert, sequenceParallel, recompute } = configurationOf(plan);
  const peaks = memory.flatMap(({ measuredBytes }) => (measuredBytes === null ? [] : [measuredBytes]));
  const values = {
    ...{ id, model: model.name, layers: model.blockLayers, seq: batch.sequence },
    // Models that are no transformers have no such numbers; the scorer asks only that there are any.
    ...{ hidden: model.architecture?.hidden ?? "none", heads: model.architecture?.heads ?? "none" },
    ...{ gpu: cluster.deviceKind, n_gpus: plan.rankTable.length, gpus_per_node: cluster.devicesPerNode },
    ...{ tp: tensor, pp: pipeline, dp: data, cp: context, ep: expert, sp: Number(sequenceParallel) },
    ...{ vp: plan.stages.length / axisSize(plan, "pipeline"), zero: optimizer.zero, recompute },
    ...{ micro_batch: batch.micro, global_batch: batch.global },
    // Plans that differ in anything are different plans.
    notes: `schedule=${schedule.name} ${planSha256.slice(0, 12)}`,
    step_time_s: medianStepSeconds ?? "",
    memory_GiB: peaks.length > 0 ? Math.max(...peaks) / 2 ** 30 : "",
    choice_group: documentHash([model.sha256, cluster.sha256, { ...job, pins: {}, runtime: "", limits: {} }]),
  };
  const row = Object.fromEntries(Object.entries(values).map(([name, value]) => [name, String(value)]));
  return runRecords({ where, columns: Object.keys(row), rows: [{ line: 1, values: row }] })[0]!;
}

function inputsOf(
  { plan }: Attempt,
  id: string,
  model: NonNullable<LoadedInputs["model"]>,
  cluster: NonNullable<LoadedInputs["cluster"]>,
): RunInputs {
  const { devices, devicesPerNode, deviceKind, deviceType, name } = plan.cluster;
  const onCpu = deviceType === "cpu";
  return {
    ...{ id, prefix: name, kind: name, model, job: plan.job, habits: habitsOf(plan.job.runtime) },
    // What a launch calls memory: see `Attempt.memory`.
    software: { ...softwareOf(""), memory: onCpu ? "device" : "allocated" },
    hardware: { part: onCpu ? "cpu" : deviceKind },
    ...{ clusterReference: plan.cluster.source, devicesPerNode, nodes: devices / devicesPerNode },
    configuration: configurationOf(plan),
    recomputeStated: true,
    schedule: { name: plan.schedule.name, chunks: plan.stages.length / axisSize(plan, "pipeline") },
    boundaries: [...plan.stages.map(({ layers }) => layers.start), plan.model.blockLayers],
    planned: { plan, cluster },
  };
}
