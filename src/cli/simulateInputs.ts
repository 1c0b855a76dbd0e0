import { InvalidArgumentError } from "commander";
import { MpoptError, type Plan, readDocument, readText } from "../contracts/index.js";
import {
  boundariesOf,
  canonicalScheduleName,
  readScheduleCsv,
  type ScheduleSearch,
  type ScheduleTable,
  type SimulateOptions,
  type StepSimulation,
  scheduleByName,
  scheduleNames,
  scheduleShape,
  simulate,
  simulatePlan,
  stageLinks,
} from "../schedule/index.js";
import {
  misfit,
  ranksOf,
  type SearchContext,
  searchAlone,
  searchForPlan,
  wrongGroups,
} from "./simulateSearch.js";

/** Forward, backward-input and backward-weight of one micro-batch on one stage. */
export type UnitTimes = readonly [number, number, number];

/** The options of `mpopt simulate` that say what to play. */
export interface SimulateInputs {
  plan?: string;
  schedule?: string;
  actions?: string;
  ranks?: number;
  chunks?: number;
  microBatches?: number;
  groupSize?: number;
  times?: UnitTimes[];
  transfer?: number;
  placement?: "loop" | "v";
  inFlight?: number;
  timeLimit?: number;
}

/** A schedule played in time, with what is known around it. */
export interface Played {
  step: StepSimulation;
  /** Where the schedule was searched. */
  search?: ScheduleSearch;
  plan?: Plan;
  /** One entry a rank: what its devices reserve at most; null where that is not known. */
  peakBytes: (number | null)[];
}

/** Names that --schedule takes. */
export const simulatedNames: readonly string[] = [...scheduleNames, "searched"];

/** Parses "1,1,1", or one such group a stage, separated by "/". */
export function parseTimes(text: string): UnitTimes[] {
  return text.split("/").map((group) => {
    const parts = group.split(",").map((part) => (part.trim() === "" ? Number.NaN : Number(part)));
    if (parts.length !== 3 || !parts.every((value) => value >= 0 && value < Number.POSITIVE_INFINITY)) {
      throw new InvalidArgumentError(
        `Expected three times of at least 0, such as 1,1,1 (forward, backward-input, backward-weight), but found "${group}".`,
      );
    }
    return parts as unknown as UnitTimes;
  });
}

/**
 * Plays what the options name.
 * @throws MpoptError E_USAGE for options that do not go together, E_INFEASIBLE where a search finds no room, and as
 * `readDocument`, `readScheduleCsv`, `scheduleByName` and `simulate`.
 */
export async function play(
  given: SimulateInputs,
  context: SearchContext,
  options: Pick<SimulateOptions, "events" | "transfers" | "memoryCurve">,
): Promise<Played> {
  const found = requireConsistent(given);
  return found === "plan" ? playPlan(given, context, options) : playAlone(given, context, options);
}

/** An option without effect would be ignored in silence. */
function requireConsistent(given: SimulateInputs): "plan" | "alone" {
  const refuse = (expected: string, found: string, notes: string[] = []) => {
    throw new MpoptError("E_USAGE", `Expected ${expected} but found ${found}.`, notes);
  };
  const flags = {
    ranks: "--ranks",
    chunks: "--chunks",
    microBatches: "--micro-batches",
    times: "--times",
    transfer: "--transfer",
    placement: "--placement",
    inFlight: "--in-flight",
    groupSize: "--group-size",
    timeLimit: "--time-limit",
  } as const;
  const forbid = (names: (keyof typeof flags)[], why: string) => {
    const name = names.find((each) => given[each] !== undefined);
    if (name) refuse(why, flags[name]);
  };
  const { plan, schedule, actions } = given;
  const searched = schedule?.toLowerCase() === "searched";
  if (schedule !== undefined && actions !== undefined) refuse("either --schedule or --actions", "both");
  if (schedule !== undefined && !searched) requireName(schedule);
  if (actions !== undefined) forbid(["groupSize"], "the order of the actions to come from --actions alone");
  if (!searched) {
    const why = "options of a search with --schedule searched alone";
    forbid(["placement", "inFlight", "timeLimit"], why);
  } else forbid(["groupSize"], "no group size for a searched schedule");
  if (plan !== undefined) {
    const why = "stages, micro-batches, times and memory to come from --plan alone";
    forbid(["ranks", "chunks", "microBatches", "times", "transfer", "placement", "inFlight"], why);
    if (schedule === undefined) forbid(["groupSize"], "--schedule beside a group size");
    return "plan";
  }
  if (actions !== undefined) {
    forbid(["ranks", "chunks", "microBatches"], "counts to come from --actions alone");
  } else {
    const example = "mpopt simulate --schedule zbv --ranks 4 --micro-batches 8 --times 1,1,1";
    if (schedule === undefined) refuse("--plan, --schedule or --actions", "none", [`Example: ${example}`]);
    if (given.ranks === undefined) refuse("--ranks beside --schedule", "none", [`Example: ${example}`]);
    if (given.microBatches === undefined) {
      refuse("--micro-batches beside --schedule", "none", [`Example: ${example}`]);
    }
  }
  return "alone";
}

/** A wrong name on the command line is a wrong call, not a wrong plan. */
function requireName(name: string): void {
  try {
    canonicalScheduleName(name);
  } catch (error) {
    if (!(error instanceof MpoptError)) throw error;
    throw new MpoptError("E_USAGE", error.message, [`Known schedules: ${simulatedNames.join(", ")}.`]);
  }
}

async function playPlan(
  given: SimulateInputs,
  context: SearchContext,
  options: Pick<SimulateOptions, "events" | "transfers" | "memoryCurve">,
): Promise<Played> {
  const plan = readDocument("plan", given.plan!);
  const { schedule: name, actions } = given;
  if (name === undefined && actions === undefined) {
    const step = simulatePlan(plan, { ...options, memory: options.memoryCurve });
    const reserved = new Map(plan.estimate.memory.map((each) => [each.pipelineRank, each.reservedBytes]));
    return { step, plan, peakBytes: step.pipeline.ranks.map((_, r) => reserved.get(r) ?? null) };
  }
  let search: ScheduleSearch | undefined;
  let table: ScheduleTable;
  if (actions !== undefined) table = readActions(actions);
  else if (name!.toLowerCase() === "searched") {
    search = await searchForPlan(plan, given, context);
    table = search.table;
  } else table = namedForPlan(plan, name!, given.groupSize);
  requirePlacement(plan, table);
  const step = simulatePlan(plan, { ...options, memory: true, table });
  const peakBytes = step.pipeline.ranks.map(({ memory }) => memory?.reservedBytes ?? null);
  return { step, plan, peakBytes, ...(search ? { search } : {}) };
}

function readActions(path: string): ScheduleTable {
  return readScheduleCsv(readText(path), path);
}

/** The named schedule with as many stages a rank as the plan has. */
function namedForPlan(plan: Plan, name: string, groupSize: number | undefined): ScheduleTable {
  const ranks = ranksOf(plan);
  const { placement, chunks: own } = scheduleShape(name, ranks);
  const { microBatches } = plan.schedule;
  const size = groupSize === undefined ? {} : { groupSize };
  const perRank = plan.stages.length / ranks;
  if (placement === "bidirectional") {
    if (perRank === 1) return scheduleByName(name, { ranks, microBatches });
    throw misfit(plan, `one stage a rank for ${name}`);
  }
  const counts = new Array<number>(ranks).fill(0);
  for (const { rank } of plan.stages) counts[rank]!++;
  if (counts.some((count) => count !== perRank)) throw misfit(plan, `equally many stages a rank for ${name}`);
  try {
    return scheduleByName(name, { ranks, microBatches, chunks: perRank, ...size });
  } catch (error) {
    if (error instanceof MpoptError && perRank !== own && /chunk/.test(error.message)) {
      throw misfit(plan, `${own} stage${own === 1 ? "" : "s"} a rank for ${name}`);
    }
    throw error;
  }
}

/** A schedule can move no stage to another rank: its memory and its links would be others. */
function requirePlacement(plan: Plan, table: ScheduleTable): void {
  const held = new Set(table.layersOf ?? Array.from({ length: table.stages }, (_, s) => s)).size;
  const { length } = plan.stages;
  const { microBatches } = plan.schedule;
  if (held !== length || table.microBatches !== microBatches) {
    throw new MpoptError(
      "E_USAGE",
      `Expected ${length} stages and ${microBatches} micro-batches, as the plan has, in ${table.name} but found ${held} and ${table.microBatches}.`,
    );
  }
  const { rank } = stageLinks(table);
  for (const stage of plan.stages) {
    if (rank[stage.index] === stage.rank) continue;
    throw new MpoptError(
      "E_USAGE",
      `Expected stage ${stage.index} on rank ${rank[stage.index]} for ${table.name} but the plan has it on rank ${stage.rank}.`,
      ["Another schedule can be played where it lays the stages on the same ranks as the plan."],
    );
  }
}

async function playAlone(
  given: SimulateInputs,
  context: SearchContext,
  options: Pick<SimulateOptions, "events" | "transfers">,
): Promise<Played> {
  const { schedule, actions, transfer = 0, times = [[1, 1, 1]] } = given;
  let table: ScheduleTable;
  let search: ScheduleSearch | undefined;
  if (actions !== undefined) table = readActions(actions);
  else if (schedule!.toLowerCase() === "searched") {
    search = await searchAlone(given, context);
    table = search.table;
  } else {
    const { ranks, microBatches, chunks, groupSize } = given;
    table = scheduleByName(schedule!, { ranks: ranks!, microBatches: microBatches!, chunks, groupSize });
  }
  const each = (part: 0 | 1 | 2) => {
    const { layersOf = Array.from({ length: table.stages }, (_, s) => s) } = table;
    const held = new Set(layersOf).size;
    if (times.length !== 1 && times.length !== held) throw wrongGroups(times.length, held);
    return layersOf.map((layers) => times[times.length === 1 ? 0 : layers]![part]);
  };
  const pipeline = simulate(
    table,
    {
      forwardSeconds: each(0),
      backwardInputSeconds: each(1),
      backwardWeightSeconds: each(2),
      transferSeconds: boundariesOf(table).map(() => transfer),
    },
    { events: options.events, transfers: options.transfers },
  );
  return {
    step: { table, stepSeconds: pipeline.stepSeconds, pipeline, tail: [] },
    peakBytes: pipeline.ranks.map(() => null),
    ...(search ? { search } : {}),
  };
}
