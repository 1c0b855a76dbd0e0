import type { Attempt, Run } from "../contracts/index.js";
import { planFacts } from "./facts.js";
import { formatBytes, formatSeconds, plural } from "./format.js";
import { cleanText } from "./text.js";

/** What a launch measured beside what was predicted, attempt by attempt. */
export function renderRun(run: Run): string {
  return run.attempts
    .map((attempt, i) => {
      const lines = attemptLines(attempt);
      if (run.attempts.length === 1) return lines.join("\n");
      const why = attempt.reason === null ? "" : ` ${cleanText(attempt.reason)}`;
      const ranks = plural(attempt.plan.rankTable.length, "rank");
      return [`Attempt ${i + 1} on ${ranks}: ${attempt.outcome}.${why}`, ...lines].join("\n");
    })
    .join("\n\n");
}

function attemptLines({ plan, steps, medianStepSeconds: measured, memory }: Attempt): string[] {
  const rows: [name: string, predicted: string, measured: string, difference: string][] = [
    [
      "Step",
      formatSeconds(plan.estimate.stepSeconds),
      measured === null ? "-" : formatSeconds(measured),
      measured === null ? "" : difference(plan.estimate.stepSeconds, measured),
    ],
  ];
  for (const { label, seconds } of planFacts(plan).time) {
    if (seconds > 0) rows.push([`  ${label}`, formatSeconds(seconds), "-", ""]);
  }
  for (const { pipelineRank, predictedBytes, measuredBytes } of memory) {
    rows.push([
      memory.length > 1 ? `Memory, pipeline rank ${pipelineRank}` : "Memory",
      formatBytes(predictedBytes),
      measuredBytes === null ? "-" : formatBytes(measuredBytes),
      measuredBytes === null ? "" : difference(predictedBytes, measuredBytes),
    ]);
  }
  const head = ["", "predicted", "measured", "difference"] as const;
  const width = Math.max(...rows.map(([name]) => name.length));
  const line = ([name, ...figures]: readonly [string, string, string, string]) =>
    `${name.padEnd(width)}  ${figures.map((each) => each.padStart(12)).join("")}`.trimEnd();
  return [line(head), ...rows.map(line), stepsSentence(steps, measured)];
}

function stepsSentence(steps: Attempt["steps"], median: number | null): string {
  if (median === null) {
    return steps.length > 0
      ? `No step time: the script reported ${plural(steps.length, "step")}, all of them warm-up.`
      : "No step time: the script printed no MPOPT_STEP lines.";
  }
  const [first, last] = [steps[0]!.loss, steps.at(-1)!.loss];
  const losses = first === null || last === null ? "" : `; loss ${first.toFixed(4)} → ${last.toFixed(4)}`;
  return `Median of ${plural(steps.length - 2, "step")} after 2 that warm up${losses}.`;
}

function difference(predicted: number, measured: number): string {
  const off = (100 * (predicted - measured)) / measured;
  return `${off >= 0 ? "+" : ""}${off.toFixed(1)} %`;
}
