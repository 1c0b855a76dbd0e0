import { axisSize, type Plan, type Zero } from "../contracts/index.js";
import {
  type Division,
  describeRuntime,
  type RuntimeDescription,
  searchedSchedule,
} from "../runtimes/index.js";

/**
 * What of a plan lies outside of what a runtime executes, one sentence each: the part of an exporter's refusals that
 * the search keeps to as well. What depends on a launcher's models and types is the exporter's own.
 * @param launcher what the sentences call it.
 */
export function outsideRuntime(
  plan: Plan,
  runtime: Parameters<typeof describeRuntime>[0],
  launcher: string,
): string[] {
  const description = describeRuntime(runtime);
  return [
    ...outsideDegrees(plan, description, launcher),
    ...outsideState(plan, description, launcher),
    ...outsideRecomputation(plan, description, launcher),
    ...outsideSchedule(plan, description, launcher),
  ];
}

/** How a plan divides its job. */
export function divisionOf(plan: Plan): Division {
  const tensor = axisSize(plan, "tensor");
  const copies = axisSize(plan, "data") * axisSize(plan, "context");
  const zero = plan.optimizer.zero as Zero;
  return {
    tensor,
    context: axisSize(plan, "context"),
    pipeline: axisSize(plan, "pipeline"),
    data: axisSize(plan, "data"),
    microBatches: plan.schedule.microBatches,
    expert: plan.mesh.experts?.expert ?? 1,
    expertTensor: plan.mesh.experts?.tensor ?? tensor,
    sequenceParallel: plan.mesh.sequenceParallel,
    zero,
    shards: zero === 0 ? 1 : (plan.optimizer.shards ?? copies),
  };
}

function outsideDegrees(plan: Plan, runtime: RuntimeDescription, launcher: string): string[] {
  const division = divisionOf(plan);
  const { tensor, context, pipeline, sequenceParallel, expert } = division;
  const { architecture } = plan.model;
  const lost: string[] = [];
  if (pipeline > 1 && !runtime.pipeline) {
    lost.push(`Layers are divided into ${plan.stages.length} stages, but ${launcher} has no pipeline.`);
  } else if (plan.stages.length > 1 && architecture && runtime.dividesLayers?.(architecture) === false) {
    lost.push(
      `Layers are divided into ${plan.stages.length} stages, which ${launcher} does not do for this model.`,
    );
  }
  if (runtime.divides?.(division) === false) {
    lost.push(
      `Devices are divided into tensor ${tensor}, pipeline ${pipeline} and data ${division.data}, which ${launcher} does not combine.`,
    );
  }
  if (tensor > 1 && !runtime.sequenceParallel.includes(sequenceParallel)) {
    lost.push(
      sequenceParallel
        ? `Activations between blocks are split along the sequence, but ${launcher} keeps them whole.`
        : `Activations between blocks are whole on every tensor rank, but ${launcher} splits them along the sequence.`,
    );
  }
  if (context > 1) {
    const exchange = plan.mesh.contextExchange ?? "ring";
    if (!runtime.context.includes(exchange)) {
      lost.push(
        runtime.context.length === 0
          ? `Sequences are divided over context-parallel ranks, but ${launcher} keeps them whole.`
          : `Context-parallel ranks exchange keys by ${exchange}, but ${launcher} does so by ${runtime.context.join(" or ")}.`,
      );
    } else if (architecture && runtime.exchanges?.(exchange, architecture, plan.batch.sequence) === false) {
      lost.push(
        `Context-parallel ranks exchange keys by ${exchange}, which ${launcher} does not do for this attention.`,
      );
    }
  }
  if (expert > 1 && !runtime.experts) {
    lost.push(`Experts are divided over ranks, but ${launcher} keeps those of a layer together.`);
  }
  if (expert > 1 && runtime.experts && runtime.dividesExperts?.(division) === false) {
    lost.push(
      `Experts are divided over ${expert} ranks and split over ${division.expertTensor}, which ${launcher} does not do.`,
    );
  }
  if (architecture?.experts && tensor > 1 && runtime.splitsExperts?.(division) === false) {
    lost.push(`Layers with experts are split over tensor ranks, but ${launcher} splits dense layers only.`);
  }
  return lost;
}

function outsideState(plan: Plan, runtime: RuntimeDescription, launcher: string): string[] {
  const division = divisionOf(plan);
  const { zero, shards, data, context, pipeline } = division;
  const offload = plan.optimizer.offload ?? "none";
  const lost: string[] = [];
  if (!runtime.zero.includes(zero)) {
    lost.push(
      `The state is sharded as in ZeRO-${zero}, but ${launcher} has ZeRO ${[...runtime.zero].sort().join(", ")}.`,
    );
  } else if (data * context > 1 && runtime.shards?.(division, plan.model.architecture) === false) {
    const where = pipeline > 1 ? "under a pipeline" : "without a pipeline";
    lost.push(
      `The state is sharded as in ZeRO-${zero} over ${shards} ranks, which ${launcher} does not do ${where}.`,
    );
  }
  if (zero > 0 && shards !== data * context && !runtime.hybrid) {
    lost.push(
      `Sharding groups hold ${shards} of ${data * context} replicas, but ${launcher} shards over all.`,
    );
  }
  if (
    !runtime.offload.includes(offload) ||
    (offload !== "none" && runtime.offloads?.(division, plan.job.optimizer) === false)
  ) {
    lost.push(
      `Host memory takes what is not used (offload ${offload}), but ${launcher} leaves it on the device.`,
    );
  }
  return lost;
}

function outsideRecomputation({ stages }: Plan, runtime: RuntimeDescription, launcher: string): string[] {
  const lost = new Set<string>();
  const settings = new Set(stages.map(({ recompute }) => recompute));
  if (settings.size > 1) {
    lost.add(`Stages recompute ${[...settings].join(" and ")}, but ${launcher} has one setting for all.`);
  }
  for (const { recompute, recomputeLayers = 0 } of stages) {
    if (!runtime.recompute.includes(recompute)) {
      lost.add(`Recomputation is ${recompute}, but ${launcher} has ${runtime.recompute.join(", ")}.`);
    }
    if (recomputeLayers > 0 && !runtime.besideWholeLayers.includes(recompute)) {
      lost.add(
        `Some layers are recomputed whole and others ${recompute === "none" ? "not" : recompute}, which ${launcher} does not do.`,
      );
    }
  }
  return [...lost];
}

function outsideSchedule(
  { stages, schedule, ...plan }: Plan,
  runtime: RuntimeDescription,
  launcher: string,
): string[] {
  const ranks = axisSize(plan, "pipeline");
  if (ranks === 1 && stages.length === 1) return [];
  const name = schedule.actions ? searchedSchedule : schedule.name;
  if (!runtime.schedules.includes(name)) {
    return [`The schedule is ${schedule.name}, but ${launcher} runs ${runtime.schedules.join(", ")}.`];
  }
  const refusal = runtime.refusesSchedule?.(name, {
    ranks,
    chunks: stages.length / ranks,
    microBatches: schedule.microBatches,
    recompute: stages.find(({ recompute }) => recompute !== "none")?.recompute ?? "none",
  });
  return refusal ? [`The schedule is ${schedule.name}, but ${refusal}.`] : [];
}
