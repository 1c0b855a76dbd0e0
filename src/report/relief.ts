import type { Plan, Sensitivity } from "../contracts/index.js";
import { type PlanFacts, type TimeTerm, timeTermLabels } from "./facts.js";
import { formatPercent } from "./format.js";

/** What would make a plan faster: the rule for each term, and what the same plan was priced at with one thing changed. */

/** What takes time off a term, in a clause that follows "would relieve it". */
const remedies: Readonly<Record<TimeTerm, string>> = {
  compute: "Faster devices, narrower products (fp8) or more devices",
  recompute: "More memory a device, a smaller micro-batch, or state sharded over more ranks",
  tensorCommunication: "A smaller tensor degree, or faster links between its ranks",
  pipelineTransfer: "Fewer stages, or transfers that are sent while stages compute",
  bubble: "More micro-batches, fewer pipeline ranks, or a schedule with several chunks a rank",
  gradientSynchronisation: "A larger global batch, a faster network, or fewer replicas",
  optimizer: "State sharded over more ranks, faster memory, or a larger global batch",
  contextCommunication: "A smaller context degree, or faster links between its ranks",
  expertCommunication: "Experts over fewer ranks, or over ranks with faster links",
  parameterGather: "Sharding in smaller groups, a larger micro-batch, or a faster network",
  offload: "A faster link to the host, or state that stays on the device",
  host: "Larger micro-batches or kernels launched together (CUDA graphs, compilation)",
};

/** One change with what it saves. */
export interface Saving {
  /** A clause: `links inside the node twice as fast`. */
  change: string;
  stepSeconds: number;
  /** Share of the time a token that it saves. */
  share: number;
  /** `saves 4.2 %`, with what a reader has to know of the figure. */
  words: string;
  /** Terms that it acts on, the largest saving first. */
  relieves: string[];
  /** Nobody reaches it: the gain is a bound. */
  ideal: boolean;
}

export interface Relief {
  term: TimeTerm;
  /** A sentence's beginning: `A smaller tensor degree, or faster links between its ranks`. */
  remedy: string;
  /** The change within reach that takes most off this term, where one was priced. */
  saving?: Saving;
}

function savingOf(plan: Plan, sensitivity: Sensitivity): Saving {
  const { change, relieves, stepSeconds, tokensPerSecond, ideal = false } = sensitivity;
  const { estimate } = plan;
  const share = 1 - estimate.tokensPerSecond / tokensPerSecond;
  const tokens = (stepSeconds * tokensPerSecond) / (estimate.stepSeconds * estimate.tokensPerSecond);
  // A step of more tokens takes longer and still saves.
  const each = Math.abs(tokens - 1) > 1e-6 ? " a token" : "";
  return {
    change,
    ideal,
    stepSeconds,
    share,
    words: `${ideal ? "saves at most" : "saves"} ${formatPercent(share)}${each}`,
    relieves: relieves.map((term) => timeTermLabels[term as TimeTerm]?.toLowerCase() ?? term),
  };
}

/** All changes that were priced and gain, the largest gain first. */
export function savings(plan: Plan): Saving[] {
  return (plan.sensitivity ?? []).map((each) => savingOf(plan, each)).sort((a, b) => b.share - a.share);
}

/** What would relieve a term. */
export function reliefOf(plan: Plan, term: TimeTerm): Relief {
  const own = (plan.sensitivity ?? [])
    .filter(({ relieves, ideal }) => relieves[0] === term && !ideal)
    .sort((a, b) => b.tokensPerSecond - a.tokensPerSecond)[0];
  return { term, remedy: remedies[term], ...(own && { saving: savingOf(plan, own) }) };
}

/**
 * The bottleneck: the largest overhead with what would relieve it, as the rule says and as pricing the plan again says,
 * or compute where nothing else takes time.
 */
export function overheadSentence(plan: Plan, { overhead, exposedCommunication }: PlanFacts): string {
  if (!overhead) return `Nothing but compute takes time. ${reliefWords(plan, "compute")}`;
  const sent =
    exposedCommunication.seconds > 0
      ? ` Communication that nothing hides: ${formatPercent(exposedCommunication.share)}.`
      : "";
  return `Largest overhead: ${overhead.label.toLowerCase()}, ${formatPercent(overhead.share)} of the step. ${reliefWords(plan, overhead.term)}${sent}`;
}

function reliefWords(plan: Plan, term: TimeTerm): string {
  const { remedy, saving } = reliefOf(plan, term);
  const priced = saving ? `: ${saving.change} would save ${formatPercent(saving.share)}` : "";
  return `${remedy} would relieve it${priced}.`;
}
