import type { MemoryEntry, Plan } from "../../contracts/index.js";
import { moneyOf } from "../../plan/money.js";
import type { StepSimulation } from "../../schedule/index.js";
import { baselineFacts } from "../baselines.js";
import { meshDegrees, recomputeWords, settingWords } from "../choices.js";
import { confidenceOf } from "../confidence.js";
import {
  certificateSentence,
  layerRange,
  type MemoryTerm,
  memoryTermLabels,
  type PlanFacts,
  provenanceMeaning,
  stageExtras,
} from "../facts.js";
import {
  deviceRanges,
  formatBytes,
  formatCount,
  formatDollars,
  formatGib,
  formatInteger,
  formatMilliseconds,
  formatPercent,
  formatSeconds,
  plural,
} from "../format.js";
import { overheadSentence, savings } from "../relief.js";
import { conventionSentence } from "../utilisation.js";
import { html, type Markup } from "./markup.js";

/** Longer tables get narrow rows. */
const compactRows = 24;
const tableClass = (rows: number) => (rows > compactRows ? "compact" : "");

const memoryTerms = Object.keys(memoryTermLabels) as MemoryTerm[];

export function pageHeader(plan: Plan, facts: PlanFacts): Markup {
  const degrees: Markup[] = [
    ...meshDegrees(plan).map(({ axis, size }) => html`<b>${formatInteger(size)}</b> ${axis}`),
    ...settingWords(plan).map((words) => html`${words}`),
    html`global batch <b>${formatInteger(plan.batch.global)}</b> = ${plural(plan.schedule.microBatches, "micro-batch")} of ${plan.batch.micro} × ${plural(facts.data, "replica")}`,
    html`sequence <b>${formatInteger(plan.batch.sequence)}</b>`,
  ];
  return html`<header>
<p class="eyebrow">mpopt plan ${provenanceTag(plan)}</p>
<h1>${plan.model.name} <span>on ${plan.cluster.name}</span></h1>
<ul class="degrees" aria-label="Parallel degrees and batch">${degrees.map((item) => html`<li>${item}</li>`)}</ul>
</header>`;
}

function provenanceTag(plan: Plan): Markup {
  const { provenance } = plan.estimate;
  return html`<span class="tag ${provenance}" title="${provenanceMeaning[provenance]}">figures ${provenance}</span>`;
}

export function cards(plan: Plan, facts: PlanFacts): Markup {
  const { estimate, certificate } = plan;
  const { fullestRank } = facts;
  const perDevice = estimate.tokensPerSecond / plan.cluster.devices;
  const money = moneyOf(plan);
  const price = money ? `, ${formatDollars(money.perMillionTokens)} a million` : "";
  const { fullAttention } = estimate;
  const whole = (share: number | undefined) =>
    share === undefined ? "" : `; ${formatPercent(share)} with all pairs of tokens`;
  const tone = certificate.status === "optimal" ? "good" : certificate.status === "feasible" ? "warn" : "bad";
  const fill = fullestRank.share > 1 ? "bad" : fullestRank.share >= 0.9 ? "warn" : "";
  const entries: [string, string, string, string][] = [
    ["Step time", formatSeconds(estimate.stepSeconds), plural(plan.batch.global, "sequence"), ""],
    [
      "Tokens per second",
      formatCount(estimate.tokensPerSecond),
      `${formatCount(perDevice)} a device${price}`,
      "",
    ],
    ["MFU", formatPercent(estimate.mfu), `without recomputation${whole(fullAttention?.mfu)}`, ""],
    ["HFU", formatPercent(estimate.hfu), `with recomputation${whole(fullAttention?.hfu)}`, ""],
    [
      "Certificate",
      facts.certificateTitle,
      `gap ${formatPercent(certificate.gap)}, ${plural(certificate.candidates, "candidate")}`,
      `text ${tone}`,
    ],
    [
      "Fullest rank",
      formatPercent(fullestRank.share),
      `rank ${fullestRank.pipelineRank}: ${formatGib(fullestRank.reservedBytes)} of ${formatBytes(fullestRank.limitBytes)}`,
      fill,
    ],
  ];
  return html`<dl class="cards">${entries.map(
    ([name, value, detail, kind]) =>
      html`<div><dt>${name}</dt><dd class="value ${kind}">${value}</dd><dd class="detail">${detail}</dd></div>`,
  )}</dl>
<p class="lead">${facts.bindingReason} <span>${certificateSentence(plan)} ${confidenceOf(plan).sentence}</span></p>`;
}

export function timeSection(plan: Plan, facts: PlanFacts, step: StepSimulation): Markup {
  const total = facts.time.reduce((sum, { seconds }) => sum + seconds, 0);
  let x = 0;
  const parts = facts.time
    .filter(({ seconds }) => seconds > 0)
    .map(({ term, label, seconds, share }) => {
      const width = total > 0 ? (1000 * seconds) / total : 0;
      const part = html`<rect class="time-${term}" x="${x.toFixed(2)}" width="${width.toFixed(2)}" height="26"><title>${label}: ${formatSeconds(seconds)}, ${formatPercent(share)}</title></rect>`;
      x += width;
      return part;
    });
  const estimated = plan.estimate.stepSeconds;
  const difference = estimated > 0 ? step.stepSeconds / estimated - 1 : 0;
  const simulated =
    Math.abs(difference) < 5e-4
      ? "The simulator gives the same step time."
      : `The simulator gives ${formatSeconds(step.stepSeconds)} (${difference > 0 ? "+" : "−"}${formatPercent(Math.abs(difference))}).`;
  const present = facts.time.filter(({ seconds }) => seconds > 0);
  const gains = savings(plan);
  return html`<section id="time" aria-labelledby="time-title">
<div class="head"><div><h2 id="time-title">Time of one step by kind</h2>
<p class="note">Exposed time on the slowest path; what hides behind compute is not counted. ${overheadSentence(plan, facts)} ${simulated}</p></div></div>
<svg class="bar thick" viewBox="0 0 1000 26" preserveAspectRatio="none" role="img" aria-label="${present.map(({ label, share }) => `${label} ${formatPercent(share)}`).join(", ")}"><rect class="track" width="1000" height="26"/>${parts}</svg>
<table><thead><tr><th scope="col">Kind</th><th scope="col" class="number">Seconds</th><th scope="col" class="number">Share</th></tr></thead>
<tbody>${present.map(({ term, label, seconds, share }) => {
    const strong = term === facts.largest.term ? "strong" : "";
    return html`<tr><th scope="row" class="${strong}"><span class="keyed">${swatch(`time-${term}`)}${label}</span></th><td class="number ${strong}">${formatSeconds(seconds)}</td><td class="number ${strong}">${formatPercent(share)}</td></tr>`;
  })}<tr><th scope="row" class="strong">Step</th><td class="number strong">${formatSeconds(plan.estimate.stepSeconds)}</td><td class="number strong">100 %</td></tr></tbody></table>
${
  gains.length > 0 &&
  html`<details open><summary>The same plan, priced again with one thing changed</summary><table><thead><tr><th scope="col">Changed</th><th scope="col">Acts on</th><th scope="col" class="number">Step</th><th scope="col" class="number">Gain</th></tr></thead><tbody>${gains.map(
    ({ change, relieves, stepSeconds, words }) =>
      html`<tr><th scope="row">${change}</th><td>${relieves.join(", ")}</td><td class="number">${formatSeconds(stepSeconds)}</td><td class="number">${words}</td></tr>`,
  )}</tbody></table></details>`
}
</section>`;
}

export function memorySection(plan: Plan): Markup {
  const { memory } = plan.estimate;
  const largest = Math.max(1, ...memory.map((entry) => Math.max(entry.limitBytes, entry.reservedBytes)));
  const scale = 985 / largest;
  const used = memoryTerms.filter((term) => memory.some((entry) => entry.terms[term] > 0));
  const limits = [...new Set(memory.map((entry) => formatBytes(entry.limitBytes)))];
  return html`<section id="memory" class="long" aria-labelledby="memory-title">
<div class="head"><div><h2 id="memory-title">Memory per pipeline rank</h2>
<p class="note">Peak on each of the rank’s devices. The red line is the limit${limits.length === 1 ? `, ${limits[0]}` : ""}; the allocator reserves more than it hands out.</p></div></div>
<ul class="legend above">${used.map((term) => html`<li>${swatch(`memory-${term}`)}${memoryTermLabels[term]}</li>`)}<li>${swatch("reserved")}Reserved, not allocated</li><li>${swatch("limit")}Limit</li></ul>
<div class="scroll"><table class="${tableClass(memory.length)}">
<thead><tr><th scope="col">Rank</th><th scope="col" class="wide"></th><th scope="col" class="number">Allocated GiB</th><th scope="col" class="number">Reserved GiB</th><th scope="col" class="number">Of limit</th></tr></thead>
<tbody>${memory.map((entry) => {
    const share = entry.limitBytes > 0 ? entry.reservedBytes / entry.limitBytes : 0;
    const tone = share > 1 ? "bad strong" : share >= 0.9 ? "warn strong" : "";
    return html`<tr><th scope="row">${entry.pipelineRank}</th><td class="wide">${memoryBar(entry, scale)}</td><td class="number">${formatGib(entry.allocatedBytes)}</td><td class="number">${formatGib(entry.reservedBytes)}</td><td class="number ${tone}">${formatPercent(share)}</td></tr>`;
  })}</tbody></table></div>
<details><summary>Every term in GiB</summary><div class="scroll"><table><thead><tr><th scope="col">Rank</th><th scope="col" class="number">Devices</th>${memoryTerms.map((term) => html`<th scope="col" class="number">${memoryTermLabels[term]}</th>`)}</tr></thead>
<tbody>${memory.map(
    (entry) =>
      html`<tr><th scope="row">${entry.pipelineRank}</th><td class="number">${formatInteger(entry.devices)}</td>${memoryTerms.map((term) => html`<td class="number">${formatGib(entry.terms[term])}</td>`)}</tr>`,
  )}</tbody></table></div></details>
</section>`;
}

function memoryBar(entry: MemoryEntry, scale: number): Markup {
  let x = 0;
  const rect = (kind: string, bytes: number, label: string) => {
    const width = bytes * scale;
    const part = html`<rect class="${kind}" x="${x.toFixed(2)}" width="${width.toFixed(2)}" height="16"><title>${label}: ${formatBytes(bytes)}</title></rect>`;
    x += width;
    return part;
  };
  const parts = memoryTerms
    .filter((term) => entry.terms[term] > 0)
    .map((term) => rect(`memory-${term}`, entry.terms[term], memoryTermLabels[term]));
  const slack = entry.reservedBytes - entry.allocatedBytes;
  if (slack > 0) parts.push(rect("reserved", slack, "Reserved, not allocated"));
  const label = `Rank ${entry.pipelineRank}: ${formatBytes(entry.reservedBytes)} of ${formatBytes(entry.limitBytes)}`;
  return html`<svg class="bar" viewBox="0 0 1000 16" preserveAspectRatio="none" role="img" aria-label="${label}"><rect class="track" width="${(entry.limitBytes * scale).toFixed(2)}" height="16"/>${parts}<rect class="limit" x="${(entry.limitBytes * scale - 1).toFixed(2)}" width="2" height="16"/></svg>`;
}

export function stageSection(plan: Plan, facts: PlanFacts): Markup {
  const stages = [...plan.stages].sort((a, b) => a.index - b.index);
  return html`<section id="stages" class="long" aria-labelledby="stages-title">
<div class="head"><div><h2 id="stages-title">Stages</h2>
<p class="note">Times are one micro-batch’s, transfer to the next stage included. ${facts.pace.name} sets the pace; the mean ${facts.pace.kind} takes ${formatPercent(facts.balance)} of its time.</p></div></div>
<div class="scroll"><table class="${tableClass(stages.length)}">
<thead><tr><th scope="col">Stage</th><th scope="col">Layers</th><th scope="col" class="number">Count</th><th scope="col">Also holds</th><th scope="col">Recomputes</th><th scope="col" class="number">Forward ms</th><th scope="col" class="number">Backward ms</th><th scope="col">Global ranks</th></tr></thead>
<tbody>${stages.map((stage) => {
    const strong = stage.index === facts.slowestStage.index ? "strong" : "";
    const repeated = recomputeWords(stage);
    const recompute = repeated === "none" ? html`<span class="quiet">–</span>` : repeated;
    return html`<tr><th scope="row">${stage.index}</th><td>${layerRange(stage.layers)}</td><td class="number">${stage.layers.end - stage.layers.start}</td><td>${stageExtras(stage) || html`<span class="quiet">–</span>`}</td><td>${recompute}</td><td class="number ${strong}">${formatMilliseconds(stage.forwardSeconds)}</td><td class="number ${strong}">${formatMilliseconds(stage.backwardSeconds)}</td><td>${deviceRanges(stage.devices)}</td></tr>`;
  })}</tbody></table></div></section>`;
}

export function shardingSection(plan: Plan): Markup | undefined {
  if (!plan.operators.length) return undefined;
  const rows = plan.operators.flatMap(({ block, operator, modules, sharding }) => {
    const axes = Object.entries(sharding);
    return (axes.length ? axes : [["–", { inputs: [], outputs: [] }] as const]).map(
      ([axis, { inputs, outputs }]) =>
        html`<tr><th scope="row">${operator}</th><td>${block}</td><td><code>${modules.join(", ")}</code></td><td>${axis}</td><td><code>${inputs.join(", ")}</code></td><td><code>${outputs.join(", ")}</code></td></tr>`,
    );
  });
  return html`<section id="shardings" class="long" aria-labelledby="shardings-title">
<div class="head"><div><h2 id="shardings-title">Shardings</h2>
<p class="note">Placement of every operator’s operands on each mesh axis, the same in all layers of the block.</p></div></div>
<div class="scroll"><table><thead><tr><th scope="col">Operator</th><th scope="col">Block</th><th scope="col">Modules</th><th scope="col">Axis</th><th scope="col">Inputs</th><th scope="col">Outputs</th></tr></thead><tbody>${rows}</tbody></table></div></section>`;
}

export function rejectedSection(plan: Plan): Markup | undefined {
  if (!plan.rejected.length) return undefined;
  const { stepSeconds } = plan.estimate;
  return html`<section id="rejected" class="long" aria-labelledby="rejected-title">
<div class="head"><div><h2 id="rejected-title">Rejected alternatives</h2><p class="note">The best plans that were not taken, and why.</p></div></div>
<div class="scroll"><table><thead><tr><th scope="col">Plan</th><th scope="col">Why not</th><th scope="col" class="number">Step time</th><th scope="col" class="number">Against this plan</th><th scope="col" class="number">Memory</th></tr></thead>
<tbody>${plan.rejected.map((other) => {
    const change = other.stepSeconds === undefined ? undefined : other.stepSeconds / stepSeconds - 1;
    return html`<tr><th scope="row">${other.plan}</th><td>${other.reason}</td><td class="number">${other.stepSeconds === undefined ? "–" : formatSeconds(other.stepSeconds)}</td><td class="number">${change === undefined ? "–" : `${change < 0 ? "−" : "+"}${formatPercent(Math.abs(change))}`}</td><td class="number">${other.memoryBytes === undefined ? "–" : formatBytes(other.memoryBytes)}</td></tr>`;
  })}</tbody></table></div></section>`;
}

export function baselineSection(plan: Plan): Markup | undefined {
  const rules = baselineFacts(plan);
  if (!rules.length) return undefined;
  return html`<section id="baselines" class="long" aria-labelledby="baselines-title">
<div class="head"><div><h2 id="baselines-title">Rules of thumb</h2><p class="note">What users of Megatron-LM choose without a search, priced by the same cost model.</p></div></div>
<div class="scroll"><table><thead><tr><th scope="col">Rule</th><th scope="col">Its plan</th><th scope="col" class="number">Step time</th><th scope="col" class="number">Memory</th><th scope="col">Against this plan</th></tr></thead>
<tbody>${rules.map(
    ({ title, meaning, plan: words, stepSeconds, memoryBytes, verdict }) =>
      html`<tr><th scope="row" title="${meaning}">${title}</th><td>${words}</td><td class="number">${stepSeconds === undefined ? "–" : formatSeconds(stepSeconds)}</td><td class="number">${memoryBytes === undefined ? "–" : formatBytes(memoryBytes)}</td><td>${verdict}</td></tr>`,
  )}</tbody></table></div></section>`;
}

export function provenanceSection(plan: Plan): Markup {
  const { certificate, provenance, model, cluster, job } = plan;
  const convention = conventionSentence(plan);
  const price = cluster.dollarsPerHour;
  const hash = (sha256: string) => html`<code>${sha256}</code>`;
  const entries: [string, Markup | string][] = [
    ["Figures", html`${provenanceTag(plan)} ${provenanceMeaning[plan.estimate.provenance]}`],
    ["Space searched", certificate.space],
    [
      "Bound",
      `${formatSeconds(certificate.bound)} against ${formatSeconds(certificate.objective)} found, searched for ${formatSeconds(certificate.seconds)}`,
    ],
    ["Model", html`${model.name}, ${formatInteger(model.parameterCount)} parameters, ${model.source}`],
    ["Model hash", hash(model.sha256)],
    [
      "Cluster",
      html`${cluster.name}, ${plural(cluster.devices, "device")} of ${cluster.deviceKind}, ${cluster.devicesPerNode} a node, ${cluster.source}`,
    ],
    ["Cluster hash", hash(cluster.sha256)],
    [
      "Job",
      `parameters ${job.dtypes.parameters}, gradients ${job.dtypes.gradients}, optimizer ${job.optimizer} in ${job.dtypes.optimizer}${job.dtypes.linear ? `, products of linear layers in ${job.dtypes.linear}` : ""}, runtime ${job.runtime}, at most ${formatPercent(job.limits.memoryFraction)} of memory`,
    ],
    ["Job hash", hash(provenance.job)],
    ...(convention ? [["Utilisation", convention] as [string, string]] : []),
    ...(price
      ? [
          [
            "Price",
            `${formatDollars(price.value)} a device and hour, ${price.provenance}: ${price.source}`,
          ] as [string, string],
        ]
      : []),
    ["Written by", `mpopt ${provenance.mpopt}, ${provenance.createdAt}, seed ${provenance.seed}`],
  ];
  for (const [launcher, losses] of Object.entries(plan.lossyFor)) {
    if (losses.length) entries.push([`Not in ${launcher}`, losses.join(" ")]);
  }
  return html`<section id="provenance" aria-labelledby="provenance-title">
<div class="head"><h2 id="provenance-title">Where this comes from</h2></div>
<dl class="facts">${entries.map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl></section>`;
}

function swatch(kind: string): Markup {
  return html`<svg class="swatch" viewBox="0 0 11 11" aria-hidden="true"><rect class="${kind}" width="11" height="11" rx="2"/></svg>`;
}
