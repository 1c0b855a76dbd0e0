import { MpoptError } from "../contracts/index.js";
import type { ActionKind, ScheduleTable } from "./actions.js";
import { type CompiledSchedule, compileSchedule } from "./compile.js";

/** Times of one micro-batch, one entry a stage. */
export interface StageTimes {
  forwardSeconds: ArrayLike<number>;
  backwardSeconds: ArrayLike<number>;
  /**
   * Delay between stage i and i + 1, either way, one entry a boundary. It keeps neither rank busy; a transfer
   * that blocks its sender belongs into the stage's time. Free where both stages share a rank.
   */
  transferSeconds?: ArrayLike<number>;
}

export interface TimelineEvent {
  kind: ActionKind;
  microBatch: number;
  stage: number;
  startSeconds: number;
  endSeconds: number;
}

export interface RankTimeline {
  busySeconds: number;
  /** Time of the step that the rank does not work. */
  idleSeconds: number;
  peakMicroBatches: number;
  /** In the order of time; empty unless asked for. */
  events: TimelineEvent[];
}

export interface Simulation {
  /** From the first forward's start to the last backward's end. */
  stepSeconds: number;
  /** Idle share of all ranks' time, 0 to 1; (p - 1) / (m + p - 1) for equal stages under 1F1B and GPipe. */
  bubbleRatio: number;
  ranks: RankTimeline[];
}

/**
 * Start and end of every action, by its position in the compiled order.
 * @param starts, ends arrays of at least `schedule.length` to fill.
 * @returns the end of the last action.
 */
export function timeActions(
  schedule: CompiledSchedule,
  times: StageTimes,
  starts: Float64Array,
  ends: Float64Array,
): number {
  const { length, stage, backward, previousOnRank, input, boundary } = schedule;
  const { forwardSeconds, backwardSeconds, transferSeconds } = times;
  let makespan = 0;
  for (let i = 0; i < length; i++) {
    const previous = previousOnRank[i]!;
    let start = previous === -1 ? 0 : ends[previous]!;
    const from = input[i]!;
    if (from !== -1) {
      const crossed = boundary[i]!;
      const arrival = ends[from]! + (transferSeconds && crossed !== -1 ? transferSeconds[crossed]! : 0);
      if (arrival > start) start = arrival;
    }
    const end = start + (backward[i] ? backwardSeconds[stage[i]!]! : forwardSeconds[stage[i]!]!);
    starts[i] = start;
    ends[i] = end;
    if (end > makespan) makespan = end;
  }
  return makespan;
}

/**
 * Runs a schedule in time. Ranks start an action when the one before has ended and its input has arrived.
 * Linear in the number of actions. Pass a compiled schedule to time one schedule often.
 * @param options.events list every action with its times; off by default because it allocates.
 * @throws MpoptError E_PLAN_INVALID for a schedule that is incomplete or deadlocks, E_USAGE for times that do
 * not fit the stages.
 */
export function simulate(
  schedule: ScheduleTable | CompiledSchedule,
  times: StageTimes,
  options: { events?: boolean } = {},
): Simulation {
  const compiled = "previousOnRank" in schedule ? schedule : compileSchedule(schedule);
  requireTimes(times, compiled.table.stages);
  const { length, rank, stage, microBatch, backward, peakMicroBatches } = compiled;
  const starts = new Float64Array(length);
  const ends = new Float64Array(length);
  const stepSeconds = timeActions(compiled, times, starts, ends);

  const ranks: RankTimeline[] = Array.from(peakMicroBatches, (peak) => ({
    busySeconds: 0,
    idleSeconds: 0,
    peakMicroBatches: peak,
    events: [],
  }));
  for (let i = 0; i < length; i++) {
    const timeline = ranks[rank[i]!]!;
    const seconds = backward[i] ? times.backwardSeconds[stage[i]!]! : times.forwardSeconds[stage[i]!]!;
    timeline.busySeconds += seconds;
    if (options.events) {
      timeline.events.push({
        kind: backward[i] ? "backward" : "forward",
        microBatch: microBatch[i]!,
        stage: stage[i]!,
        startSeconds: starts[i]!,
        endSeconds: ends[i]!,
      });
    }
  }
  let idle = 0;
  for (const timeline of ranks) {
    // Sums of rounded times may pass the makespan by an ulp.
    timeline.idleSeconds = Math.max(0, stepSeconds - timeline.busySeconds);
    idle += timeline.idleSeconds;
  }
  return { stepSeconds, bubbleRatio: stepSeconds > 0 ? idle / (stepSeconds * ranks.length) : 0, ranks };
}

function requireTimes(times: StageTimes, stages: number): void {
  const lists: [string, ArrayLike<number>, number][] = [
    ["forwardSeconds", times.forwardSeconds, stages],
    ["backwardSeconds", times.backwardSeconds, stages],
  ];
  if (times.transferSeconds) lists.push(["transferSeconds", times.transferSeconds, stages - 1]);
  for (const [name, list, length] of lists) {
    if (list.length !== length) {
      throw new MpoptError("E_USAGE", `Expected ${length} times for ${name} but found ${list.length}.`);
    }
    for (let i = 0; i < length; i++) {
      if (!(list[i]! >= 0) || list[i] === Number.POSITIVE_INFINITY) {
        throw new MpoptError(
          "E_USAGE",
          `Expected a time of at least 0 for ${name}[${i}] but found ${list[i]}.`,
        );
      }
    }
  }
}
