import type { ActionKind, Simulation, TimelineEvent } from "../schedule/index.js";

/** Letters as in schedule CSVs; the second of two chunks on a rank gets the small ones. */
const letters: Partial<Record<ActionKind, string>> = {
  forward: "F",
  backward: "B",
  "backward-input": "I",
  "backward-weight": "W",
};

/** A drawing for people has no use for more. */
const maximumRanks = 32;

/**
 * The pipeline's timeline as text, one line a rank: F0 is the forward of micro-batch 0, B0 its backward, I0 and W0
 * the halves of a split one, in small letters on each odd chunk of a rank; dots are idle time.
 * @param simulation one that lists its events.
 * @param width columns of the terminal.
 * @returns no lines where it would need more columns or too many ranks.
 */
export function renderTimeline(simulation: Simulation, width: number): string[] {
  const { ranks, stepSeconds } = simulation;
  // Every action takes two columns or more.
  if (ranks.length > maximumRanks || ranks.some(({ events }) => 2 * events.length > width)) return [];
  const drawn = ranks.map(({ events }) => sideBySide(events.filter(({ kind }) => letters[kind])));
  const labels = drawn.map((cells) => {
    const stages = [...new Set(cells.map(({ stage }) => stage))].sort((a, b) => a - b);
    return cells.map(({ kind, stage, microBatch }) => {
      const letter = letters[kind]!;
      return `${stages.indexOf(stage) % 2 ? letter.toLowerCase() : letter}${microBatch}`;
    });
  });
  // Columns a second, so that every label fits.
  let scale = 0;
  drawn.forEach((cells, r) => {
    cells.forEach(({ startSeconds, endSeconds }, i) => {
      const seconds = endSeconds - startSeconds;
      if (seconds > 0) scale = Math.max(scale, labels[r]![i]!.length / seconds);
    });
  });
  const margin = `rank ${ranks.length - 1}  `.length;
  const columns = Math.round(stepSeconds * scale);
  if (scale === 0 || margin + columns > width) return [];
  return drawn.map((cells, r) => {
    const line = new Array<string>(columns).fill("·");
    cells.forEach(({ startSeconds, endSeconds }, i) => {
      const from = Math.round(startSeconds * scale);
      const to = Math.round(endSeconds * scale);
      const text = labels[r]![i]!.padEnd(to - from, "-").slice(0, to - from);
      for (let k = 0; k < text.length; k++) line[from + k] = text[k]!;
    });
    return `rank ${r}`.padEnd(margin) + line.join("");
  });
}

/** Overlapped pairs, which share their time, one behind the other in halves of it. */
function sideBySide(events: readonly TimelineEvent[]): TimelineEvent[] {
  return events.map((event, i) => {
    const { startSeconds, endSeconds } = event;
    const middle = (startSeconds + endSeconds) / 2;
    const shares = (other: TimelineEvent | undefined) =>
      other !== undefined && other.startSeconds === startSeconds && other.endSeconds === endSeconds;
    if (startSeconds === endSeconds) return event;
    if (shares(events[i + 1])) return { ...event, endSeconds: middle };
    return shares(events[i - 1]) ? { ...event, startSeconds: middle } : event;
  });
}
