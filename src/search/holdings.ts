import { type Action, type ScheduleTable, stageLinks } from "../schedule/index.js";

/**
 * What a rank may hold at one moment: for each stage that it holds, in the order of the schedule's stages, first the
 * micro-batches between their forward and their backward (or backward-input), then those between the halves of
 * their backward.
 */
export type Holding = Int32Array;

/** What the memory of a schedule depends on. */
export interface Holdings {
  /** By rank: moments of which none holds less of everything than another one. */
  ofRank: readonly (readonly Holding[])[];
  /** By rank: whether a forward and a backward run side by side. */
  overlaps: readonly boolean[];
  /** By rank and held stage: versions of the weights. */
  weightVersions: readonly (readonly number[])[];
}

/** What every rank of a schedule holds at its fullest moments. */
export function holdingsOf(table: ScheduleTable): Holdings {
  const { rank } = stageLinks(table);
  const place = new Int32Array(table.stages);
  const held: number[][] = table.ranks.map(() => []);
  for (const [stage, r] of rank.entries()) place[stage] = held[r]!.push(stage) - 1;
  return {
    ofRank: table.ranks.map((actions, r) => fullest(actions, place, held[r]!.length)),
    overlaps: table.ranks.map((actions) => actions.some((action) => action.overlapped)),
    weightVersions: held.map((stages) => stages.map((stage) => table.weightVersions?.[stage] ?? 1)),
  };
}

function fullest(actions: readonly Action[], place: Int32Array, stages: number): Holding[] {
  const now = new Int32Array(2 * stages);
  // Moments of which none holds at least as much of everything as another one.
  let most: Holding[] = [];
  const record = () => {
    if (most.some((other) => holdsAll(other, now))) return;
    const moment = now.slice();
    most = [...most.filter((other) => !holdsAll(moment, other)), moment];
  };
  // Only moments before something is given back can be the fullest.
  let grown = false;
  for (const { kind, stage } of actions) {
    const at = 2 * place[stage]!;
    if (kind === "forward") {
      now[at]!++;
      grown = true;
    } else if (kind === "backward" || kind === "backward-weight") {
      if (grown) record();
      grown = false;
      now[kind === "backward" ? at : at + 1]!--;
    } else if (kind === "backward-input") {
      if (grown) record();
      now[at]!--;
      now[at + 1]!++;
      grown = true;
    }
  }
  if (grown) record();
  return most;
}

/** Whether one moment holds at least as much of everything as another. */
function holdsAll(one: Holding, other: Holding): boolean {
  for (let i = 0; i < one.length; i++) if (one[i]! < other[i]!) return false;
  return true;
}
