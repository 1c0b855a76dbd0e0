import type { GroupScore, Score } from "./score.js";
import { mean } from "./statistics.js";
import type { Calibration, Prediction, Unpredicted } from "./types.js";

/** Predictions and their score as a person reads them. */

const percent = (share: number | null | undefined, digits = 1): string =>
  share === null || share === undefined ? "-" : (100 * share).toFixed(digits);
const signed = (share: number | null | undefined): string =>
  share === null || share === undefined ? "-" : `${share >= 0 ? "+" : ""}${percent(share)}`;

/** Columns of text, the first to the left and the others to the right. */
function columns(head: readonly string[], rows: readonly (readonly (string | number)[])[]): string[] {
  const widths = head.map((name, i) => Math.max(name.length, ...rows.map((row) => String(row[i]).length)));
  const line = (row: readonly (string | number)[]) =>
    row
      .map((cell, i) => (i === 0 ? String(cell).padEnd(widths[i]!) : String(cell).padStart(widths[i]!)))
      .join("  ")
      .trimEnd();
  return [line(head), ...rows.map(line)];
}

type Named = [string, GroupScore];

/** The tables of a score: step time, memory, feasibility and choice, each by group and over all. */
export function renderScore({ groups, overall, meanOfGroups }: Score): string {
  const all: Named[] = [...Object.entries(groups), ["all", overall]];
  const lines: string[] = [];
  const table = (
    title: string,
    head: readonly string[],
    has: (group: GroupScore) => boolean,
    row: (group: GroupScore) => (string | number)[],
  ) => {
    const shown = all.filter(([, group]) => has(group));
    if (shown.length === 0) return;
    lines.push(...(lines.length > 0 ? [""] : []), title);
    lines.push(
      ...columns(
        ["group", ...head],
        shown.map(([name, group]) => [name, ...row(group)]),
      ),
    );
  };
  const errorHead = ["rows", "covered", "mean", "median", "bias", "p90", "largest", "within 10"];
  const errors = (score: GroupScore["time"]) => [
    `${score.n}/${score.total}`,
    percent(score.coverage, 0),
    percent(score.mape),
    percent(score.medianApe),
    signed(score.bias),
    percent(score.p90Ape),
    percent(score.maxApe),
    percent(score.within10, 0),
  ];
  table(
    "Step time, predicted over measured less 1, in percent",
    errorHead,
    ({ time }) => time.total > 0,
    ({ time }) => errors(time),
  );
  if (meanOfGroups.timeMape !== null) {
    lines.push(`Mean of the groups' means: ${percent(meanOfGroups.timeMape)}.`);
  }
  table(
    "Memory of the fullest device, in percent",
    errorHead,
    ({ memory }) => memory.total > 0,
    ({ memory }) => errors(memory),
  );
  table(
    "Feasibility, rows",
    ["ran", "false alarm", "out of memory", "missed", "not said"],
    ({ feasibility: f }) =>
      f.ranSaidRan + f.ranSaidOutOfMemory + f.outOfMemorySaidRan + f.outOfMemorySaidOutOfMemory + f.notSaid >
      0,
    ({ feasibility: f }) => [
      f.ranSaidRan,
      f.ranSaidOutOfMemory,
      f.outOfMemorySaidOutOfMemory,
      f.outOfMemorySaidRan,
      f.notSaid,
    ],
  );
  table(
    "Choice of the plan predicted fastest: regret in percent of the best measured",
    ["groups", "plans", "mean", "largest", "best chosen", "tau", "random plan"],
    ({ choice }) => choice !== null,
    ({ choice }) => [
      choice!.groups,
      choice!.plans,
      percent(choice!.meanRegret),
      percent(choice!.maxRegret),
      choice!.exactBest,
      choice!.meanTau.toFixed(2),
      percent(choice!.randomRegret),
    ],
  );
  return lines.join("\n");
}

/** One line a run, for files in which nothing was measured. */
export function renderPredictions(predictions: readonly Prediction[]): string {
  const rows = predictions.map(({ id, stepSeconds, memoryGiB, feasible }) => [
    id,
    stepSeconds.toPrecision(4),
    memoryGiB.toFixed(1),
    feasible ? "yes" : "no",
  ]);
  return columns(["run", "step s", "GiB", "fits"], rows).join("\n");
}

/** One line a kind: what was fitted to how many runs, and the errors of step times that are left. */
export function renderCalibration({ kinds }: Calibration): string {
  const rows = Object.entries(kinds).map(([kind, { parameters, residuals }]) => [
    kind,
    residuals.length,
    parameters.length,
    percent(mean(residuals.map(({ error }) => Math.abs(error)))),
    signed(mean(residuals.map(({ error }) => error))),
  ]);
  return [
    "Clusters fitted to the given runs",
    ...columns(["kind", "timed runs", "quantities", "mean", "bias"], rows),
  ].join("\n");
}

/** One line a reason, with how many runs it keeps from being predicted and the first of them. */
export function renderUnpredicted(unpredicted: readonly Unpredicted[]): string {
  const byReason = new Map<string, string[]>();
  for (const { id, reason } of unpredicted) byReason.set(reason, [...(byReason.get(reason) ?? []), id]);
  const named = (ids: readonly string[]) =>
    ids.length > 3 ? `${ids.slice(0, 3).join(", ")} and ${ids.length - 3} more` : ids.join(", ");
  return [...byReason]
    .map(([reason, ids]) => `${ids.length} not predicted, because ${reason}: ${named(ids)}`)
    .join("\n");
}
