import type { StepSimulation, WaitCause } from "../../schedule/index.js";
import { timeTermLabels, waitLabels, waitSentence } from "../facts.js";
import { formatPercent, formatSeconds } from "../format.js";
import { html, type Markup } from "./markup.js";

/** Longer tables get narrow rows, as elsewhere on the page. */
const compactRows = 24;
const causes = Object.keys(waitLabels) as WaitCause[];

interface Part {
  kind: string;
  label: string;
  seconds: number;
}

/** A bar a rank: when it computes, what it waits for, and what all ranks do after their last backward. */
export function waitSection(step: StepSimulation): Markup {
  const { pipeline, stepSeconds } = step;
  const { ranks } = pipeline;
  const parts = ranks.map((_, r) => partsOf(step, r).filter(({ seconds }) => seconds > 0));
  const used = new Map(parts.flat().map(({ kind, label }) => [kind, label]));
  const order = [
    "time-compute",
    ...causes.map((cause) => `wait-${cause}`),
    "time-gradientSynchronisation",
    "time-optimizer",
  ];
  const share = (seconds: number) => (stepSeconds > 0 ? seconds / stepSeconds : 0);
  const shown = causes.filter((cause) => used.has(`wait-${cause}`));
  const compact = ranks.length > compactRows ? "compact" : "";
  return html`<section id="waits" class="long" aria-labelledby="waits-title">
<div class="head"><div><h2 id="waits-title">Where each rank waits</h2>
<p class="note">The whole step of each rank. Where an action waits for several things, the one that comes last counts.</p></div></div>
<ul class="legend above">${order
    .filter((kind) => used.has(kind))
    .map(
      (kind) =>
        html`<li><svg class="swatch" viewBox="0 0 11 11" aria-hidden="true"><rect class="${kind}" width="11" height="11" rx="2"/></svg>${used.get(kind)}</li>`,
    )}</ul>
<div class="scroll"><table class="${compact}">
<thead><tr><th scope="col">Rank</th><th scope="col" class="wide"></th><th scope="col" class="number">Computes</th><th scope="col" class="number">Waits</th><th scope="col">Longest wait</th></tr></thead>
<tbody>${ranks.map((rank, r) => {
    const longest = rank.waits.find(({ cause }) => cause !== "end") ?? rank.waits[0];
    const sentence = longest ? `${waitSentence(longest)}, ${formatSeconds(longest.seconds)}` : "none";
    const text = parts[r]!.map(({ label, seconds }) => `${label} ${formatPercent(share(seconds))}`);
    return html`<tr><th scope="row">${r}</th><td class="wide">${bar(parts[r]!, share, `Rank ${r}: ${text.join(", ")}`)}</td><td class="number">${formatPercent(share(rank.busySeconds))}</td><td class="number">${formatPercent(share(rank.idleSeconds))}</td><td class="sentence">${sentence}</td></tr>`;
  })}</tbody></table></div>
${
  shown.length > 0 &&
  html`<details><summary>Every wait in seconds</summary><div class="scroll"><table>
<thead><tr><th scope="col">Rank</th>${shown.map((cause) => html`<th scope="col" class="number">${waitLabels[cause]}</th>`)}</tr></thead>
<tbody>${ranks.map(
    ({ waits }, r) =>
      html`<tr><th scope="row">${r}</th>${shown.map((cause) => {
        const seconds = waits
          .filter((wait) => wait.cause === cause)
          .reduce((sum, wait) => sum + wait.seconds, 0);
        return html`<td class="number">${seconds > 0 ? formatSeconds(seconds) : html`<span class="quiet">–</span>`}</td>`;
      })}</tr>`,
  )}</tbody></table></div></details>`
}
</section>`;
}

function partsOf({ pipeline, tail }: StepSimulation, r: number): Part[] {
  const { busySeconds, waits } = pipeline.ranks[r]!;
  return [
    { kind: "time-compute", label: "Computes", seconds: busySeconds },
    ...causes.map((cause) => ({
      kind: `wait-${cause}`,
      label: waitLabels[cause],
      seconds: waits.filter((wait) => wait.cause === cause).reduce((sum, { seconds }) => sum + seconds, 0),
    })),
    ...tail.map(({ name, seconds }) => ({ kind: `time-${name}`, label: timeTermLabels[name], seconds })),
  ];
}

function bar(parts: Part[], share: (seconds: number) => number, label: string): Markup {
  let x = 0;
  const drawn = parts.map(({ kind, label: name, seconds }) => {
    const width = 1000 * share(seconds);
    const rect = html`<rect class="${kind}" x="${x.toFixed(2)}" width="${width.toFixed(2)}" height="16"><title>${name}: ${formatSeconds(seconds)}, ${formatPercent(share(seconds))}</title></rect>`;
    x += width;
    return rect;
  });
  return html`<svg class="bar" viewBox="0 0 1000 16" preserveAspectRatio="none" role="img" aria-label="${label}"><rect class="track" width="1000" height="16"/>${drawn}</svg>`;
}
