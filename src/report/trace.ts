import {
  boundariesOf,
  type RankTimeline,
  type StepSimulation,
  simulatedMemoryTerms,
  type TimelineEvent,
} from "../schedule/index.js";
import { timeTermLabels } from "./facts.js";
import { cleanText } from "./text.js";

/** One entry of the Chrome trace event format; times in microseconds. */
export interface TraceEvent {
  name: string;
  /** Complete, metadata, counter, and the start, step and end of a flow. */
  ph: "X" | "M" | "C" | "s" | "t" | "f";
  pid: number;
  tid: number;
  ts?: number;
  dur?: number;
  cat?: string;
  /** Joins the events of a flow. */
  id?: number;
  /** A flow's end binds to the slice that encloses it. */
  bp?: "e";
  args?: Record<string, string | number>;
}

export interface Trace {
  displayTimeUnit: "ms";
  traceEvents: TraceEvent[];
  otherData: { title: string; schedule: string };
}

/** Times of a slice, and where it is drawn. */
interface Slice {
  startSeconds: number;
  endSeconds: number;
  name: string;
  cat: string;
  args: Record<string, string | number>;
}

type Placed = Slice & { pid: number; tid: number };

const microseconds = (seconds: number) => seconds * 1e6;

/**
 * The simulated step as a trace for Perfetto and chrome://tracing (Google, "Trace Event Format", 2016): a process a
 * pipeline rank with threads for compute, for transfers by receiver and for collectives, flows from each send over
 * its transfer to where it is used, and counters of micro-batches in flight and, where it was simulated, of memory.
 * Slices on one thread never overlap: what runs side by side gets a second thread.
 * @param title what was simulated.
 * @param step a simulation that lists its events; transfers and memory curves are drawn where it has them.
 */
export function traceOf(title: string, step: StepSimulation): Trace {
  const { pipeline, table, tail } = step;
  const metadata: TraceEvent[] = [];
  const timed: TraceEvent[] = [];
  /** Slices of compute actions by direction, stage and micro-batch: where flows start and end. */
  const computed = new Map<string, Placed>();
  const threads = pipeline.ranks.map((_, pid) => new Threads(pid, metadata, timed));
  pipeline.ranks.forEach((rank, pid) => {
    metadata.push({ name: "process_name", ph: "M", pid, tid: 0, args: { name: `pipeline rank ${pid}` } });
    metadata.push({ name: "process_sort_index", ph: "M", pid, tid: 0, args: { sort_index: pid } });
    const chunks = [...new Set(rank.events.map(({ stage }) => stage))].sort((a, b) => a - b);
    const placed = threads[pid]!.add(
      "compute",
      rank.events.map((event) => computeSlice(event, chunks)),
    );
    rank.events.forEach(({ kind, stage, microBatch }, i) => {
      if (kind === "forward") computed.set(`activation ${stage} ${microBatch}`, placed[i]!);
      else if (kind === "backward" || kind === "backward-input") {
        computed.set(`gradient ${stage} ${microBatch}`, placed[i]!);
      }
    });
    let start = pipeline.stepSeconds;
    const last = tail.flatMap(({ name, seconds }) => {
      const slice = { startSeconds: start, endSeconds: start + seconds, name: timeTermLabels[name] };
      start += seconds;
      return seconds > 0 ? [{ ...slice, cat: name, args: {} }] : [];
    });
    threads[pid]!.add(
      "compute",
      last.filter(({ cat }) => cat === "optimizer"),
    );
    const collectives = rank.collectives.map(({ kind, stage, startSeconds, endSeconds }) => ({
      ...{ startSeconds, endSeconds, name: `${kind} of stage ${stage}`, cat: kind, args: { stage } },
    }));
    threads[pid]!.add("collectives", [...collectives, ...last.filter(({ cat }) => cat !== "optimizer")]);
    addCounters(rank, pid, timed);
  });
  addTransfers(step, threads, computed, timed);
  timed.sort((a, b) => a.ts! - b.ts!);
  return {
    displayTimeUnit: "ms",
    traceEvents: [...metadata, ...timed],
    otherData: { title: cleanText(title), schedule: cleanText(table.name) },
  };
}

function computeSlice(
  { kind, stage, microBatch, startSeconds, endSeconds }: TimelineEvent,
  chunks: number[],
): Slice {
  const chunk = chunks.indexOf(stage);
  const place = chunks.length > 1 ? ` chunk ${chunk}` : "";
  const name = microBatch < 0 ? `${kind} of stage ${stage}` : `${kind} ${microBatch}${place}`;
  const args: Slice["args"] = microBatch < 0 ? { stage, chunk } : { microBatch, stage, chunk };
  return { startSeconds, endSeconds, name, cat: kind, args };
}

/** The threads of one process, made as they are needed. */
class Threads {
  readonly #pid: number;
  readonly #metadata: TraceEvent[];
  readonly #timed: TraceEvent[];
  #count = 0;
  /** By name: thread and end of its last slice, one entry a thread. */
  readonly #lanes = new Map<string, { tid: number; endSeconds: number }[]>();

  constructor(pid: number, metadata: TraceEvent[], timed: TraceEvent[]) {
    this.#pid = pid;
    this.#metadata = metadata;
    this.#timed = timed;
  }

  /** Draws slices on threads of that name, each on the first one that is free. */
  add(name: string, slices: readonly Slice[]): Placed[] {
    const pid = this.#pid;
    const lanes = this.#lanes.get(name) ?? [];
    this.#lanes.set(name, lanes);
    const order = [...slices.keys()].sort((a, b) => slices[a]!.startSeconds - slices[b]!.startSeconds);
    const placed = new Array<Placed>(slices.length);
    for (const i of order) {
      const slice = slices[i]!;
      let lane = lanes.find(({ endSeconds }) => endSeconds <= slice.startSeconds);
      if (!lane) {
        lane = { tid: this.#count++, endSeconds: 0 };
        const title = lanes.length ? `${name} (${lanes.length + 1})` : name;
        lanes.push(lane);
        const thread = { ph: "M" as const, pid, tid: lane.tid };
        this.#metadata.push({ name: "thread_name", ...thread, args: { name: title } });
        this.#metadata.push({ name: "thread_sort_index", ...thread, args: { sort_index: lane.tid } });
      }
      lane.endSeconds = slice.endSeconds;
      const { tid } = lane;
      placed[i] = { ...slice, pid, tid };
      const ts = microseconds(slice.startSeconds);
      const dur = microseconds(slice.endSeconds) - ts;
      this.#timed.push({ name: slice.name, cat: slice.cat, ph: "X", pid, tid, ts, dur, args: slice.args });
    }
    return placed;
  }
}

/** Transfers on the sender's threads, and the flow of each: from its producer, over the transfer, to its user. */
function addTransfers(
  { table, pipeline }: StepSimulation,
  threads: Threads[],
  computed: Map<string, Placed>,
  timed: TraceEvent[],
): void {
  const boundaries = boundariesOf(table);
  const { transfers } = pipeline;
  const byWay = new Map<string, number[]>();
  transfers.forEach(({ fromRank, toRank }, t) => {
    const way = `${fromRank} ${toRank}`;
    const list = byWay.get(way);
    if (list) list.push(t);
    else byWay.set(way, [t]);
  });
  const moving = new Map<number, Placed>();
  for (const list of byWay.values()) {
    // A transfer that takes no time has no slice; its flow goes straight to its user.
    const slow = list.filter((t) => transfers[t]!.endSeconds > transfers[t]!.startSeconds);
    const { fromRank, toRank } = transfers[list[0]!]!;
    const slices = slow.map((t) => {
      const { payload, microBatch, startSeconds, endSeconds } = transfers[t]!;
      return {
        startSeconds,
        endSeconds,
        name: `${payload} ${microBatch}`,
        cat: "transfer",
        args: { microBatch },
      };
    });
    const placed = threads[fromRank]!.add(`transfers to rank ${toRank}`, slices);
    slow.forEach((t, i) => {
      moving.set(t, placed[i]!);
    });
  }
  transfers.forEach(({ payload, microBatch, boundary }, id) => {
    const { from, to } = boundaries[boundary]!;
    const [source, target] = payload === "activation" ? [from, to] : [to, from];
    const producer = computed.get(`${payload} ${source} ${microBatch}`);
    const user = computed.get(`${payload} ${target} ${microBatch}`);
    if (!producer || !user) return;
    const flow = (ph: "s" | "t" | "f", { pid, tid, startSeconds }: Placed): TraceEvent => ({
      ...{ name: payload, cat: "flow", ph, id, pid, tid, ts: microseconds(startSeconds) },
      ...(ph === "f" ? { bp: "e" } : {}),
    });
    timed.push(flow("s", producer));
    const middle = moving.get(id);
    if (middle) timed.push(flow("t", middle));
    timed.push(flow("f", user));
  });
}

/** Counters of one rank: micro-batches in flight, and its memory as a whole and by each term that changes. */
function addCounters({ events, memory }: RankTimeline, pid: number, timed: TraceEvent[]): void {
  const changes: { seconds: number; by: number }[] = [];
  for (const { kind, startSeconds, endSeconds } of events) {
    if (kind === "forward") changes.push({ seconds: startSeconds, by: 1 });
    else if (kind === "backward" || kind === "backward-weight") changes.push({ seconds: endSeconds, by: -1 });
  }
  changes.sort((a, b) => a.seconds - b.seconds);
  const count = (name: string, seconds: number, unit: string, value: number) =>
    timed.push({ name, ph: "C", pid, tid: 0, ts: microseconds(seconds), args: { [unit]: value } });
  let inFlight = 0;
  for (const { seconds, by } of changes) {
    inFlight += by;
    count("micro-batches in flight", seconds, "microBatches", inFlight);
  }
  const curve = memory?.curve;
  if (!curve) return;
  const series: [string, number[]][] = [["memory allocated", curve.allocatedBytes]];
  for (const term of simulatedMemoryTerms) {
    const bytes = curve.terms[term];
    if (bytes.some((each) => each !== bytes[0])) series.push([`memory: ${term}`, bytes]);
  }
  for (const [name, bytes] of series) {
    bytes.forEach((each, i) => {
      if (i === 0 || each !== bytes[i - 1]) count(name, curve.seconds[i]!, "bytes", each);
    });
  }
}
