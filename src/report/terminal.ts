import { axisSize, type Plan } from "../contracts/index.js";
import { moneyOf } from "../plan/money.js";
import { baselineFacts } from "./baselines.js";
import { meshWords, recomputeWords, settingWords } from "./choices.js";
import { confidenceOf } from "./confidence.js";
import { certificateSentence, layerRange, planFacts, provenanceMeaning, stageExtras } from "./facts.js";
import {
  formatBytes,
  formatCount,
  formatDollars,
  formatGib,
  formatInteger,
  formatMilliseconds,
  formatPercent,
  formatSeconds,
  plural,
} from "./format.js";
import { overheadSentence, savings } from "./relief.js";
import { cleanText, truncate, wrap } from "./text.js";
import { conventionSentence } from "./utilisation.js";

export interface TerminalOptions {
  /** Whether to write ANSI colours. */
  color: boolean;
  /** Columns of the terminal; the table uses 80 to 120 of them. */
  width: number;
}

type Style = "bold" | "dim" | "green" | "yellow" | "red" | "blue";
const codes: Readonly<Record<Style, string>> = {
  bold: "1",
  dim: "2",
  green: "32",
  yellow: "33",
  red: "31",
  blue: "34",
};

/** Stages beyond this are shown by their ends, the slowest and the fullest. */
const maximumStageRows = 24;

/** Changes beyond these gain little. */
const maximumSavings = 5;

/** The colours that a stream wants: none unless it is a terminal and NO_COLOR is unset (no-color.org). */
export function terminalOptions(stream: { isTTY?: boolean; columns?: number }): TerminalOptions {
  const color = stream.isTTY === true && !process.env.NO_COLOR && process.env.TERM !== "dumb";
  return { color, width: stream.columns ?? 100 };
}

/**
 * A plan as a table for the terminal, 80 to 120 columns wide: headline, degrees, stages, time by term, the
 * best rejected alternatives, and where the figures come from.
 * @param options what stdout wants unless given.
 */
export function renderPlan(plan: Plan, options: TerminalOptions = terminalOptions(process.stdout)): string {
  const width = Math.max(80, Math.min(120, Math.floor(options.width) || 80));
  const paint = (text: string, ...styles: Style[]) =>
    options.color && text && styles.length
      ? `\u001b[${styles.map((style) => codes[style]).join(";")}m${text}\u001b[0m`
      : text;
  const facts = planFacts(plan);
  const { estimate, certificate } = plan;
  const money = moneyOf(plan);
  const confidence = confidenceOf(plan);
  const lines: string[] = [];
  const heading = (title: string) => lines.push("", paint(title, "bold"));
  const sentence = (text: string, ...styles: Style[]) => {
    for (const line of wrap(text, width - 2)) lines.push(`  ${paint(line, ...styles)}`);
  };

  const title = `${cleanText(plan.model.name)} on ${cleanText(plan.cluster.name)}`;
  lines.push(paint(truncate(title, width), "bold"));
  const headline: [string, string][] = [
    ["step", formatSeconds(estimate.stepSeconds)],
    ["tokens/s", formatCount(estimate.tokensPerSecond)],
    ["MFU", formatPercent(estimate.mfu)],
    ["HFU", formatPercent(estimate.hfu)],
    ...(money ? [["per million tokens", formatDollars(money.perMillionTokens)] as [string, string]] : []),
  ];
  lines.push(
    "",
    `  ${headline.map(([key, value]) => `${paint(key, "dim")} ${paint(value, "bold")}`).join("    ")}`,
  );
  sentence(certificateSentence(plan), certificate.status === "optimal" ? "green" : "yellow");
  if (confidence.calibrated) sentence(confidence.sentence);
  sentence(facts.bindingReason);

  heading("Parallelism");
  sentence(
    `${meshWords(plan)} = ${plural(plan.cluster.devices, "device")}, ${cleanText(settingWords(plan).join(", "))}`,
  );
  sentence(
    `global batch ${formatInteger(plan.batch.global)} = ${plural(plan.schedule.microBatches, "micro-batch")}` +
      ` of ${plan.batch.micro} × ${plural(axisSize(plan, "data"), "replica")}, sequence ${formatInteger(plan.batch.sequence)}`,
  );

  heading("Stages");
  lines.push(...stageTable(plan, width, paint));

  heading("Time of one step");
  const barWidth = width - 62;
  for (const { term, label, seconds, share } of facts.time) {
    if (seconds === 0) continue;
    const mark = term === facts.largest.term ? paint(" largest", "dim") : "";
    const filled = paint(bar(share, barWidth), term === "compute" ? "blue" : "yellow");
    lines.push(
      `  ${label.padEnd(30)}${formatSeconds(seconds).padStart(10)}${formatPercent(share).padStart(9)}  ${filled}${mark}`.trimEnd(),
    );
  }
  sentence(overheadSentence(plan, facts), "dim");
  sentence(
    `${facts.pace.name} sets the pace with ${formatSeconds(facts.pace.seconds)} a micro-batch; ` +
      `the mean ${facts.pace.kind} takes ${formatPercent(facts.balance)} of that.`,
    "dim",
  );
  const convention = conventionSentence(plan);
  if (convention) sentence(convention, "dim");

  const gains = savings(plan).slice(0, maximumSavings);
  if (gains.length) {
    heading("The same plan, priced again with");
    const wide = Math.max(...gains.map(({ change }) => [...change].length));
    for (const { change, stepSeconds, words } of gains) {
      lines.push(
        `  ${truncate(change, width - 45).padEnd(Math.min(wide, width - 45))}${formatSeconds(stepSeconds).padStart(11)}` +
          `  ${paint(words, "dim")}`,
      );
    }
  }

  const rules = baselineFacts(plan);
  if (rules.length) {
    heading("Rules of thumb, priced the same way");
    for (const { title, stepSeconds, verdict, plan: words } of rules) {
      const step = stepSeconds === undefined ? "–" : formatSeconds(stepSeconds);
      for (const [i, line] of wrap(verdict, width - 42).entries()) {
        const start = i === 0 ? `${title.padEnd(27)}${step.padStart(11)}` : "";
        lines.push(`  ${start.padEnd(40)}${line}`);
      }
      for (const line of wrap(cleanText(words), width - 4)) lines.push(`    ${paint(line, "dim")}`.trimEnd());
    }
  }

  if (plan.rejected.length) {
    heading("Rejected alternatives");
    for (const { plan: name, reason, stepSeconds, memoryBytes } of plan.rejected) {
      sentence(cleanText(name));
      const details = [
        ...(stepSeconds === undefined ? [] : [formatSeconds(stepSeconds)]),
        ...(memoryBytes === undefined ? [] : [formatBytes(memoryBytes)]),
        cleanText(reason),
      ];
      for (const line of wrap(details.join(" · "), width - 4)) lines.push(`    ${paint(line, "dim")}`);
    }
  }

  heading("Figures");
  const color = estimate.provenance === "measured" ? "green" : "yellow";
  const [first, ...others] = wrap(
    `${estimate.provenance}: ${provenanceMeaning[estimate.provenance]}.`,
    width - 2,
  );
  lines.push(`  ${paint(first!, color)}`, ...others.map((line) => `  ${paint(line, color)}`));
  if (!confidence.calibrated) sentence(confidence.sentence, "dim");
  sentence(
    `model ${plan.model.sha256.slice(0, 12)}, cluster ${plan.cluster.sha256.slice(0, 12)}, job ${plan.provenance.job.slice(0, 12)}, ` +
      `mpopt ${cleanText(plan.provenance.mpopt)}, seed ${plan.provenance.seed}`,
    "dim",
  );
  return lines.join("\n");
}

function stageTable(
  plan: Plan,
  width: number,
  paint: (text: string, ...styles: Style[]) => string,
): string[] {
  const facts = planFacts(plan);
  const memoryOf = new Map(plan.estimate.memory.map((entry) => [entry.pipelineRank, entry]));
  const barWidth = Math.min(20, width - 75);
  const lines = [
    paint(
      `  ${"stage".padStart(5)}  ${"layers".padStart(9)}${"n".padStart(5)}  ${"holds".padEnd(9)}  ${"recompute".padEnd(9)} ` +
        `${"fwd ms".padStart(7)}${"bwd ms".padStart(8)}  memory, GiB`,
      "dim",
    ),
  ];
  const stages = [...plan.stages].sort((a, b) => a.index - b.index);
  const shown = shownStages(plan, facts);
  let skipped = 0;
  for (const stage of stages) {
    if (!shown.has(stage.index)) {
      skipped++;
      continue;
    }
    if (skipped) lines.push(paint(`  ${"⋯".padStart(5)}  ${plural(skipped, "stage")}`, "dim"));
    skipped = 0;
    const memory = memoryOf.get(stage.rank);
    const share = memory && memory.limitBytes > 0 ? memory.reservedBytes / memory.limitBytes : 0;
    const style: Style = share > 1 ? "red" : share >= 0.9 ? "yellow" : "green";
    const slowest = stage.index === facts.slowestStage.index;
    const times =
      formatMilliseconds(stage.forwardSeconds).padStart(7) +
      formatMilliseconds(stage.backwardSeconds).padStart(8);
    const extras = stageExtras(stage).replace("embedding + head", "emb+head");
    lines.push(
      `  ${String(stage.index).padStart(5)}  ${layerRange(stage.layers).padStart(9)}` +
        `${String(stage.layers.end - stage.layers.start).padStart(5)}  ${extras.padEnd(9)}  ` +
        `${recomputed(stage).padEnd(9)} ${slowest ? paint(times, "bold") : times}  ` +
        (memory
          ? `${formatGib(memory.reservedBytes).padStart(5)}/${formatGib(memory.limitBytes).padEnd(5)} ` +
            paint(`${bar(share, barWidth, true)}`, style)
          : ""),
    );
  }
  return lines;
}

/** In the width of its column. */
function recomputed(stage: Plan["stages"][number]): string {
  const words = recomputeWords(stage).replace("selective, full", "sel, full").replaceAll(" × ", "×");
  return words === "none" ? "–" : words;
}

/** All stages, or of many the first, the last, the slowest and the one on the fullest rank. */
function shownStages(plan: Plan, facts: ReturnType<typeof planFacts>): Set<number> {
  const count = plan.stages.length;
  const shown = new Set<number>();
  for (const { index, rank, chunk } of plan.stages) {
    const fullest = rank === facts.fullestRank.pipelineRank && chunk === 0;
    const special = index === facts.slowestStage.index || fullest;
    if (count <= maximumStageRows || index < 8 || index >= count - 6 || special) shown.add(index);
  }
  return shown;
}

const eighths = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/** A horizontal bar with a resolution of an eighth of a column; `track` fills the rest with dots. */
function bar(share: number, width: number, track = false): string {
  const units = Math.round(Math.max(0, Math.min(1, share)) * width * 8);
  const filled = "█".repeat(Math.floor(units / 8)) + eighths[units % 8]!;
  return track ? filled.padEnd(width, "·") : filled;
}
