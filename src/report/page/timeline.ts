import type { ActionKind, StepSimulation, TimelineEvent } from "../../schedule/index.js";
import { timeTermLabels } from "../facts.js";
import { formatInteger, formatPercent, formatSeconds, plural } from "../format.js";
import { type ActionLetter, actionLetters, shadeOf } from "./colors.js";
import { html, json, type Markup, raw } from "./markup.js";

/** Width of the drawing in its own units; all times are rounded to it. */
const ticks = 1_000_000;
/** Keeps the page under 2 MB: one drawn action takes about 40 bytes, as a line and as data. */
const maximumEvents = 24_000;
const maximumRows = 64;
/** Beyond this, a rank shows its first and last actions and a block for the steady state between. */
const maximumEventsPerRow = 3_000;
/** Pixels that the static drawing is laid out for; the script decides anew after every zoom. */
const expectedPixels = 900;

const letterOf: Partial<Record<ActionKind, ActionLetter>> = {
  forward: "f",
  backward: "b",
  "backward-input": "i",
  "backward-weight": "w",
};
const letterLabels: Readonly<Record<ActionLetter, string>> = {
  f: "Forward",
  b: "Backward",
  i: "Backward, input half",
  w: "Backward, weight half",
};

/** What one rank shows: actions, and where some are left out, the interval that stands for them. */
interface Row {
  rank: number;
  /** The rank's stages in ascending order: its chunks. */
  stages: number[];
  events: readonly TimelineEvent[];
  steady?: { startSeconds: number; endSeconds: number; count: number };
}

/** The pipeline timeline: all of it as vector graphics, drawn anew and made zoomable by the page's script. */
export function timelineSection(step: StepSimulation): Markup {
  const rows = chooseRows(step);
  const { pipeline, stepSeconds, table } = step;
  const rankCount = pipeline.ranks.length;
  const chunks = Math.max(1, ...rows.map(({ stages }) => stages.length));
  const rowHeight = rows.length <= 20 ? 22 : rows.length <= 36 ? 15 : 11;
  const gap = rowHeight > 12 ? 3 : 2;
  const height = rows.length * rowHeight;
  const at = ticksOf(stepSeconds);
  const tailShown = tailBlocks(step).filter(({ end, start }) => end > start);
  const drawn = new Set<ActionLetter>();

  const rowMarkup = rows.map((row, i) => {
    const top = i * rowHeight;
    const thickness = rowHeight - gap;
    const paths = new Map<string, string>();
    const line = (name: string, y: number, start: number, end: number) => {
      paths.set(name, `${paths.get(name) ?? ""}M${start} ${y}H${end}`);
    };
    row.events.forEach((event, k) => {
      const letter = letterOf[event.kind]!;
      drawn.add(letter);
      const name = `${letter}${shadeOf(row.stages.indexOf(event.stage), chunks)}`;
      const [start, end] = [at(event.startSeconds), at(event.endSeconds)];
      const half = halfOf(row.events, k);
      // A hairline parts neighbours that are wide enough to be told apart.
      const trim =
        (end - start) * expectedPixels > 6 * ticks ? Math.round((0.8 * ticks) / expectedPixels) : 0;
      const y = top + thickness * (half === 0 ? 0.5 : half === 1 ? 0.25 : 0.75);
      line(half === 0 ? name : `${name} half`, y, start, end - trim);
    });
    if (row.steady) {
      line("steady", top + thickness / 2, at(row.steady.startSeconds), at(row.steady.endSeconds));
    }
    const strokes = [...paths].map(([name, path]) => {
      const width = name.endsWith("half") ? thickness / 2 : thickness;
      return html`<path class="${name}" stroke-width="${width}" d="${raw(path)}"/>`;
    });
    return html`<rect class="lane" y="${top}" width="${ticks}" height="${thickness}"/>${strokes}`;
  });
  const tailMarkup = tailShown.map(
    ({ kind, label, start, end }) =>
      html`<path class="${kind}" stroke-width="${height - gap}" d="M${start} ${(height - gap) / 2}H${end}"><title>${label}</title></path>`,
  );

  const labels = (side: "left" | "right", width: number, text: (row: Row) => string) =>
    html`<svg class="ranks ${side}" width="${width}" height="${height}" aria-hidden="true">${rows.map(
      (row, i) =>
        html`<text x="${side === "left" ? width - 10 : 10}" y="${i * rowHeight + (rowHeight - gap) / 2 + 4}">${text(row)}</text>`,
    )}</svg>`;
  const description =
    `Timeline of one step: ${plural(rankCount, "pipeline rank")}, ${plural(table.microBatches, "micro-batch")}, ` +
    `${formatSeconds(stepSeconds)}; the ranks idle ${formatPercent(pipeline.bubbleRatio)} of the pipeline's time.`;
  const ranksShown =
    rows.length < rankCount
      ? ` ${rows.length} of ${formatInteger(rankCount)} ranks are drawn, evenly spaced.`
      : "";
  const chunkNote = chunks > 1 ? ` Paler shades are later chunks of a rank.` : "";

  return html`<section id="timeline" aria-labelledby="timeline-title">
<div class="head"><div><h2 id="timeline-title">Pipeline timeline</h2>
<p class="note">One step, simulated from the stages’ times: ${formatSeconds(pipeline.stepSeconds)} in the pipeline, ${formatPercent(pipeline.bubbleRatio)} of it idle. Zoomed in, actions show their micro-batch.${chunkNote}${ranksShown}</p></div>
<div class="controls needs-script"><button type="button" data-zoom="out" aria-label="Zoom out">−</button><button type="button" data-zoom="in" aria-label="Zoom in">+</button><button type="button" data-zoom="fit">Fit</button></div></div>
<div class="timeline">
${labels("left", rankCount > 99 ? 62 : 54, (row) => `rank ${row.rank}`)}
<div class="view" id="timeline-view" tabindex="0" role="group" aria-label="Timeline; plus and minus zoom, 0 shows all, left and right move, up and down choose a rank, brackets step through its actions">
<div class="strip" id="timeline-strip">
<svg id="timeline-drawing" viewBox="0 0 ${ticks} ${height}" preserveAspectRatio="none" width="100%" height="${height}" role="img" aria-label="${description}">${rowMarkup}${tailMarkup}</svg>
<svg id="timeline-axis" class="axis" width="100%" height="24" aria-hidden="true">${axis(stepSeconds)}</svg>
<canvas id="timeline-canvas" class="needs-script" role="img" aria-label="${description}"></canvas>
</div></div>
${labels("right", 84, (row) => `${formatPercent(idleShare(step, row.rank))} idle`)}
</div>
<p class="readout needs-script" id="timeline-readout" aria-live="polite"></p>
<ul class="legend">${actionLetters
    .filter((letter) => drawn.has(letter))
    .map((letter) => {
      const levels = [...new Set(Array.from({ length: chunks }, (_, c) => shadeOf(c, chunks)))];
      const chunkLabel = chunks > 1 ? `, chunks 0–${chunks - 1}` : "";
      return html`<li>${levels.map((level) => swatch(`${letter}${level}`))}${letterLabels[letter]}${chunkLabel}</li>`;
    })}<li><svg class="swatch" viewBox="0 0 11 11" aria-hidden="true"><rect class="lane" width="11" height="11"/></svg>Idle</li>${tailShown.map(
    ({ kind, label }) => html`<li>${swatch(kind)}${label.split(",")[0]!}</li>`,
  )}${rows.some((row) => row.steady) && html`<li>${swatch("steady")}Steady state, not drawn</li>`}</ul>
<details><summary>Busy and idle time of every rank</summary><div class="scroll"><table>
<thead><tr><th scope="col">Rank</th><th scope="col" class="number">Busy</th><th scope="col" class="number">Idle</th><th scope="col" class="number">Idle share</th><th scope="col" class="number">Micro-batches in flight, at most</th></tr></thead>
<tbody>${pipeline.ranks.map(
    (rank, i) =>
      html`<tr><th scope="row">${i}</th><td class="number">${formatSeconds(rank.busySeconds)}</td><td class="number">${formatSeconds(rank.idleSeconds)}</td><td class="number">${formatPercent(idleShare(step, i))}</td><td class="number">${rank.peakMicroBatches}</td></tr>`,
  )}</tbody></table></div></details>
<script type="application/json" id="timeline-data">${json({
    ...{ ticks, seconds: stepSeconds, microBatches: table.microBatches, rowHeight, gap, chunks },
    tail: tailShown,
    shades: Array.from({ length: chunks }, (_, chunk) => shadeOf(chunk, chunks)),
    rows: rows.map((row) => rowData(row, table.microBatches, at)),
  })}</script>
</section>`;

  function swatch(kind: string): Markup {
    return html`<svg class="swatch" viewBox="0 0 11 11" aria-hidden="true"><path class="${kind}" stroke-width="11" d="M0 5.5H11"/></svg>`;
  }
}

const ticksOf = (stepSeconds: number) => {
  const scale = stepSeconds > 0 ? ticks / stepSeconds : 0;
  return (seconds: number) => Math.round(seconds * scale);
};

/** What all ranks do after their last backward, in ticks. */
function tailBlocks({ pipeline, tail, stepSeconds }: StepSimulation) {
  const at = ticksOf(stepSeconds);
  let end = pipeline.stepSeconds;
  return tail.map(({ name, seconds }) => {
    const start = end;
    end += seconds;
    return {
      kind: name === "optimizer" ? "step" : "sync",
      label: `${timeTermLabels[name]}, ${formatSeconds(seconds)}`,
      start: at(start),
      end: at(end),
    };
  });
}

/** 1 and 2 for the upper and the lower of two actions that run side by side, otherwise 0. */
function halfOf(events: readonly TimelineEvent[], i: number): 0 | 1 | 2 {
  const { startSeconds, endSeconds } = events[i]!;
  const beside = (other: TimelineEvent | undefined) =>
    other?.startSeconds === startSeconds && other.endSeconds === endSeconds && endSeconds > startSeconds;
  return beside(events[i + 1]) ? 1 : beside(events[i - 1]) ? 2 : 0;
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
    const stages = [...new Set(events.map(({ stage }) => stage))].sort((a, b) => a - b);
    if (events.length <= maximumEventsPerRow) return { rank, stages, events };
    const half = maximumEventsPerRow / 2;
    const head = events.slice(0, half);
    const tail = events.slice(-half);
    return {
      rank,
      stages,
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
 * What the script needs to draw a row and to name the action under the pointer. `events` holds triples: ticks since
 * the start of the one before, ticks that it takes, and (chunk x micro-batches + micro-batch) x 4 + its kind.
 */
function rowData(
  { rank, stages, events, steady }: Row,
  microBatches: number,
  at: (seconds: number) => number,
) {
  let before = 0;
  const list: number[] = [];
  for (const { kind, stage, microBatch, startSeconds, endSeconds } of events) {
    const start = at(startSeconds);
    const code =
      (stages.indexOf(stage) * microBatches + microBatch) * 4 + actionLetters.indexOf(letterOf[kind]!);
    list.push(start - before, at(endSeconds) - start, code);
    before = start;
  }
  const between = steady && [at(steady.startSeconds), at(steady.endSeconds), steady.count];
  return { rank, stages, events: list, ...(between ? { steady: between } : {}) };
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
