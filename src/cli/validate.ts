import { basename } from "node:path";
import { MpoptError } from "../contracts/index.js";
import { readClusters, writeClusters } from "../validate/clusterFiles.js";
import { readCsv } from "../validate/index.js";
import { isRecorded, recordedRuns } from "../validate/recorded.js";
import { renderCalibration, renderPredictions, renderScore, renderUnpredicted } from "../validate/tables.js";
import { type RunSource, runsOf, type Validation, validateRuns } from "../validate/validate.js";
import { type Context, defineCommand } from "./context.js";

interface Given {
  calibrate?: string[];
  clusters?: string;
  output?: string;
}

export const validateCommand = () =>
  defineCommand(
    "validate",
    "predict measured runs, compare, and fit clusters to them",
    "mpopt validate runs.csv --calibrate earlier.csv -o clusters",
    async (context, paths, given) => {
      const options = given as Given;
      if (options.output && !options.calibrate) {
        throw new MpoptError(
          "E_USAGE",
          "Expected --calibrate FEW.csv beside -o, which writes what it finds.",
        );
      }
      const runs = readSource(paths);
      const few = options.calibrate ? readSource(options.calibrate) : undefined;
      const validation = await validateRuns(runs, {
        ...(few ? { calibrateWith: few } : {}),
        ...(options.clusters ? { templates: readClusters(options.clusters) } : {}),
        signal: context.signal,
        onProgress: context.progress,
      });
      const { calibration } = validation;
      const written =
        options.output && calibration && few
          ? writeClusters(options.output, calibration, runsOf(few).runs, basename(few.where))
          : [];
      report(context, validation);
      for (const file of written) context.print(`Written to ${file}.`);
      context.result(documentOf(validation));
    },
  )
    .argument("<runs...>", "CSV of runs by column, or run records of mpopt launch: files and folders of them")
    .option(
      "--calibrate <few>",
      "measured runs that the clusters are fitted to first, in the same forms; may be repeated",
      (path: string, before: string[] = []) => [...before, path],
    )
    .option("--clusters <dir>", "folder of cluster files that an earlier calibration wrote")
    .option("-o, --output <dir>", "write the fitted clusters into this folder, one file a kind");

/** One table, or any number of records. @throws MpoptError E_USAGE for both together, and as their readers. */
function readSource(paths: readonly string[]): RunSource {
  if (paths.every(isRecorded)) return recordedRuns(paths);
  if (paths.length === 1) return readCsv(paths[0]!);
  throw new MpoptError(
    "E_USAGE",
    `Expected one CSV or any number of run records but found ${paths.length} files with ${paths.find((path) => !isRecorded(path))} among them.`,
  );
}

function report(context: Context, validation: Validation): void {
  const { predictions, unpredicted, score, uncalibrated, calibration, measured } = validation;
  if (uncalibrated.length > 0) {
    context.note(
      `No calibration covers ${uncalibrated.join(", ")}: predicted from presets and what their GPUs showed under other software.`,
    );
  }
  if (measured) context.print(renderScore(score));
  else if (predictions.length > 0) context.print(renderPredictions(predictions));
  if (calibration) context.print(`\n${renderCalibration(calibration)}`);
  if (unpredicted.length > 0)
    context.print(`${measured || predictions.length > 0 ? "\n" : ""}${renderUnpredicted(unpredicted)}`);
}

/** The command's JSON document. */
function documentOf({ predictions, unpredicted, score, calibration, uncalibrated }: Validation): object {
  return {
    rows: predictions.map(({ id, stepSeconds, memoryGiB, feasible, terms }) => ({
      id,
      step_time_s: stepSeconds,
      memory_GiB: memoryGiB,
      feasible,
      terms,
    })),
    groups: score.groups,
    overall: score.overall,
    meanOfGroups: score.meanOfGroups,
    unpredicted,
    uncalibrated,
    ...(calibration ? { calibration: documentOfCalibration(calibration) } : {}),
  };
}

/** The clusters themselves go to files: here is what was fitted. */
function documentOfCalibration({ kinds, families }: NonNullable<Validation["calibration"]>): object {
  return {
    families,
    kinds: Object.fromEntries(
      Object.entries(kinds).map(([kind, { parameters, residuals }]) => [kind, { parameters, residuals }]),
    ),
  };
}
