import { axisSize, type Plan } from "../contracts/index.js";
import { scheduleTitle } from "./facts.js";
import { formatInteger, plural } from "./format.js";

/** What a plan chose, in words; all reports share them. */

/** Degrees of the mesh with their names, outermost axis first; context parallelism only where it is used. */
export function meshDegrees(plan: Plan): { axis: string; size: number }[] {
  return plan.mesh.axes.map((axis) => ({ axis, size: axisSize(plan, axis) }));
}

/** `pipeline 4 × data 2 × tensor 8`. */
export function meshWords(plan: Plan): string {
  return meshDegrees(plan)
    .map(({ axis, size }) => `${axis} ${formatInteger(size)}`)
    .join(" × ");
}

/** How the ranks of a stage hold experts: `experts over 8 ranks`; undefined where they are split like all layers. */
export function expertWords({ mesh }: Plan): string | undefined {
  if (!mesh.experts) return undefined;
  const { expert, tensor } = mesh.experts;
  const each = tensor > 1 ? `, each over ${tensor}` : "";
  return `${expert > 1 ? `experts over ${plural(expert, "rank")}` : "all experts on each rank"}${each}`;
}

/** `ZeRO-3 in groups of 8, optimizer offloaded`. */
export function stateWords({ optimizer }: Plan): string {
  const groups = optimizer.shards === undefined ? "" : ` in groups of ${formatInteger(optimizer.shards)}`;
  return `ZeRO-${optimizer.zero}${groups}`;
}

const offloadWordsOf: Readonly<Record<string, string>> = {
  optimizer: "optimizer in host memory",
  activations: "activations in host memory",
  both: "optimizer and activations in host memory",
};

/** What lives in host memory; undefined where nothing does. */
export function offloadWords({ optimizer }: Plan): string | undefined {
  return optimizer.offload === undefined ? undefined : offloadWordsOf[optimizer.offload];
}

/** `ring attention` or its all-to-all form, where the tokens of a sequence are shared. */
export function contextWords(plan: Plan): string | undefined {
  if (axisSize(plan, "context") === 1) return undefined;
  return plan.mesh.contextExchange === "all-to-all" ? "all-to-all for attention" : "ring attention";
}

/** Type of the products of linear layers where it is narrower than that of the parameters. */
export function linearWords({ job }: Plan): string | undefined {
  return job.dtypes.linear === undefined ? undefined : `${job.dtypes.linear} products`;
}

/** Everything but the degrees and the batch that a person would set: sequence parallelism, experts, ZeRO, schedule. */
export function settingWords(plan: Plan): string[] {
  return [
    contextWords(plan),
    plan.mesh.sequenceParallel ? "sequence parallel" : undefined,
    expertWords(plan),
    stateWords(plan),
    offloadWords(plan),
    linearWords(plan),
    scheduleTitle(plan.schedule.name),
  ].filter((each) => each !== undefined);
}

/** What a stage computes twice: `none`, `selective`, `full`, or the layers among them: `full × 3`. */
export function recomputeWords(stage: Plan["stages"][number]): string {
  const layers = stage.recomputeLayers ?? 0;
  if (layers === 0) return stage.recompute;
  if (layers >= stage.layers.end - stage.layers.start) return "full";
  return stage.recompute === "none" ? `full × ${layers}` : `${stage.recompute}, full × ${layers}`;
}

/** A plan in a few words, for tables: what is 1, off or usual is left out. */
export function shortPlan(plan: Plan): string {
  const degrees = meshDegrees(plan)
    .filter(({ size }) => size > 1)
    .reverse()
    .map(({ axis, size }) => `${axis} ${formatInteger(size)}`);
  const experts = plan.mesh.experts;
  const expert = experts && experts.expert > 1 ? [`expert ${experts.expert}`] : [];
  // Stages with fewer layers than are recomputed say so.
  const layers = (stage: Plan["stages"][number]) => stage.recomputeLayers ?? 0;
  const stage = plan.stages.reduce((a, b) => (layers(b) > layers(a) ? b : a));
  const repeats = stage.recompute !== "none" || layers(stage) > 0;
  return [
    [...degrees, ...expert].join(" × ") || "one device",
    `micro-batch ${plan.batch.micro}`,
    ...(plan.optimizer.zero > 0 ? [stateWords(plan)] : []),
    ...(repeats ? [`recompute ${recomputeWords(stage)}`] : []),
    ...(plan.optimizer.offload ? [offloadWords(plan)!] : []),
    ...(plan.schedule.name === "1f1b" ? [] : [scheduleTitle(plan.schedule.name)]),
  ].join(", ");
}
