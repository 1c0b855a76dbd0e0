import { readClusters } from "../validate/clusterFiles.js";
import { readCsv } from "../validate/index.js";
import { renderPredictions, renderScore, renderUnpredicted } from "../validate/tables.js";
import { type Validation, validateRuns } from "../validate/validate.js";
import { type Context, defineCommand } from "./context.js";

interface Given {
  clusters?: string;
}

export const validateCommand = () =>
  defineCommand(
    "validate",
    "predict measured runs and compare",
    "mpopt validate runs.csv --clusters clusters",
    async (context, [path], given) => {
      const options = given as Given;
      const table = readCsv(path!);
      const validation = await validateRuns(table, {
        ...(options.clusters ? { templates: readClusters(options.clusters) } : {}),
        signal: context.signal,
        onProgress: context.progress,
      });
      report(context, validation);
      context.result(documentOf(validation));
    },
  )
    .argument("<runs>", "CSV of runs: model, GPUs and plan by column, and what was measured")
    .option("--clusters <dir>", "folder of cluster files that an earlier calibration wrote");

function report(context: Context, validation: Validation): void {
  const { predictions, unpredicted, score, uncalibrated, calibration, measured } = validation;
  if (uncalibrated.length > 0) {
    context.note(`No calibration covers ${uncalibrated.join(", ")}: predicted from presets.`);
  }
  if (measured) context.print(renderScore(score));
  else if (predictions.length > 0) context.print(renderPredictions(predictions));
  for (const [kind, { parameters, residuals }] of Object.entries(calibration?.kinds ?? {})) {
    context.print(`\n${kind}, fitted to ${residuals.length} runs`);
    for (const { name, value, prior } of parameters) {
      context.print(`  ${name}: ${value.toPrecision(4)} (before ${prior.toPrecision(4)})`);
    }
  }
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
function documentOfCalibration({ kinds }: NonNullable<Validation["calibration"]>): object {
  return {
    kinds: Object.fromEntries(
      Object.entries(kinds).map(([kind, { parameters, residuals }]) => [kind, { parameters, residuals }]),
    ),
  };
}
