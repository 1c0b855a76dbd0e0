import type { Plan } from "../contracts/index.js";
import type { StepSimulation } from "../schedule/index.js";
import { timeTermLabels } from "./facts.js";

/** One entry of the Chrome trace event format; times in microseconds. */
export interface TraceEvent {
  name: string;
  ph: "X" | "M" | "C";
  pid: number;
  tid: number;
  ts?: number;
  dur?: number;
  cat?: string;
  args?: Record<string, string | number>;
}

export interface Trace {
  displayTimeUnit: "ms";
  traceEvents: TraceEvent[];
}

/**
 * The simulated step as a trace for Perfetto and chrome://tracing: one thread a pipeline rank, one counter of
 * the micro-batches in flight a rank (Google, "Trace Event Format", 2016: complete, metadata and counter
 * events).
 * @param step a simulation of the plan that lists its events.
 */
export function traceOf(plan: Plan, step: StepSimulation): Trace {
  const events: TraceEvent[] = [
    { name: "process_name", ph: "M", pid: 0, tid: 0, args: { name: `mpopt: ${plan.name}` } },
  ];
  const microseconds = (seconds: number) => seconds * 1e6;
  step.pipeline.ranks.forEach((rank, tid) => {
    events.push({ name: "thread_name", ph: "M", pid: 0, tid, args: { name: `pipeline rank ${tid}` } });
    events.push({ name: "thread_sort_index", ph: "M", pid: 0, tid, args: { sort_index: tid } });
    let inFlight = 0;
    const count = (seconds: number) =>
      events.push({
        name: `in flight on rank ${tid}`,
        ph: "C",
        pid: 0,
        tid,
        ts: microseconds(seconds),
        args: { microBatches: inFlight },
      });
    for (const { kind, microBatch, stage, startSeconds, endSeconds } of rank.events) {
      if (kind === "forward") {
        inFlight++;
        count(startSeconds);
      }
      events.push({
        name: microBatch < 0 ? `${kind} of stage ${stage}` : `${kind} ${microBatch}`,
        cat: kind,
        ph: "X",
        pid: 0,
        tid,
        ts: microseconds(startSeconds),
        dur: microseconds(endSeconds) - microseconds(startSeconds),
        args: { microBatch, stage },
      });
      if (kind === "backward" || kind === "backward-weight") {
        inFlight--;
        count(endSeconds);
      }
    }
    let start = step.pipeline.stepSeconds;
    for (const { name, seconds } of step.tail) {
      if (seconds > 0) {
        const ts = microseconds(start);
        const dur = microseconds(start + seconds) - ts;
        events.push({ name: timeTermLabels[name], cat: name, ph: "X", pid: 0, tid, ts, dur });
      }
      start += seconds;
    }
  });
  return { displayTimeUnit: "ms", traceEvents: events };
}
