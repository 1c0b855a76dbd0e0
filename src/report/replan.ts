import type { Plan } from "../contracts/index.js";
import type { Movement, RankMovement } from "../plan/movement.js";
import { choiceChanges } from "../plan/whatIf.js";
import { shortPlan } from "./choices.js";
import { formatBytes, formatPercent, formatSeconds, plural } from "./format.js";
import { cleanText } from "./text.js";

const mostRows = 16;

/** A plan for what is left in words: what it is, what differs, and what must move. */
export function renderReplan(
  before: Plan,
  after: Plan,
  movement: Movement,
  left: number,
  released: readonly string[],
): string {
  const used = after.rankTable.length;
  const [was, is] = [before.estimate.stepSeconds, after.estimate.stepSeconds];
  const changes = choiceChanges(before, after);
  const lines = [
    `${cleanText(after.model.name)} on ${plural(used, "device")} of ${left} that are left: ${cleanText(shortPlan(after))}`,
    `  ${formatSeconds(is)} a step, before ${formatSeconds(was)} on ${plural(before.rankTable.length, "device")}: ` +
      `${formatPercent((before.rankTable.length * was) / (used * is))} of the speed a device.`,
  ];
  if (used < left) {
    lines.push(`  ${plural(left - used, "device")} stay idle: no plan for all of them is as fast.`);
  }
  if (released.length > 0) lines.push(`  Pins that no plan could keep: ${released.join(", ")}.`);
  lines.push(
    changes.length > 0
      ? `  Changed: ${changes.map(({ field, before: from, after: to }) => `${field} ${from} → ${to}`).join(", ")}.`
      : "  All other choices stay.",
  );
  return [...lines, "", ...movementLines(movement)].join("\n");
}

function movementLines({ ranks, neededBytes, keptBytes, movedBytes, checkpointBytes }: Movement): string[] {
  const lines = [
    `Parameters and optimizer state of all ranks: ${formatBytes(neededBytes)}. Of that ${formatBytes(keptBytes)} are where they are needed,`,
    `${formatBytes(movedBytes)} move between ranks, and ${
      checkpointBytes > 0
        ? `${formatBytes(checkpointBytes)} must come from a checkpoint, because no device that is left holds them.`
        : "nothing is lost."
    }`,
  ];
  const moving = ranks
    .filter(({ from, checkpointBytes: lost }) => from.length > 0 || lost > 0)
    .sort((a, b) => received(b) - received(a) || a.rank - b.rank);
  if (moving.length === 0) return lines;
  lines.push("", "  rank  was  receives        of them from");
  for (const rank of moving.slice(0, mostRows)) {
    const sources = rank.from
      .slice(0, 4)
      .map(({ formerRank, bytes }) => `rank ${formerRank} ${formatBytes(bytes)}`);
    if (rank.from.length > 4) sources.push(`${rank.from.length - 4} others`);
    if (rank.checkpointBytes > 0) sources.push(`checkpoint ${formatBytes(rank.checkpointBytes)}`);
    lines.push(
      `  ${String(rank.rank).padStart(4)} ${String(rank.formerRank ?? "-").padStart(4)}  ${formatBytes(received(rank)).padEnd(14)}  ${sources.join(", ")}`,
    );
  }
  if (moving.length > mostRows) lines.push(`  and ${moving.length - mostRows} ranks that receive less`);
  return lines;
}

function received({ from, checkpointBytes }: RankMovement): number {
  return from.reduce((sum, { bytes }) => sum + bytes, checkpointBytes);
}
