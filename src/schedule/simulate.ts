import type { ActionKind, ScheduleTable } from "./actions.js";
import { type CompiledSchedule, compileSchedule, kindNames, lastComputeKind } from "./compile.js";
import { type MemoryModel, memoryOf, type RankMemory } from "./memory.js";
import { steadySecondsPerMicroBatch } from "./steady.js";
import { timeByEvents } from "./timeByEvents.js";
import { type Clock, clockFor, isTimedInOrder, timeInOrder } from "./timeInOrder.js";
import { type FlatTimes, flattenTimes, type StageTimes } from "./times.js";
import { type Wait, waitsOf } from "./waits.js";

export interface TimelineEvent {
  kind: ActionKind;
  /** -1 for actions of a whole stage. */
  microBatch: number;
  stage: number;
  startSeconds: number;
  endSeconds: number;
}

export interface TransferEvent {
  payload: "activation" | "gradient";
  microBatch: number;
  /** Index into `boundariesOf` the table. */
  boundary: number;
  fromRank: number;
  toRank: number;
  /** When its first byte moves. */
  startSeconds: number;
  /** When the receiver may use it. */
  endSeconds: number;
}

export interface RankTimeline {
  /** Time in compute actions, what collectives slow them included. */
  busySeconds: number;
  /** Time of the step that the rank does not work. */
  idleSeconds: number;
  /** The idle time by cause, the longest first. */
  waits: Wait[];
  /** Most micro-batches in flight, summed over the rank's stages; see `peakMicroBatchesOf`. */
  peakMicroBatches: number;
  /** Compute actions in the order of time; empty unless asked for. The halves of an overlapped pair share theirs. */
  events: TimelineEvent[];
  /** Gathers and reductions in the order of time; empty unless events are asked for. */
  collectives: TimelineEvent[];
  /** Where a memory model is given. */
  memory?: RankMemory;
}

export interface Simulation {
  /** From the first action's start to the end of the last action, gather or reduction. */
  stepSeconds: number;
  /** Idle share of all ranks' time, 0 to 1; (p - 1) / (m + p - 1) for equal stages under 1F1B and GPipe. */
  bubbleRatio: number;
  /** Longest time from a rank's first compute action to its last one. */
  spanSeconds: number;
  /**
   * Idle share of that span, 0 to 1: the bubble where a rank's optimizer waits for no other rank, so that steps
   * follow each other at this pace (Qi et al., ICLR 2024, sections 2.3 and 4).
   */
  spanBubbleRatio: number;
  ranks: RankTimeline[];
  /** Transfers between ranks; empty unless asked for. */
  transfers: TransferEvent[];
  /** Schedules without a flush (`weightVersions`): time that one more micro-batch takes once the pipe is full. */
  steadySecondsPerMicroBatch?: number;
}

export interface SimulateOptions {
  /** List every compute action, gather and reduction with its times; off by default because it allocates. */
  events?: boolean;
  /** List every transfer between ranks with its times. */
  transfers?: boolean;
  /** What everything holds: gives the memory of each rank. */
  memory?: MemoryModel;
  /** Memory over time, not only its peak. */
  memoryCurve?: boolean;
}

/**
 * Times a compiled schedule into `clock`, in order where that is enough and by events otherwise. To time one
 * schedule often: `compileSchedule`, `clockFor`, `flattenTimes` once, then this.
 * @param transfers fill the times of transfers, too; otherwise only where they are needed.
 * @returns the end of the last action, gather or reduction.
 */
export function timeSchedule(
  schedule: CompiledSchedule,
  times: FlatTimes,
  clock: Clock,
  transfers = false,
): number {
  return isTimedInOrder(schedule, times)
    ? timeInOrder(schedule, times, clock, transfers)
    : timeByEvents(schedule, times, clock);
}

/**
 * Runs a schedule in time. A rank starts a compute action when the one before has ended, its input has arrived and
 * its stage's parameters are gathered. Pass a compiled schedule to time one schedule often.
 * @throws MpoptError E_PLAN_INVALID for a schedule that is incomplete or deadlocks, E_USAGE for times or a memory
 * model that do not fit.
 */
export function simulate(
  schedule: ScheduleTable | CompiledSchedule,
  times: StageTimes,
  options: SimulateOptions = {},
): Simulation {
  const compiled = "previousOnRank" in schedule ? schedule : compileSchedule(schedule);
  const flat = flattenTimes(times, compiled);
  const clock = clockFor(compiled);
  const { events = false, transfers = false, memory, memoryCurve = false } = options;
  const stepSeconds = timeSchedule(compiled, flat, clock, transfers || memory?.transferBytes !== undefined);

  const { kind, rank, partner, peakMicroBatches } = compiled;
  const { starts, ends } = clock;
  const ranks: RankTimeline[] = Array.from(peakMicroBatches, (peak) => ({
    busySeconds: 0,
    idleSeconds: 0,
    waits: [],
    peakMicroBatches: peak,
    events: [],
    collectives: [],
  }));
  const firstStart = new Float64Array(ranks.length).fill(Number.POSITIVE_INFINITY);
  const lastEnd = new Float64Array(ranks.length);
  for (let i = 0; i < compiled.length; i++) {
    if (kind[i]! > lastComputeKind || (i > 0 && partner[i] === i - 1)) continue;
    const r = rank[i]!;
    ranks[r]!.busySeconds += ends[i]! - starts[i]!;
    if (starts[i]! < firstStart[r]!) firstStart[r] = starts[i]!;
    if (ends[i]! > lastEnd[r]!) lastEnd[r] = ends[i]!;
  }
  let spanSeconds = 0;
  let busy = 0;
  ranks.forEach(({ busySeconds }, r) => {
    spanSeconds = Math.max(spanSeconds, lastEnd[r]! - firstStart[r]!);
    busy += busySeconds;
  });
  let idle = 0;
  const waits = waitsOf(compiled, flat, clock, stepSeconds);
  const memories = memory && memoryOf(compiled, clock, memory, memoryCurve);
  ranks.forEach((timeline, r) => {
    // Sums of rounded times may pass the makespan by an ulp.
    timeline.idleSeconds = Math.max(0, stepSeconds - timeline.busySeconds);
    timeline.waits = waits[r]!;
    if (memories) timeline.memory = memories[r]!;
    idle += timeline.idleSeconds;
  });
  if (events) listEvents(compiled, clock, ranks);
  return {
    stepSeconds,
    bubbleRatio: stepSeconds > 0 ? idle / (stepSeconds * ranks.length) : 0,
    spanSeconds,
    spanBubbleRatio: spanSeconds > 0 ? Math.max(0, 1 - busy / (spanSeconds * ranks.length)) : 0,
    ranks,
    transfers: transfers ? listTransfers(compiled, clock) : [],
    ...(compiled.table.weightVersions
      ? { steadySecondsPerMicroBatch: steadySecondsPerMicroBatch(compiled, clock) }
      : {}),
  };
}

function listEvents(compiled: CompiledSchedule, { starts, ends, ...clock }: Clock, ranks: RankTimeline[]) {
  const { kind, rank, stage, microBatch, length, collectives } = compiled;
  for (let i = 0; i < length; i++) {
    if (kind[i]! > lastComputeKind) continue;
    ranks[rank[i]!]!.events.push({
      kind: kindNames[kind[i]!]!,
      microBatch: microBatch[i]!,
      stage: stage[i]!,
      startSeconds: starts[i]!,
      endSeconds: ends[i]!,
    });
  }
  collectives.ofRank.forEach((list, r) => {
    for (const c of list) {
      const own = collectives.positions[c]!.find((i) => rank[i] === r)!;
      ranks[r]!.collectives.push({
        kind: kindNames[kind[own]!]!,
        microBatch: -1,
        stage: stage[own]!,
        startSeconds: clock.collectiveStarts[c]!,
        endSeconds: clock.collectiveEnds[c]!,
      });
    }
  });
}

function listTransfers({ transfers, microBatch }: CompiledSchedule, clock: Clock): TransferEvent[] {
  return Array.from({ length: transfers.length }, (_, t) => ({
    payload: transfers.gradient[t] ? "gradient" : "activation",
    microBatch: microBatch[transfers.producer[t]!]!,
    boundary: transfers.boundary[t]!,
    fromRank: transfers.sourceRank[transfers.connection[t]!]!,
    toRank: transfers.targetRank[transfers.connection[t]!]!,
    startSeconds: clock.transferStarts[t]!,
    endSeconds: clock.arrivals[t]!,
  }));
}
