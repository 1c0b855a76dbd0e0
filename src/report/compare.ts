import { axisSize, type Plan } from "../contracts/index.js";
import { contextWords, expertWords, offloadWords, recomputeWords, stateWords } from "./choices.js";
import {
  layerRange,
  type PlanFacts,
  planFacts,
  scheduleTitle,
  stageExtras,
  type TimeTerm,
  timeTermLabels,
} from "./facts.js";
import { formatBytes, formatCount, formatInteger, formatPercent, formatSeconds } from "./format.js";
import { cleanText } from "./text.js";

export interface Difference {
  section: "inputs" | "parallelism" | "stages" | "estimate" | "time" | "memory" | "shardings" | "certificate";
  field: string;
  /** The two values as a person reads them. */
  before: string;
  after: string;
  /** (after - before) / before, where both are numbers and before is not 0. */
  change?: number;
}

type Side = { plan: Plan; facts: PlanFacts };

/**
 * What differs between two plans, in the order in which a reader asks: the inputs, the parallel degrees, the
 * stages, the estimate, memory, shardings and the certificate. Fields that only say when or how a plan was
 * written do not count.
 */
export function comparePlans(before: Plan, after: Plan): Difference[] {
  const a: Side = { plan: before, facts: planFacts(before) };
  const b: Side = { plan: after, facts: planFacts(after) };
  const differences: Difference[] = [];
  const text = (section: Difference["section"], field: string, read: (side: Side) => string) => {
    const [first, second] = [read(a), read(b)];
    if (first !== second) differences.push({ section, field, before: first, after: second });
  };
  const number = (
    section: Difference["section"],
    field: string,
    read: (side: Side) => number,
    format: (value: number) => string,
  ) => {
    const [first, second] = [read(a), read(b)];
    if (first === second) return;
    const change = first !== 0 ? { change: (second - first) / first } : {};
    differences.push({ section, field, before: format(first), after: format(second), ...change });
  };

  text("inputs", "model", ({ plan }) => nameWithHash(plan.model.name, plan.model.sha256));
  text("inputs", "cluster", ({ plan }) => nameWithHash(plan.cluster.name, plan.cluster.sha256));
  number("inputs", "devices", ({ plan }) => plan.cluster.devices, formatInteger);
  number("inputs", "global batch", ({ plan }) => plan.batch.global, formatInteger);
  number("inputs", "sequence", ({ plan }) => plan.batch.sequence, formatInteger);
  text("inputs", "runtime", ({ plan }) => plan.job.runtime);
  text("inputs", "dtypes", ({ plan }) => Object.values(plan.job.dtypes).join(" / "));
  text("inputs", "pinned choices", ({ plan }) => JSON.stringify(plan.job.pins));
  number("inputs", "memory fraction", ({ plan }) => plan.job.limits.memoryFraction, formatPercent);

  for (const axis of ["pipeline", "data", "context", "tensor"] as const) {
    number("parallelism", axis, ({ plan }) => axisSize(plan, axis), formatInteger);
  }
  text("parallelism", "attention over context", ({ plan }) => contextWords(plan) ?? "none");
  text("parallelism", "experts", ({ plan }) => expertWords(plan) ?? "split like all layers");
  text("parallelism", "axes, outermost first", ({ plan }) => plan.mesh.axes.join(" × "));
  text("parallelism", "sequence parallel", ({ plan }) => (plan.mesh.sequenceParallel ? "yes" : "no"));
  number("parallelism", "micro-batch", ({ plan }) => plan.batch.micro, formatInteger);
  number("parallelism", "micro-batches", ({ plan }) => plan.schedule.microBatches, formatInteger);
  text("parallelism", "schedule", ({ plan }) => cleanText(scheduleTitle(plan.schedule.name)));
  text("parallelism", "optimizer", ({ plan }) => `${cleanText(plan.optimizer.name)}, ${stateWords(plan)}`);
  text("parallelism", "offload", ({ plan }) => offloadWords(plan) ?? "none");

  const stageCount = Math.max(before.stages.length, after.stages.length);
  for (let i = 0; i < stageCount; i++) text("stages", `stage ${i}`, ({ plan }) => describeStage(plan, i));

  number("estimate", "step time", ({ plan }) => plan.estimate.stepSeconds, formatSeconds);
  number("estimate", "tokens per second", ({ plan }) => plan.estimate.tokensPerSecond, formatCount);
  number("estimate", "MFU", ({ plan }) => plan.estimate.mfu, formatPercent);
  number("estimate", "HFU", ({ plan }) => plan.estimate.hfu, formatPercent);
  text("estimate", "figures", ({ plan }) => plan.estimate.provenance);
  for (const term of Object.keys(timeTermLabels) as TimeTerm[]) {
    number(
      "time",
      timeTermLabels[term].toLowerCase(),
      ({ plan }) => plan.estimate.terms[term],
      formatSeconds,
    );
  }
  number("memory", "fullest rank", ({ facts }) => facts.fullestRank.reservedBytes, formatBytes);
  number("memory", "its share of the limit", ({ facts }) => facts.fullestRank.share, formatPercent);

  const placements = [a, b].map(
    ({ plan }) =>
      new Map(plan.operators.map((entry) => [`${entry.block}: ${entry.operator}`, entry.sharding])),
  );
  for (const key of new Set(placements.flatMap((map) => [...map.keys()]))) {
    const [first, second] = placements.map((map) => describeSharding(map.get(key)));
    if (first !== second) {
      differences.push({ section: "shardings", field: cleanText(key), before: first!, after: second! });
    }
  }
  text("certificate", "status", ({ plan }) => plan.certificate.status);
  number("certificate", "bound", ({ plan }) => plan.certificate.bound, formatSeconds);
  number("certificate", "gap", ({ plan }) => plan.certificate.gap, formatPercent);
  return differences;
}

/** Differences as text, one line each under its section. */
export function renderDifferences(differences: readonly Difference[]): string {
  if (!differences.length) return "The plans are the same.";
  const width = Math.max(...differences.map(({ field }) => field.length));
  const lines: string[] = [];
  let section = "";
  for (const difference of differences) {
    if (difference.section !== section) {
      section = difference.section;
      lines.push(...(lines.length ? [""] : []), section[0]!.toUpperCase() + section.slice(1));
    }
    const { field, before, after, change } = difference;
    const percent =
      change === undefined ? "" : `  (${change < 0 ? "−" : "+"}${formatPercent(Math.abs(change))})`;
    lines.push(`  ${field.padEnd(width)}  ${before} → ${after}${percent}`);
  }
  return lines.join("\n");
}

function nameWithHash(name: string, sha256: string): string {
  return `${cleanText(name)} (${sha256.slice(0, 12)})`;
}

function describeStage(plan: Plan, index: number): string {
  const stage = plan.stages.find((candidate) => candidate.index === index);
  if (!stage) return "none";
  const extras = stageExtras(stage);
  const repeated = recomputeWords(stage);
  const recompute = repeated === "none" ? "" : `, recomputes ${repeated}`;
  const place = `rank ${stage.rank}${stage.chunk ? ` chunk ${stage.chunk}` : ""}`;
  return `layers ${layerRange(stage.layers)}${extras ? ` + ${extras}` : ""}${recompute}, ${place}`;
}

function describeSharding(sharding: Plan["operators"][number]["sharding"] | undefined): string {
  if (!sharding) return "none";
  const axes = Object.entries(sharding).map(
    ([axis, { inputs, outputs }]) => `${cleanText(axis)}: ${inputs.join(", ")} → ${outputs.join(", ")}`,
  );
  return axes.join("; ") || "not sharded";
}
