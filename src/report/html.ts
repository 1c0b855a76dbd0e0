import { createHash } from "node:crypto";
import type { Plan } from "../contracts/index.js";
import { type StepSimulation, simulatePlan } from "../schedule/index.js";
import { planFacts, scheduleTitle } from "./facts.js";
import { formatPercent, formatSeconds, plural } from "./format.js";
import { type Child, html, type Markup, raw } from "./page/markup.js";
import { memoryCurveSection } from "./page/memoryCurves.js";
import { script } from "./page/script.js";
import {
  baselineSection,
  cards,
  memorySection,
  pageHeader,
  provenanceSection,
  rejectedSection,
  shardingSection,
  stageSection,
  timeSection,
} from "./page/sections.js";
import { style } from "./page/style.js";
import { timelineSection } from "./page/timeline.js";
import { waitSection } from "./page/waits.js";

/** Source expression that allows exactly this inline text (Content Security Policy Level 3, section 2.3.1). */
function hashSource(text: string): string {
  return `'sha256-${createHash("sha256").update(text).digest("base64")}'`;
}

/**
 * One self-contained page: no network, no file beside it. Its policy forbids everything but its own style sheet and
 * script, so that a name from a stranger's file cannot run, even if it were not escaped.
 */
function page(title: string, header: Markup, main: Child, writer: string): string {
  const policy = `default-src 'none'; style-src ${hashSource(style)}; script-src ${hashSource(script)}; base-uri 'none'; form-action 'none'`;
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${raw(policy)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>${title}</title>
<style>${raw(style)}</style>
</head>
<body>
${header}
<main>
${main}
</main>
<footer>Written by ${writer}. This page needs no network.</footer>
<script>${raw(script)}</script>
</body>
</html>
`.text;
}

/** The devices' limits, one entry a pipeline rank; undefined where the plan lacks one. */
function limitsOf(plan: Plan): (number | undefined)[] {
  const limits: (number | undefined)[] = [];
  for (const { pipelineRank, limitBytes } of plan.estimate.memory) limits[pipelineRank] = limitBytes;
  return limits;
}

/**
 * A plan as one page.
 * @throws MpoptError E_PLAN_INVALID where the plan's schedule is unknown or its stages are not in order.
 */
export function renderHtml(plan: Plan): string {
  const facts = planFacts(plan);
  const step = simulatePlan(plan, { events: true, memory: true, memoryCurve: true });
  const sections = [
    cards(plan, facts),
    timelineSection(step),
    waitSection(step),
    timeSection(plan, facts, step),
    memorySection(plan),
    memoryCurveSection(step, limitsOf(plan)),
    stageSection(plan, facts),
    shardingSection(plan),
    baselineSection(plan),
    rejectedSection(plan),
    provenanceSection(plan),
  ];
  const title = `${plan.name} · mpopt plan`;
  return page(title, pageHeader(plan, facts), sections, `mpopt ${plan.provenance.mpopt}`);
}

/**
 * A simulated step as one page: timeline, waits, and memory over time where it was simulated.
 * @param step a simulation that lists its events.
 * @param plan the plan whose stages were played, for its name and limits.
 */
export function renderSimulation(step: StepSimulation, plan?: Plan): string {
  const { table, pipeline } = step;
  const title = scheduleTitle(table.name);
  const facts = [
    html`<b>${pipeline.ranks.length}</b> pipeline`,
    html`<b>${plural(table.stages, "stage")}</b>`,
    html`<b>${plural(table.microBatches, "micro-batch")}</b>`,
    html`step <b>${formatSeconds(step.stepSeconds)}</b>`,
    html`idle <b>${formatPercent(pipeline.bubbleRatio)}</b>`,
  ];
  const header = html`<header>
<p class="eyebrow">mpopt simulation</p>
<h1>${title}${plan && html` <span>for ${plan.name}</span>`}</h1>
<ul class="degrees" aria-label="Sizes">${facts.map((item) => html`<li>${item}</li>`)}</ul>
</header>`;
  const sections = [
    timelineSection(step),
    waitSection(step),
    memoryCurveSection(step, plan ? limitsOf(plan) : []),
  ];
  return page(`${title} · mpopt simulation`, header, sections, "mpopt");
}
