export { clustersOfKinds, presetTemplate, sizedCluster } from "./clusters.js";
export { type Measured, type RunRecord, runRecords } from "./columns.js";
export { type CsvTable, parseCsv, readCsv } from "./csv.js";
export { PredictionCache, type Predictions, predictAll } from "./predict.js";
export { runInputs } from "./row.js";
export { type Score, score } from "./score.js";
export type * from "./types.js";
