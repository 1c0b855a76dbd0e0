import { createHash } from "node:crypto";
import type { Plan } from "../contracts/index.js";
import { simulatePlan } from "../schedule/index.js";
import { planFacts } from "./facts.js";
import { html, raw } from "./page/markup.js";
import { memoryCurveSection } from "./page/memoryCurves.js";
import { script } from "./page/script.js";
import {
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
 * A plan as one self-contained page: no network, no file beside it. Its policy forbids everything but its own
 * style sheet and script, so that a name from a stranger's file cannot run, even if it were not escaped.
 * @throws MpoptError E_PLAN_INVALID where the plan's schedule is unknown or its stages are not in order.
 */
export function renderHtml(plan: Plan): string {
  const facts = planFacts(plan);
  const step = simulatePlan(plan, { events: true, memory: true, memoryCurve: true });
  const policy = `default-src 'none'; style-src ${hashSource(style)}; script-src ${hashSource(script)}; base-uri 'none'; form-action 'none'`;
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${raw(policy)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>${plan.name} · mpopt plan</title>
<style>${raw(style)}</style>
</head>
<body>
${pageHeader(plan, facts)}
<main>
${cards(plan, facts)}
${timelineSection(step)}
${waitSection(step)}
${timeSection(plan, facts, step)}
${memorySection(plan)}
${memoryCurveSection(plan, step)}
${stageSection(plan, facts)}
${shardingSection(plan)}
${rejectedSection(plan)}
${provenanceSection(plan)}
</main>
<footer>Written by mpopt ${plan.provenance.mpopt}. This page needs no network.</footer>
<script>${raw(script)}</script>
</body>
</html>
`.text;
}
