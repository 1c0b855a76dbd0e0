import { type Job, MpoptError } from "../contracts/index.js";
import { describeRuntime, scheduleRefusal, searchedSchedule } from "../runtimes/index.js";
import {
  asynchronousSchedules,
  canonicalScheduleName,
  scheduleByName,
  schedulePlacement,
} from "../schedule/index.js";
import type { Configuration } from "./configuration.js";
import { PreparedSchedule } from "./preparedSchedule.js";

/** A schedule that a candidate might run. */
export interface ScheduleChoice {
  name: string;
  /** Stages of the plan that each rank holds. */
  chunks: number;
}

/** More chunks than this are not searched unless pinned: transfers grow with them, and bubbles hardly shrink. */
export const mostChunks = 8;

/**
 * Names of the schedules that a job leaves open: those of its runtime with a flush, or the pinned one.
 * @throws MpoptError E_PLAN_INVALID for an unknown name; E_USAGE for one that the runtime does not execute.
 */
export function openSchedules(job: Job): readonly string[] {
  const executed = describeRuntime(job.runtime).schedules;
  const { schedule } = job.pins;
  if (schedule === undefined) return executed.filter((name) => !asynchronousSchedules.has(name));
  const name = scheduleKey(schedule);
  if (!executed.includes(name)) {
    throw new MpoptError(
      "E_USAGE",
      `Expected a schedule that runtime ${job.runtime} executes (${executed.join(", ")}) but found ${name} pinned.`,
    );
  }
  return [name];
}

/** `searched`, or the schedule's own name for one in any case or PyTorch's. */
export function scheduleKey(name: string): string {
  return name.toLowerCase() === searchedSchedule ? searchedSchedule : canonicalScheduleName(name);
}

/**
 * Whether a plan's step is priced in closed form rather than by the simulator: 1F1B where the job leaves nothing else
 * open (see `search/stages.ts`). Next to other schedules all are priced by the simulator, so that they compare.
 */
export function isClosedForm(job: Job, name: string): boolean {
  const { runtime, pins } = job;
  if (name !== "1f1b") return false;
  if (pins.schedule !== undefined) return pins.schedule.toLowerCase() === "1f1b";
  return describeRuntime(runtime).schedules.join() === "1f1b";
}

/** What a searched order starts from where nothing else is open. */
const startsOfSearched = ["1f1b", "interleaved", "zb-h1", "zb-h2", "zbv"];

/** The schedules of `names` that a configuration could run, as far as that shows without making them. */
export function scheduleChoices(
  job: Job,
  names: readonly string[],
  { pipeline: ranks, microBatches, recompute }: Configuration,
  blockLayers: number,
): ScheduleChoice[] {
  const { chunks: pinned } = job.pins;
  const fits = (chunks: number) => {
    return ranks * chunks <= blockLayers + 2 && (pinned === undefined || pinned === chunks);
  };
  if (ranks === 1) return names.includes("1f1b") && fits(1) ? [{ name: "1f1b", chunks: 1 }] : [];
  const result: ScheduleChoice[] = [];
  const starts = names.join() === searchedSchedule ? startsOfSearched : names;
  for (const name of starts) {
    if (name === searchedSchedule) continue;
    for (const chunks of chunksOf(name, pinned)) {
      if (!fits(chunks)) continue;
      if (scheduleRefusal(job.runtime, name, { ranks, chunks, microBatches, recompute }) !== undefined)
        continue;
      result.push({ name, chunks });
    }
  }
  return result;
}

/** Chunks that a schedule may have on so many ranks. */
function chunksOf(name: string, pinned: number | undefined): number[] {
  const { placement, chunks } = schedulePlacement(name);
  if (placement === "bidirectional") return [1];
  if (chunks !== undefined) return [chunks];
  if (pinned !== undefined) return [pinned];
  return Array.from({ length: mostChunks - 1 }, (_, i) => i + 2);
}

/**
 * The table of a schedule, prepared.
 * @returns undefined where the schedule does not exist for these counts.
 */
export function makeSchedule(
  { name, chunks }: ScheduleChoice,
  ranks: number,
  microBatches: number,
): PreparedSchedule | undefined {
  try {
    const bidirectional = ranks > 1 && schedulePlacement(name).placement === "bidirectional";
    const table = scheduleByName(name, {
      ranks,
      microBatches,
      ...(bidirectional ? {} : { chunks }),
    });
    return new PreparedSchedule(table);
  } catch (error) {
    if (error instanceof MpoptError && error.code === "E_USAGE") return undefined;
    throw error;
  }
}

/** `interleaved with 4 chunks`, or the name alone where it says the chunks. */
export function describeChoice({ name, chunks }: ScheduleChoice): string {
  return chunks > 1 ? `${name} with ${chunks} chunks` : name;
}
