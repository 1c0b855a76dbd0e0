// Predicts a table of measured runs from presets alone, calibrated on the same runs, and calibrated on other runs of
// the table (cross-validated), and prints the errors by group beside what they should reach.
//   node bench/fidelity/run.mjs [RUNS.csv] [-o bench/results/fidelity] [--folds 5] [--only presets,in-sample,...]
// The table may also be named by MPOPT_VALIDATION, the file or its folder (dev.csv). Build first: npm run build.
import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { serialize, writeFileAtomic } from "../../dist/contracts/index.js";
import { runRecords } from "../../dist/validate/columns.js";
import { readCsv } from "../../dist/validate/csv.js";
import { score } from "../../dist/validate/score.js";
import { validateRuns } from "../../dist/validate/validate.js";
import { coverageBar, falseAlarmBar, memoryBar, presetBar, regretBars, timeBars } from "./bars.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    output: { type: "string", short: "o" },
    folds: { type: "string", default: "5" },
    only: { type: "string" },
  },
});
const given = positionals[0] ?? process.env.MPOPT_VALIDATION;
const path = given && existsSync(given) && statSync(given).isDirectory() ? join(given, "dev.csv") : given;
if (!path) {
  console.error(
    "Name the table of runs: node bench/fidelity/run.mjs RUNS.csv, or MPOPT_VALIDATION=RUNS.csv.",
  );
  process.exit(2);
}
const folds = Number(values.folds);
const table = readCsv(path);
const records = runRecords(table);

/** FNV-1a: the same folds on every machine. */
function hash(text) {
  let state = 0x811c9dc5;
  for (const byte of Buffer.from(text)) state = Math.imul(state ^ byte, 0x01000193) >>> 0;
  return state;
}
const part = (rows) => ({ ...table, rows });

async function crossValidated(nameOf) {
  const foldOf = (i) => hash(nameOf(records[i])) % folds;
  const predictions = [];
  for (let fold = 0; fold < folds; fold++) {
    const held = table.rows.filter((_, i) => foldOf(i) === fold);
    const fitted = table.rows.filter((_, i) => foldOf(i) !== fold);
    const found = await validateRuns(part(held), { calibrateWith: part(fitted) });
    predictions.push(...found.predictions);
  }
  return { score: score(records, predictions) };
}

const modes = {
  presets: () => validateRuns(table),
  "in-sample": () => validateRuns(table, { calibrateWith: table }),
  /** Folds of rows. */
  "cross-validated": () => crossValidated((record) => record.id),
  /** Folds of whole choice groups: no plan of a group is known when one is chosen. */
  "cross-validated-groups": () => crossValidated((record) => record.measured.choiceGroup ?? record.id),
};

const names = values.only ? values.only.split(",") : Object.keys(modes);
const results = {};
for (const name of names) {
  if (!modes[name]) {
    console.error(`Expected one of ${Object.keys(modes).join(", ")} for --only but found ${name}.`);
    process.exit(2);
  }
  const started = performance.now();
  const { score: found, calibration } = await modes[name]();
  const seconds = (performance.now() - started) / 1000;
  console.error(`${name}: ${seconds.toFixed(1)} s`);
  results[name] = found;
  if (values.output) {
    const parameters =
      calibration &&
      Object.fromEntries(Object.entries(calibration.kinds).map(([kind, each]) => [kind, each.parameters]));
    const document = {
      date: new Date().toISOString().slice(0, 10),
      runs: records.length,
      ...(name.startsWith("cross") ? { folds } : {}),
      seconds: Number(seconds.toFixed(1)),
      ...found,
      ...(parameters ? { parameters } : {}),
    };
    writeFileAtomic(join(values.output, `${name}.json`), serialize(document));
  }
}

const percent = (share) => (share === null || share === undefined ? "-" : (100 * share).toFixed(2));
function print(title, head, rows) {
  const widths = head.map((name, i) => Math.max(name.length, ...rows.map((row) => row[i].length)));
  const line = (row) =>
    row.map((cell, i) => (i ? cell.padStart(widths[i]) : cell.padEnd(widths[i]))).join("  ");
  console.log([`\n${title}`, line(head), ...rows.map(line)].join("\n"));
}
const groups = [...new Set(names.flatMap((name) => Object.keys(results[name].groups)))].sort();
const of = (name, group) => (group === "all" ? results[name].overall : results[name].groups[group]);
const rowsOf = (has, cell, bar) =>
  [...groups, "all"]
    .filter((group) => names.some((name) => has(of(name, group))))
    .map((group) => [group, ...names.map((name) => cell(of(name, group))), bar(group)]);
const bars = (list) => (list ? list.join(" / ") : "-");

print(
  `Step time: mean absolute error in percent (bar / goal after calibration; presets alone ${presetBar})`,
  ["group", ...names, "bar"],
  rowsOf(
    (group) => group.time.total > 0,
    (group) => percent(group.time.mape),
    (group) => bars(timeBars[group]),
  ),
);
print(
  `Share of the rows that can be scored and are predicted, in percent (bar ${coverageBar})`,
  ["group", ...names, "bar"],
  rowsOf(
    (group) => group.time.total > 0 && group.time.coverage < 1,
    (group) => percent(group.time.coverage),
    () => String(coverageBar),
  ),
);
print(
  "Regret of the plan predicted fastest: mean in percent, best chosen",
  ["group", ...names, "bar"],
  rowsOf(
    (group) => group.choice !== null,
    (group) => `${percent(group.choice.meanRegret)} ${group.choice.exactBest}/${group.choice.groups}`,
    (group) => String(regretBars[group] ?? "-"),
  ),
);
print(
  "Memory of the fullest device: mean absolute error in percent (bar / goal)",
  ["group", ...names, "bar"],
  rowsOf(
    (group) => group.memory.total > 0,
    (group) => percent(group.memory.mape),
    () => bars(memoryBar),
  ),
);
print(
  `Feasibility: runs called infeasible (bar ${falseAlarmBar} %), out of memory and missed (bar 0)`,
  ["group", ...names, "bar"],
  rowsOf(
    ({ feasibility: f }) => f.ranSaidOutOfMemory + f.outOfMemorySaidRan + f.outOfMemorySaidOutOfMemory > 0,
    ({ feasibility: f }) => {
      const ran = f.ranSaidRan + f.ranSaidOutOfMemory;
      const failed = f.outOfMemorySaidRan + f.outOfMemorySaidOutOfMemory;
      return `${f.ranSaidOutOfMemory}/${ran}, ${f.outOfMemorySaidRan}/${failed}`;
    },
    () => "-",
  ),
);
