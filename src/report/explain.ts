import type { Plan } from "../contracts/index.js";
import { type BaselineFact, baselineFacts } from "./baselines.js";
import { type Confidence, confidenceOf } from "./confidence.js";
import { certificateSentence, type PlanFacts, planFacts, provenanceMeaning, scheduleTitle } from "./facts.js";
import { formatBytes, formatPercent, formatSeconds, plural } from "./format.js";
import { overheadSentence, type Saving, savings } from "./relief.js";
import { cleanText } from "./text.js";
import { conventionSentence } from "./utilisation.js";

export interface ExplanationAlternative {
  plan: string;
  reason: string;
  stepSeconds?: number;
  memoryBytes?: number;
  /** Step time over this plan's, minus 1. */
  slower?: number;
}

/** Why a plan is as it is, as data and as sentences. */
export interface Explanation {
  binding: PlanFacts["binding"];
  /** What keeps the plan from being faster. */
  why: string[];
  /** Exposed time by kind, longest first. */
  terms: { term: string; label: string; seconds: number; share: number }[];
  /** Nearest first; those without a time come last. */
  alternatives: ExplanationAlternative[];
  /** What the same plan would save with one thing changed, the largest first. */
  savings: Saving[];
  /** What rules of thumb give for the same job. */
  baselines: BaselineFact[];
  confidence: Confidence;
}

/** Explains a plan from the plan alone: what binds, where the time goes, what the alternatives cost. */
export function explainPlan(plan: Plan): Explanation {
  const facts = planFacts(plan);
  const { fullestRank, pace, balance, largest } = facts;
  const why = [facts.bindingReason];
  why.push(
    `${largest.label} takes ${formatSeconds(largest.seconds)}, ${formatPercent(largest.share)} of the step.`,
    overheadSentence(plan, facts),
  );
  if (plan.stages.length > 1) {
    why.push(
      `${pace.name} sets the pipeline's pace with ${formatSeconds(pace.seconds)} a micro-batch; ` +
        `the mean ${pace.kind} takes ${formatPercent(balance)} of that, so perfect balance would save at most ${formatPercent(1 - balance)} of the steady state.`,
    );
    why.push(bubbleSentence(plan, facts));
  }
  why.push(
    `The fullest device reserves ${formatBytes(fullestRank.reservedBytes)} of ${formatBytes(fullestRank.limitBytes)} (pipeline rank ${fullestRank.pipelineRank}).`,
  );
  const confidence = confidenceOf(plan);
  const convention = conventionSentence(plan);
  if (convention) why.push(convention);
  why.push(certificateSentence(plan));
  why.push(`The figures are ${plan.estimate.provenance}: ${provenanceMeaning[plan.estimate.provenance]}.`);
  why.push(confidence.sentence);
  const alternatives = plan.rejected.map((other): ExplanationAlternative => {
    const known = other.stepSeconds !== undefined && plan.estimate.stepSeconds > 0;
    return { ...other, ...(known ? { slower: other.stepSeconds! / plan.estimate.stepSeconds - 1 } : {}) };
  });
  const last = Number.POSITIVE_INFINITY;
  alternatives.sort((a, b) => (a.slower ?? last) - (b.slower ?? last) || 0);
  return {
    binding: facts.binding,
    why,
    terms: [...facts.time].sort((a, b) => b.seconds - a.seconds),
    alternatives,
    savings: savings(plan),
    baselines: baselineFacts(plan),
    confidence,
  };
}

/** What the schedule leaves idle. */
function bubbleSentence({ schedule, estimate }: Plan, { pipeline, pace }: PlanFacts): string {
  const { name, microBatches } = schedule;
  // (p - 1) / (m + p - 1), Narayanan et al., SC'21, section 2.2.1.
  const ideal = formatPercent((pipeline - 1) / (microBatches + pipeline - 1));
  const counts = `With ${plural(pipeline, "pipeline rank")} and ${plural(microBatches, "micro-batch")}`;
  const plain = pace.kind === "stage" && ["1f1b", "gpipe"].includes(name.toLowerCase());
  if (plain) return `${counts} even equal stages idle ${ideal}.`;
  const { gradientSynchronisation, optimizer, bubble } = estimate.terms;
  const pipelineSeconds = estimate.stepSeconds - gradientSynchronisation - optimizer;
  const share = formatPercent(pipelineSeconds > 0 ? bubble / pipelineSeconds : 0);
  const own = name === "searched" ? "the searched order" : scheduleTitle(name);
  return `${counts} equal stages would idle ${ideal} under 1F1B; under ${own} the busiest rank idles ${share}.`;
}

/** An explanation as text. */
export function renderExplanation(plan: Plan, explanation: Explanation): string {
  const lines = [`Why ${cleanText(plan.name)} is as it is`, ""];
  lines.push(...explanation.why.map((sentence) => `  ${sentence}`), "", "Where the time goes");
  for (const { label, seconds, share } of explanation.terms) {
    lines.push(
      `  ${label.padEnd(30)}${formatSeconds(seconds).padStart(10)}${formatPercent(share).padStart(9)}`,
    );
  }
  if (explanation.savings.length) lines.push("", "The same plan, priced again with");
  for (const { change, stepSeconds, words } of explanation.savings) {
    lines.push(`  ${change}: ${formatSeconds(stepSeconds)}, ${words}`);
  }
  if (explanation.baselines.length) lines.push("", "Rules of thumb, priced the same way");
  for (const { title, plan: words, stepSeconds, verdict } of explanation.baselines) {
    lines.push(`  ${title}: ${stepSeconds === undefined ? "" : `${formatSeconds(stepSeconds)}; `}${verdict}`);
    if (words) lines.push(`    ${cleanText(words)}`);
  }
  lines.push("", "Nearest alternatives");
  if (!explanation.alternatives.length) lines.push("  The plan records none.");
  for (const { plan: name, reason, stepSeconds, memoryBytes, slower } of explanation.alternatives) {
    const change =
      slower === undefined ? "" : ` (${slower < 0 ? "−" : "+"}${formatPercent(Math.abs(slower))})`;
    const figures = [
      ...(stepSeconds === undefined ? [] : [`${formatSeconds(stepSeconds)}${change}`]),
      ...(memoryBytes === undefined ? [] : [formatBytes(memoryBytes)]),
    ];
    lines.push(`  ${cleanText(name)}${figures.length ? `: ${figures.join(", ")}` : ""}`);
    lines.push(`    ${cleanText(reason)}`);
  }
  return lines.join("\n");
}
