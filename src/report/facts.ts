import { axisSize, type MemoryEntry, type Plan, type Provenance } from "../contracts/index.js";
import type { Wait, WaitCause } from "../schedule/index.js";
import { formatPercent, formatSeconds, plural } from "./format.js";

/** What all reports say about a plan, worked out once so that they agree. */

export type TimeTerm = keyof Plan["estimate"]["terms"];
export type MemoryTerm = keyof MemoryEntry["terms"];

/** In the order in which a reader wants them; the keys of the plan's terms. */
export const timeTermLabels: Readonly<Record<TimeTerm, string>> = {
  compute: "Compute",
  recompute: "Recomputation",
  tensorCommunication: "Tensor-parallel communication",
  contextCommunication: "Context-parallel communication",
  expertCommunication: "Expert-parallel communication",
  parameterGather: "Parameter gathering",
  pipelineTransfer: "Pipeline transfer",
  bubble: "Pipeline bubble",
  gradientSynchronisation: "Gradient synchronisation",
  optimizer: "Optimizer",
  offload: "Host memory transfers",
  host: "Host",
};

/** Terms that are time on links. */
const communicationTerms: ReadonlySet<TimeTerm> = new Set([
  "tensorCommunication",
  "contextCommunication",
  "expertCommunication",
  "parameterGather",
  "pipelineTransfer",
  "gradientSynchronisation",
]);

export const memoryTermLabels: Readonly<Record<MemoryTerm, string>> = {
  parameters: "Parameters",
  gradients: "Gradients",
  optimizer: "Optimizer",
  activations: "Activations",
  logits: "Logits",
  workspace: "Workspace",
  context: "Context",
};

export const provenanceMeaning: Readonly<Record<Provenance, string>> = {
  measured: "all inputs were measured on this hardware",
  fitted: "some inputs are fitted to measurements",
  assumed: "some inputs are data-sheet or literature values; profile the hardware to measure them",
};

export interface TimeShare {
  term: TimeTerm;
  label: string;
  seconds: number;
  /** Of the step, 0 to 1. */
  share: number;
}

export interface PlanFacts {
  pipeline: number;
  data: number;
  tensor: number;
  /** The stage whose forward and backward take longest. */
  slowestStage: { index: number; seconds: number };
  /**
   * What sets the pipeline's pace, and its time of one micro-batch: the slowest stage, or, where ranks hold several
   * stages, the busiest rank.
   */
  pace: { kind: "stage" | "rank"; name: string; seconds: number };
  /** Mean over slowest stage (or rank) time, 1 for equal ones. */
  balance: number;
  /** The pipeline rank that fills most of its limit. */
  fullestRank: { pipelineRank: number; reservedBytes: number; limitBytes: number; share: number };
  /** In the order of `timeTermLabels`. */
  time: TimeShare[];
  /** The term that takes longest. */
  largest: TimeShare;
  /** The longest term that is not useful work; undefined where there is none. */
  overhead: TimeShare | undefined;
  /** What is sent and not hidden behind compute, all kinds together. */
  exposedCommunication: { seconds: number; share: number };
  binding: "memory" | "time";
  /** One sentence: what keeps the plan from being faster. */
  bindingReason: string;
  /** `Proven optimal` or how far the bound is. */
  certificateTitle: string;
}

/** From this share of the limit on, a rank counts as full. */
const fullShare = 0.9;

/** The facts of a plan; see `PlanFacts`. */
export function planFacts(plan: Plan): PlanFacts {
  const slowest = longest(plan.stages.map(stageSeconds));
  const slowestStage = { index: plan.stages[slowest.at]?.index ?? 0, seconds: slowest.seconds };
  const { pace, balance } = paceOf(plan);
  // Below 0, so that the first rank counts even where it holds nothing.
  let fullestRank = { pipelineRank: 0, reservedBytes: 0, limitBytes: 0, share: -1 };
  for (const { pipelineRank, reservedBytes, limitBytes } of plan.estimate.memory) {
    const share = limitBytes > 0 ? reservedBytes / limitBytes : 0;
    if (share > fullestRank.share) fullestRank = { pipelineRank, reservedBytes, limitBytes, share };
  }
  if (fullestRank.share < 0) fullestRank.share = 0;
  const time = (Object.keys(timeTermLabels) as TimeTerm[]).map((term) => {
    const seconds = plan.estimate.terms[term];
    const share = plan.estimate.stepSeconds > 0 ? seconds / plan.estimate.stepSeconds : 0;
    return { term, label: timeTermLabels[term], seconds, share };
  });
  const bySize = [...time].sort((a, b) => b.seconds - a.seconds);
  const overhead = bySize.find(({ term, seconds }) => term !== "compute" && seconds > 0);

  const exposed = time.filter(({ term }) => communicationTerms.has(term));
  const exposedCommunication = {
    seconds: exposed.reduce((sum, { seconds }) => sum + seconds, 0),
    share: exposed.reduce((sum, { share }) => sum + share, 0),
  };

  // Recomputation costs time, so a search for time chooses it only to save memory; a pin says nothing.
  const { pins } = plan.job;
  const pinned = pins.recompute !== undefined || (pins.recomputeLayers ?? 0) > 0;
  const repeats = (stage: Plan["stages"][number]) =>
    stage.recompute !== "none" || (stage.recomputeLayers ?? 0) > 0;
  const recomputing = pinned ? 0 : plan.stages.filter(repeats).length;
  const full = fullestRank.share >= fullShare;
  const binding = full || recomputing > 0 ? "memory" : "time";
  const fill = `pipeline rank ${fullestRank.pipelineRank} fills ${formatPercent(fullestRank.share)} of its limit`;
  const recomputation = `${plural(recomputing, "stage")} recompute${recomputing === 1 ? "s" : ""} activations to fit`;
  const reasons = [...(full ? [fill] : []), ...(recomputing ? [recomputation] : [])];
  const bindingReason =
    binding === "memory"
      ? `Memory binds: ${reasons.join(", and ")}.`
      : `Time binds: no rank fills more than ${formatPercent(fullestRank.share)} of its limit${pinned ? "" : ", and nothing is recomputed"}.`;
  return {
    pipeline: axisSize(plan, "pipeline"),
    data: axisSize(plan, "data"),
    tensor: axisSize(plan, "tensor"),
    slowestStage,
    pace,
    balance,
    fullestRank,
    time,
    largest: bySize[0]!,
    overhead,
    exposedCommunication,
    binding,
    bindingReason,
    certificateTitle: certificateTitle(plan),
  };
}

function stageSeconds({ forwardSeconds, backwardSeconds }: Plan["stages"][number]): number {
  return forwardSeconds + backwardSeconds;
}

/** Equal times differ by rounding; the first of them is named. */
function longest(times: readonly number[]): { at: number; seconds: number } {
  let most = { at: 0, seconds: 0 };
  for (const [at, seconds] of times.entries()) {
    if (seconds > most.seconds * (1 + 1e-9)) most = { at, seconds };
  }
  return most;
}

function paceOf(plan: Plan): Pick<PlanFacts, "pace" | "balance"> {
  const { stages, schedule } = plan;
  const ranks = axisSize(plan, "pipeline");
  const mirrored = bidirectionalSchedules.has(schedule.name.toLowerCase());
  const kind = stages.length > ranks || mirrored ? "rank" : "stage";
  const times = kind === "stage" ? stages.map(stageSeconds) : new Array<number>(ranks).fill(0);
  if (kind === "rank") {
    for (const stage of stages) {
      const seconds = stageSeconds(stage) / (mirrored ? 2 : 1);
      times[stage.rank]! += seconds;
      // The second pipeline's copy works on the other half of the micro-batches.
      if (mirrored) times[ranks - 1 - stage.rank]! += seconds;
    }
  }
  const { at, seconds } = longest(times);
  const mean = times.reduce((sum, each) => sum + each, 0) / times.length;
  const index = kind === "stage" ? (stages[at]?.index ?? 0) : at;
  const name = `${kind === "stage" ? "Stage" : "Pipeline rank"} ${index}`;
  return { pace: { kind, name, seconds }, balance: seconds > 0 ? mean / seconds : 1 };
}

/** Schedules that hold every stage on two ranks, the second copy on the mirrored one. */
const bidirectionalSchedules: ReadonlySet<string> = new Set(["dualpipe", "chimera"]);

function certificateTitle({ certificate }: Plan): string {
  if (certificate.status === "infeasible") return "Infeasible";
  if (certificate.status === "optimal") return "Proven optimal";
  return `Within ${formatPercent(certificate.gap)} of the best`;
}

/** One sentence on how sure the search is. */
export function certificateSentence({ certificate }: Plan): string {
  const searched = `${plural(certificate.candidates, "candidate")} in ${formatSeconds(certificate.seconds)}`;
  switch (certificate.status) {
    case "optimal":
      return `Proven optimal in the space searched (gap ${formatPercent(certificate.gap)}, ${searched}).`;
    case "feasible":
      return `Not proven optimal: no plan in the space searched takes less than ${formatSeconds(certificate.bound)} (gap ${formatPercent(certificate.gap)}, ${searched}).`;
    case "infeasible":
      return `No plan in the space searched fits (${searched}).`;
  }
}

/** What a stage holds besides its layers: `embedding`, `head`, both, or nothing. */
export function stageExtras(stage: { embedding: boolean; head: boolean }): string {
  return [...(stage.embedding ? ["embedding"] : []), ...(stage.head ? ["head"] : [])].join(" + ");
}

/** Layers of a stage as a person counts, the end included: `8-15`, `7`, or `none`. */
export function layerRange({ start, end }: { start: number; end: number }): string {
  if (end <= start) return "none";
  return end - start === 1 ? `${start}` : `${start}–${end - 1}`;
}

const scheduleTitles: Readonly<Record<string, string>> = {
  gpipe: "GPipe",
  "1f1b": "1F1B",
  "1f1b-async": "Asynchronous 1F1B",
  "2bw": "PipeDream-2BW",
  interleaved: "Interleaved 1F1B",
  "looped-bfs": "Looped breadth-first",
  "zb-h1": "ZB-H1",
  "zb-h2": "ZB-H2",
  zbv: "ZB-V",
  "interleaved-zb": "Interleaved zero bubble",
  dualpipe: "DualPipe",
  dualpipev: "DualPipeV",
  chimera: "Chimera",
  searched: "Searched schedule",
};

/** The schedule's name as the field writes it. */
export function scheduleTitle(name: string): string {
  const key = name.toLowerCase();
  return Object.hasOwn(scheduleTitles, key) ? scheduleTitles[key]! : name;
}

/** What a rank that does not compute waits for. */
export const waitLabels: Readonly<Record<WaitCause, string>> = {
  activation: "Waits for an activation",
  gradient: "Waits for a gradient",
  receive: "Waits for the receiver",
  link: "Waits for the link",
  gather: "Waits for parameters",
  reduction: "Waits for a gradient reduction",
  end: "Has finished",
};

/** `waits for a gradient from rank 3`. */
export function waitSentence({ cause, rank }: Wait): string {
  const label = waitLabels[cause].toLowerCase();
  if (rank === undefined) return label;
  const preposition = cause === "link" ? "with" : cause === "receive" ? "on" : "from";
  return `${label} ${preposition} rank ${rank}`;
}
