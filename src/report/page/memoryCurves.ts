import type { MemoryCurve, RankMemory, SimulatedMemoryTerm, StepSimulation } from "../../schedule/index.js";
import { formatBytes, formatGib, formatSeconds, plural } from "../format.js";
import { html, json, type Markup, raw } from "./markup.js";

/** Steps in which a curve is drawn; each shows the fullest moment in it, so that no peak is lost. */
const buckets = 300;
/** Height of a chart in its own units. */
const unit = 1000;
const maximumCharts = 32;

/** Bottom to top, with the colour and the name of each band; the simulator's workspace holds logits, too. */
const bands: readonly { term: SimulatedMemoryTerm; color: string; label: string }[] = [
  { term: "context", color: "memory-context", label: "Context" },
  { term: "parameters", color: "memory-parameters", label: "Parameters" },
  { term: "gradients", color: "memory-gradients", label: "Gradients" },
  { term: "optimizer", color: "memory-optimizer", label: "Optimizer" },
  { term: "transferBuffers", color: "memory-logits", label: "Transfer buffers" },
  { term: "activations", color: "memory-activations", label: "Activations" },
  { term: "workspace", color: "memory-workspace", label: "Workspace and logits" },
];

/**
 * Memory of every rank over the step, with its limit and its peak; nothing where it was not simulated.
 * @param limits bytes, one entry a rank; undefined where it is not known.
 */
export function memoryCurveSection(
  step: StepSimulation,
  limits: readonly (number | undefined)[],
): Markup | undefined {
  const { ranks } = step.pipeline;
  if (!ranks.every(({ memory }) => memory?.curve) || !(step.stepSeconds > 0)) return undefined;
  const limitOf = (rank: number) => limits[rank] ?? 0;
  const memories = ranks.map(({ memory }) => memory!);
  const shown = chooseRanks(memories.map(({ peakAllocatedBytes: peak }, r) => peak / (limitOf(r) || 1)));
  const top = 1.04 * Math.max(1, ...shown.map((r) => Math.max(limitOf(r), memories[r]!.peakAllocatedBytes)));
  const used = bands.filter(({ term }) =>
    shown.some((r) => memories[r]!.curve!.terms[term].some((bytes) => bytes > 0)),
  );
  const curves = shown.map((r) => ({ rank: r, samples: samplesOf(memories[r]!.curve!, step.stepSeconds) }));
  const left =
    shown.length < ranks.length
      ? ` ${shown.length} of ${plural(ranks.length, "rank")} are drawn, the fullest among them.`
      : "";
  return html`<section id="memory-time" class="long" aria-labelledby="memory-time-title">
<div class="head"><div><h2 id="memory-time-title">Memory over the step</h2>
<p class="note">What each device of a rank has allocated, all on one scale. The red line is the limit, the dot the peak.${left}</p></div></div>
<ul class="legend above">${used.map(
    ({ color, label }) =>
      html`<li><svg class="swatch" viewBox="0 0 11 11" aria-hidden="true"><rect class="${color}" width="11" height="11" rx="2"/></svg>${label}</li>`,
  )}</ul>
<div class="charts">${curves.map(({ rank, samples }, i) => {
    const memory = memories[rank]!;
    return chart(rank, i, memory, samples, limitOf(rank), top, step.stepSeconds);
  })}</div>
<p class="readout needs-script" id="memory-readout" aria-live="polite"></p>
<script type="application/json" id="memory-data">${json({
    ...{ seconds: step.stepSeconds, buckets },
    curves: curves.map(({ rank, samples }) => ({ rank, runs: runsOf(memories[rank]!.curve!, samples) })),
  })}</script>
</section>`;
}

function chart(
  rank: number,
  index: number,
  memory: RankMemory,
  samples: Int32Array,
  limitBytes: number,
  top: number,
  stepSeconds: number,
): Markup {
  const { peakAllocatedBytes: peak, peakSeconds, curve } = memory;
  const y = (bytes: number) => Math.round(unit * (1 - bytes / top));
  const sums = new Float64Array(buckets);
  const areas = bands.flatMap(({ term, color }) => {
    const bytes = curve!.terms[term];
    if (!bytes.some((each) => each > 0)) return [];
    let path = "";
    let before = Number.NaN;
    samples.forEach((sample, k) => {
      sums[k] = sums[k]! + bytes[sample]!;
      const level = y(sums[k]!);
      if (level === before) return;
      path += k === 0 ? `M0 ${unit}V${level}` : `H${k}V${level}`;
      before = level;
    });
    return [html`<path class="${color}" d="${raw(`${path}H${buckets}V${unit}Z`)}"/>`];
  });
  // The highest band lies at the back, so that each shows above the one below it.
  areas.reverse();
  const label =
    `Memory of rank ${rank} over the step: at most ${formatBytes(peak)} at ${formatSeconds(peakSeconds)}` +
    (limitBytes > 0 ? `, limit ${formatBytes(limitBytes)}` : "");
  const over = limitBytes > 0 && memory.reservedBytes > limitBytes;
  const tone = over ? "bad strong" : "";
  const reserved = over ? `, ${formatGib(memory.reservedBytes)} reserved` : "";
  const x = ((buckets * peakSeconds) / stepSeconds).toFixed(1);
  const limit = limitBytes > 0 && html`<path class="limit-line" d="M0 ${y(limitBytes)}H${buckets}"/>`;
  return html`<figure><figcaption><span>Rank ${rank}</span><span class="${tone}">peak ${formatGib(peak)} GiB at ${formatSeconds(peakSeconds)}${reserved}</span></figcaption>
<svg data-curve="${index}" viewBox="0 0 ${buckets} ${unit}" preserveAspectRatio="none" role="img" aria-label="${label}"><rect class="track" width="${buckets}" height="${unit}"/>${areas}${limit}<path class="peak" d="M${x} ${y(peak)}h0"/></svg></figure>`;
}

/** By bucket: the sample of the curve at which most is allocated while the bucket lasts. */
function samplesOf({ seconds, allocatedBytes }: MemoryCurve, stepSeconds: number): Int32Array {
  const samples = new Int32Array(buckets);
  let at = 0;
  for (let k = 0; k < buckets; k++) {
    const end = (stepSeconds * (k + 1)) / buckets;
    let most = at;
    while (at + 1 < seconds.length && seconds[at + 1]! < end) {
      at++;
      if (allocatedBytes[at]! > allocatedBytes[most]!) most = at;
    }
    samples[k] = most;
  }
  return samples;
}

/** Triples for the script: how many buckets, and their allocated bytes and activations, MiB. */
function runsOf({ allocatedBytes, terms }: MemoryCurve, samples: Int32Array): number[] {
  const runs: number[] = [];
  for (const sample of samples) {
    const [all, activations] = [allocatedBytes[sample]!, terms.activations[sample]!].map((bytes) =>
      Math.round(bytes / 2 ** 20),
    );
    const last = runs.length - 3;
    if (runs[last + 1] === all && runs[last + 2] === activations) runs[last] = runs[last]! + 1;
    else runs.push(1, all!, activations!);
  }
  return runs;
}

/** All ranks, or of many evenly spaced ones, the first, the last and the fullest among them. */
function chooseRanks(shares: number[]): number[] {
  const { length } = shares;
  if (length <= maximumCharts) return [...shares.keys()];
  const spaced = Array.from({ length: maximumCharts - 1 }, (_, i) =>
    Math.round((i * (length - 1)) / (maximumCharts - 2)),
  );
  const fullest = shares.indexOf(Math.max(...shares));
  return [...new Set([...spaced, fullest])].sort((a, b) => a - b);
}
