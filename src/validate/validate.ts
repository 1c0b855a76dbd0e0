import { basename } from "node:path";
import { type Cluster, MpoptError, type RunOptions } from "../contracts/index.js";
import { clustersOfKinds, presetTemplate } from "./clusters.js";
import { type RunRecord, runRecords } from "./columns.js";
import type { CsvTable } from "./csv.js";
import { calibrate, calibratedTemplates } from "./fit.js";
import { PredictionCache, predictAll } from "./predict.js";
import { runInputs } from "./row.js";
import { type Score, score } from "./score.js";
import { scoreable } from "./scoreable.js";
import type { Calibration, MeasuredRun, Prediction, RunInputs, TemplateOf, Unpredicted } from "./types.js";

/** Runs of a file: those that can be predicted, and why the others cannot. */
export interface ReadRuns {
  records: RunRecord[];
  runs: RunInputs[];
  unpredicted: Unpredicted[];
}

/** Runs that launches recorded; see `recordedRuns`. */
export interface RecordedRuns extends ReadRuns {
  /** The file or the folder. */
  where: string;
}

export type RunSource = CsvTable | RecordedRuns;

/** The runs of a table or of records. @throws MpoptError as `readRuns`. */
export function runsOf(source: RunSource): ReadRuns {
  return "rows" in source ? readRuns(source) : source;
}

/** Reads the runs of a table. @throws MpoptError E_FIELD as `runRecords` and `runInputs`. */
export function readRuns(table: CsvTable): ReadRuns {
  const records = runRecords(table);
  const result: ReadRuns = { records, runs: [], unpredicted: [] };
  for (const { id, fields } of records) {
    const run = runInputs(fields);
    if (typeof run === "string") result.unpredicted.push({ id, reason: run });
    else result.runs.push(run);
  }
  return result;
}

/** Runs that something was measured of, for a fit. */
export function measuredRuns({ records, runs }: ReadRuns): MeasuredRun[] {
  const byId = new Map(records.map((record) => [record.id, record]));
  return runs.flatMap((run) => {
    const record = byId.get(run.id)!;
    const { stepSeconds, memoryGiB, ran } = scoreable(record);
    if (ran === undefined) return [];
    const { choiceGroup } = record.measured;
    return [{ run, stepSeconds, memoryGiB, outOfMemory: !ran, choiceGroup }];
  });
}

export interface ValidateOptions extends RunOptions {
  /** Measured runs that a calibration is fitted to before anything is predicted. */
  calibrateWith?: RunSource;
  /** Clusters by their kind, from an earlier calibration; other kinds take the presets. A fit begins there. */
  templates?: ReadonlyMap<string, Cluster>;
}

export interface Validation {
  /** In the order of the file. */
  predictions: Prediction[];
  /** In the order of the file. */
  unpredicted: Unpredicted[];
  score: Score;
  /** Kinds of predicted runs that no calibration covers: they take presets, and what their GPUs showed elsewhere. */
  uncalibrated: string[];
  calibration?: Calibration;
  /** Whether the file holds any measured figure to score against. */
  measured: boolean;
}

/**
 * Predicts every run and scores the predictions against what was measured.
 * @throws MpoptError E_FIELD for fields that cannot be read, E_USAGE for a calibration without a single measured run,
 *   E_CANCELLED.
 */
export async function validateRuns(source: RunSource, options: ValidateOptions = {}): Promise<Validation> {
  const { signal, onProgress } = options;
  const read = runsOf(source);
  const cache = new PredictionCache();
  const known: TemplateOf = (run) => options.templates?.get(run.kind) ?? presetTemplate(run);
  let templateOf = known;
  let calibration: Calibration | undefined;
  if (options.calibrateWith) {
    const name = basename(options.calibrateWith.where);
    const few = measuredRuns(runsOf(options.calibrateWith));
    if (few.length === 0) {
      throw new MpoptError(
        "E_USAGE",
        `Expected measured runs to calibrate with in ${options.calibrateWith.where} but found none that can be predicted.`,
        ["A measured run gives step_time_s or memory_GiB beside model, GPUs and plan."],
      );
    }
    calibration = await calibrate(few, { templateOf: known, cache, source: name, signal, onProgress });
    templateOf = calibratedTemplates(calibration, known);
  }
  const uncalibrated = new Set<string>();
  const clusterOf = clustersOfKinds((run) => {
    const covered = options.templates?.has(run.kind) || calibration?.kinds[run.kind] !== undefined;
    if (!covered && (options.templates || calibration)) uncalibrated.add(run.kind);
    return templateOf(run);
  });
  const { predictions, unpredicted } = await predictAll(read.runs, clusterOf, cache, { signal, onProgress });
  const order = new Map(read.records.map(({ id }, i) => [id, i]));
  const inOrder = (a: { id: string }, b: { id: string }) => order.get(a.id)! - order.get(b.id)!;
  return {
    predictions,
    unpredicted: [...read.unpredicted, ...unpredicted].sort(inOrder),
    score: score(read.records, predictions),
    uncalibrated: [...uncalibrated],
    ...(calibration ? { calibration } : {}),
    measured: read.records.some((record) => scoreable(record).ran !== undefined),
  };
}
