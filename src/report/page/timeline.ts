import type { Plan } from "../../contracts/index.js";
import type { StepSimulation, TimelineEvent } from "../../schedule/index.js";
import { timeTermLabels } from "../facts.js";
import { formatInteger, formatPercent, formatSeconds, plural } from "../format.js";
import { html, json, type Markup, raw } from "./markup.js";

/** Width of the drawing in its own units; all times are rounded to it. */
const ticks = 1_000_000;
/** Keeps the page under 2 MB: one drawn action takes about 40 bytes, as a line and as data. */
const maximumEvents = 24_000;
const maximumRows = 64;
/** Beyond this, a rank shows its first and last actions and a block for the steady state between. */
const maximumEventsPerRow = 3_000;

/** What one rank shows: actions, and where some are left out, the interval that stands for them. */
interface Row {
  rank: number;
  events: readonly TimelineEvent[];
  steady?: { startSeconds: number; endSeconds: number; count: number };
}

/** The pipeline timeline: all of it as vector graphics, made zoomable by the page's script. */
export function timelineSection(plan: Plan, step: StepSimulation): Markup {
  const rows = chooseRows(step);
  const { pipeline, stepSeconds, tail } = step;
  const rankCount = pipeline.ranks.length;
  const rowHeight = rows.length <= 20 ? 22 : rows.length <= 36 ? 15 : 11;
  const gap = rowHeight > 12 ? 3 : 2;
  const height = rows.length * rowHeight;
  const scale = stepSeconds > 0 ? ticks / stepSeconds : 0;
  const at = (seconds: number) => Math.round(seconds * scale);
  const tailShown = tail.filter(({ seconds }) => seconds > 0);

  const rowMarkup = rows.map((row, i) => {
    const middle = i * rowHeight + (rowHeight - gap) / 2;
    const paths: Record<string, string> = { f0: "", f1: "", b0: "", b1: "", steady: "" };
    const line = (name: string, start: number, end: number) => {
      paths[name] += `M${at(start)} ${middle}H${at(end)}`;
    };
    for (const { kind, microBatch, startSeconds, endSeconds } of row.events) {
      line(`${kind[0]}${microBatch % 2}`, startSeconds, endSeconds);
    }
    if (row.steady) line("steady", row.steady.startSeconds, row.steady.endSeconds);
    return html`<rect class="lane" y="${i * rowHeight}" width="${ticks}" height="${rowHeight - gap}"/>${Object.entries(
      paths,
    )
      .filter(([, path]) => path)
      .map(([name, path]) => html`<path class="${name}" d="${raw(path)}"/>`)}`;
  });

  let end = pipeline.stepSeconds;
  const tailMarkup = tailShown.map(({ name, seconds }) => {
    const start = end;
    end += seconds;
    const kind = name === "optimizer" ? "step" : "sync";
    return html`<path class="${kind}" stroke-width="${height - gap}" d="M${at(start)} ${(height - gap) / 2}H${at(end)}"><title>${timeTermLabels[name]}, ${formatSeconds(seconds)}</title></path>`;
  });

  const labels = (side: "left" | "right", width: number, text: (row: Row) => string) =>
    html`<svg class="ranks ${side}" width="${width}" height="${height}" aria-hidden="true">${rows.map(
      (row, i) =>
        html`<text x="${side === "left" ? width - 10 : 10}" y="${i * rowHeight + (rowHeight - gap) / 2 + 4}">${text(row)}</text>`,
    )}</svg>`;

  // The script decides anew after every zoom; without it the drawing stays as it fits about 900 pixels.
  const dense = (900 * meanActionSeconds(plan)) / stepSeconds < 6 ? "dense" : "";
  const description =
    `Timeline of one step: ${plural(rankCount, "pipeline rank")}, ${plural(plan.schedule.microBatches, "micro-batch")}, ` +
    `${formatSeconds(stepSeconds)}; the ranks idle ${formatPercent(pipeline.bubbleRatio)} of the pipeline's time.`;
  const legend: [string, string][] = [
    ["f0", "Forward"],
    ["b0", "Backward"],
    ["lane", "Idle"],
    ...tailShown.map(({ name }): [string, string] => [
      name === "optimizer" ? "step" : "sync",
      timeTermLabels[name],
    ]),
    ...(rows.some((row) => row.steady) ? [["steady", "Steady state, not drawn"] as [string, string]] : []),
  ];
  const ranksShown =
    rows.length < rankCount
      ? ` ${rows.length} of ${formatInteger(rankCount)} ranks are drawn, evenly spaced.`
      : "";

  return html`<section id="timeline" aria-labelledby="timeline-title">
<div class="head"><div><h2 id="timeline-title">Pipeline timeline</h2>
<p class="note">One step, simulated from the stages’ times: ${formatSeconds(pipeline.stepSeconds)} in the pipeline, ${formatPercent(pipeline.bubbleRatio)} of it idle. Zoomed in, shades alternate with the micro-batches.${ranksShown}</p></div>
<div class="controls needs-script"><button type="button" data-zoom="out" aria-label="Zoom out">−</button><button type="button" data-zoom="in" aria-label="Zoom in">+</button><button type="button" data-zoom="fit">Fit</button></div></div>
<div class="timeline">
${labels("left", rankCount > 99 ? 62 : 54, (row) => `rank ${row.rank}`)}
<div class="view" id="timeline-view" tabindex="0" role="group" aria-label="Timeline; plus and minus zoom, arrow keys move, 0 shows all">
<div class="strip" id="timeline-strip">
<svg id="timeline-drawing" class="${dense}" viewBox="0 0 ${ticks} ${height}" preserveAspectRatio="none" width="100%" height="${height}" role="img" aria-label="${description}"><g stroke-width="${rowHeight - gap}">${rowMarkup}</g>${tailMarkup}</svg>
<svg id="timeline-labels" class="labels" width="100%" height="${height}" aria-hidden="true"></svg>
<svg id="timeline-axis" class="axis" width="100%" height="24" aria-hidden="true">${axis(stepSeconds)}</svg>
</div></div>
${labels("right", 84, (row) => `${formatPercent(idleShare(step, row.rank))} idle`)}
</div>
<p class="readout needs-script" id="timeline-readout" aria-live="polite"></p>
<ul class="legend">${legend.map(
    ([kind, label]) =>
      html`<li><svg class="swatch" viewBox="0 0 11 11" aria-hidden="true">${
        kind === "lane"
          ? html`<rect class="lane" width="11" height="11"/>`
          : html`<path class="${kind}" stroke-width="11" d="M0 5.5H11"/>`
      }</svg>${label}</li>`,
  )}</ul>
<details><summary>Busy and idle time of every rank</summary><div class="scroll"><table>
<thead><tr><th scope="col">Rank</th><th scope="col" class="number">Busy</th><th scope="col" class="number">Idle</th><th scope="col" class="number">Idle share</th><th scope="col" class="number">Micro-batches in flight, at most</th></tr></thead>
<tbody>${pipeline.ranks.map(
    (rank, i) =>
      html`<tr><th scope="row">${i}</th><td class="number">${formatSeconds(rank.busySeconds)}</td><td class="number">${formatSeconds(rank.idleSeconds)}</td><td class="number">${formatPercent(idleShare(step, i))}</td><td class="number">${rank.peakMicroBatches}</td></tr>`,
  )}</tbody></table></div></details>
<script type="application/json" id="timeline-data">${json(timelineData(plan, step, rows, rowHeight, gap))}</script>
</section>`;
}

/** Mean time of one action. */
function meanActionSeconds({ stages }: Plan): number {
  const sum = stages.reduce((total, stage) => total + stage.forwardSeconds + stage.backwardSeconds, 0);
  return sum / (2 * stages.length);
}

function idleShare({ pipeline }: StepSimulation, rank: number): number {
  return pipeline.stepSeconds > 0 ? pipeline.ranks[rank]!.idleSeconds / pipeline.stepSeconds : 0;
}

/** Evenly spaced ranks, the first and the last among them, and of long ranks their two ends. */
function chooseRows({ pipeline: { ranks } }: StepSimulation): Row[] {
  const perRow = Math.min(maximumEventsPerRow, Math.max(1, ...ranks.map((rank) => rank.events.length)));
  const count = Math.max(1, Math.min(ranks.length, maximumRows, Math.floor(maximumEvents / perRow)));
  return Array.from({ length: count }, (_, i) => {
    const rank = count === 1 ? 0 : Math.round((i * (ranks.length - 1)) / (count - 1));
    // Updates inside the pipeline (schedules without a flush) belong to no micro-batch and are not drawn.
    const events = ranks[rank]!.events.filter(({ microBatch }) => microBatch >= 0);
    if (events.length <= maximumEventsPerRow) return { rank, events };
    const half = maximumEventsPerRow / 2;
    const head = events.slice(0, half);
    const tail = events.slice(-half);
    return {
      rank,
      events: [...head, ...tail],
      steady: {
        startSeconds: head.at(-1)!.endSeconds,
        endSeconds: tail[0]!.startSeconds,
        count: events.length - 2 * half,
      },
    };
  });
}

/**
 * What the script needs to name an action under the pointer. `events` holds pairs: ticks since the start of the
 * one before, and (stage x micro-batches + micro-batch) x 2, plus 1 for a backward.
 */
function timelineData(plan: Plan, step: StepSimulation, rows: Row[], rowHeight: number, gap: number) {
  const { microBatches } = plan.schedule;
  const scale = step.stepSeconds > 0 ? ticks / step.stepSeconds : 0;
  const stages = [...plan.stages].sort((a, b) => a.index - b.index);
  return {
    ticks,
    seconds: step.stepSeconds,
    microBatches,
    rowHeight,
    gap,
    forward: stages.map((stage) => Math.round(stage.forwardSeconds * scale)),
    backward: stages.map((stage) => Math.round(stage.backwardSeconds * scale)),
    rows: rows.map((row) => {
      let before = 0;
      const events: number[] = [];
      for (const { kind, stage, microBatch, startSeconds } of row.events) {
        const start = Math.round(startSeconds * scale);
        events.push(start - before, (stage * microBatches + microBatch) * 2 + (kind === "forward" ? 0 : 1));
        before = start;
      }
      return { rank: row.rank, events };
    }),
  };
}

/** Ticks of the whole step; the script draws finer ones when zoomed. */
function axis(seconds: number): Markup[] {
  if (!(seconds > 0)) return [];
  const parts = 8;
  return Array.from({ length: parts + 1 }, (_, i) => {
    const x = `${(100 * i) / parts}%`;
    const place = i === 0 ? "first" : i === parts ? "last" : "inner";
    return html`<line x1="${x}" x2="${x}" y1="0" y2="5"/><text class="${place}" x="${x}" y="19">${i === 0 ? "0" : formatSeconds((seconds * i) / parts)}</text>`;
  });
}
