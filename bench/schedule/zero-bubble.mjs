#!/usr/bin/env node
// Predicts the published runs of four schedules in six settings, with three settings of the hardware fitted to all
// rows or read from an earlier result:
//   node bench/schedule/zero-bubble.mjs [ROWS.csv] [--with RESULTS.json] [-o RESULTS.json]   (after `npm run build`)
// With --fit-on MODEL they are fitted to the rows of that model, and those of the others are predicted.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { clusterPreset } from "../../dist/cluster/index.js";
import { jobSchema, serialize, writeFileAtomic } from "../../dist/contracts/index.js";
import { stateBytes } from "../../dist/cost/memory.js";
import { importHuggingFace } from "../../dist/models/index.js";
import { compileSchedule, scheduleByName, simulate } from "../../dist/schedule/index.js";
import { costModels } from "../../dist/search/joint.js";
import { LayerChains } from "../../dist/search/layerChains.js";
import { UpdateCosts } from "../../dist/search/updateCosts.js";
import { fitParameters, misordered, predict, rowsOf } from "./published.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { output: { type: "string", short: "o" }, with: { type: "string" }, "fit-on": { type: "string" } },
});
const library = {
  clusterPreset,
  jobSchema,
  stateBytes,
  importHuggingFace,
  compileSchedule,
  scheduleByName,
  simulate,
  costModels,
  LayerChains,
  UpdateCosts,
};
const path =
  positionals[0] ?? fileURLToPath(new URL("../../test/data/schedules/zeroBubble.csv", import.meta.url));
const all = rowsOf(readFileSync(path, "utf8"));
const fitOn = values["fit-on"];
const fitted = fitOn === undefined ? all : all.filter((row) => row.model === fitOn);
const rows = fitOn === undefined ? all : all.filter((row) => row.model !== fitOn);
const parameters = values.with
  ? JSON.parse(readFileSync(values.with, "utf8")).parameters
  : await fitParameters(library, fitted);
const predictions = await predict(library, rows, parameters);
const { wrong, pairs } = misordered(predictions);
const largest = (field) => Math.max(...predictions.map((row) => Math.abs(row[field])));
const percent = (share) => `${(100 * share).toFixed(1)} %`;
for (const row of predictions) {
  const step = `${row.stepSeconds.toFixed(3)} s of ${row.measuredSeconds} (${percent(row.stepError)})`;
  const memory = `${row.memoryGiB.toFixed(1)} GiB of ${row.measuredGiB} (${percent(row.memoryError)})`;
  console.log(`${row.id} ${row.model} ${row.schedule} batch ${row.globalBatch}: ${step}, ${memory}`);
}
const summary = {
  rows: predictions.length,
  largestStepError: largest("stepError"),
  largestMemoryError: largest("memoryError"),
  pairs,
  misordered: wrong,
};
console.log(parameters, summary);
if (values.output) {
  const document = {
    date: new Date().toISOString().slice(0, 10),
    versions: { node: process.version },
    note: `parameters are fitted to ${values.with || fitOn ? "other rows" : "these rows"}: shares of the a100-80 preset's curves, and what a transfer costs beyond the link's latency.`,
    parameters,
    summary,
    rows: predictions,
  };
  writeFileAtomic(values.output, serialize(document));
}
