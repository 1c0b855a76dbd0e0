import { MpoptError, type Plan } from "../contracts/index.js";
import type { ScheduleTable } from "./actions.js";
import { compileSchedule } from "./compile.js";
import { readScheduleCsv } from "./csv.js";
import type { MemoryModel } from "./memory.js";
import { canonicalScheduleName, scheduleByName, scheduleShape } from "./named/index.js";
import { stageLinks } from "./routes.js";
import { type SimulateOptions, type Simulation, simulate } from "./simulate.js";
import type { StageTimes } from "./times.js";

/** One optimizer step of a plan in time. */
export interface StepSimulation {
  /** The schedule that was played. */
  table: ScheduleTable;
  /** The whole step: the pipeline, then the tail. */
  stepSeconds: number;
  pipeline: Simulation;
  /** Exposed work after the last backward, from the plan's terms, in order. */
  tail: { name: "gradientSynchronisation" | "optimizer"; seconds: number }[];
}

/**
 * The schedule that a plan runs: its own actions where it has some, otherwise the one that it names.
 * @throws MpoptError E_PLAN_INVALID for an unknown schedule or stages that it cannot lay out; E_PARSE for actions
 * that cannot be read.
 */
export function scheduleOfPlan(plan: Plan): ScheduleTable {
  const { name, microBatches, actions } = plan.schedule;
  if (actions) {
    const table = readScheduleCsv(actions.join("\n"), `schedule ${name}`);
    if (table.microBatches !== microBatches || table.stages !== plan.stages.length) {
      throw new MpoptError(
        "E_PLAN_INVALID",
        `Expected actions for ${plan.stages.length} stages and ${microBatches} micro-batches but found ${table.stages} and ${table.microBatches}.`,
      );
    }
    return { ...table, name };
  }
  const ranks = 1 + plan.stages.reduce((most, { rank }) => Math.max(most, rank), 0);
  const chunks = plan.stages.length / ranks;
  canonicalScheduleName(name);
  const { placement } = scheduleShape(name, ranks);
  // The second pipeline of a bidirectional schedule holds copies of the plan's stages.
  const table = scheduleByName(name, {
    ranks,
    microBatches,
    ...(placement === "bidirectional" || !Number.isInteger(chunks) ? {} : { chunks }),
  });
  const held = new Set(table.layersOf ?? Array.from({ length: table.stages }, (_, i) => i)).size;
  if (held !== plan.stages.length) {
    throw new MpoptError(
      "E_PLAN_INVALID",
      `Expected ${held} stages for ${name} on ${ranks} ranks but found ${plan.stages.length}.`,
    );
  }
  return table;
}

/**
 * Times of a plan's stages in the order of the forward pass. They include transfers already. Where a plan
 * does not say how a backward splits, its halves are taken as equal, as the matrix products of a linear layer are
 * (Qi et al., ICLR 2024, table 1).
 * @throws MpoptError E_PLAN_INVALID where the stages are not numbered 0, 1, 2, ...
 */
export function timesOfPlan(
  plan: Plan,
): Record<"forwardSeconds" | "backwardSeconds" | "backwardInputSeconds" | "backwardWeightSeconds", number[]> {
  const stages = stagesInOrder(plan);
  const weight = stages.map((stage) => stage.backwardWeightSeconds ?? stage.backwardSeconds / 2);
  return {
    forwardSeconds: stages.map((stage) => stage.forwardSeconds),
    backwardSeconds: stages.map((stage) => stage.backwardSeconds),
    backwardInputSeconds: stages.map((stage, s) => Math.max(0, stage.backwardSeconds - weight[s]!)),
    backwardWeightSeconds: weight,
  };
}

function stagesInOrder(plan: Plan): Plan["stages"] {
  const stages = [...plan.stages].sort((a, b) => a.index - b.index);
  stages.forEach((stage, i) => {
    if (stage.index !== i) {
      throw new MpoptError("E_PLAN_INVALID", `Expected a stage ${i} in the plan but found ${stage.index}.`);
    }
  });
  return stages;
}

/**
 * What the stages of a schedule hold, so that each rank's peak is the plan's estimate: its fixed terms spread over
 * the rank's stages, its activations over the micro-batches in flight, logits and workspace while a stage works.
 * @returns undefined where the plan lacks the memory of a rank.
 */
export function memoryOfPlan(
  plan: Plan,
  table: ScheduleTable,
  peakMicroBatches: ArrayLike<number>,
): MemoryModel | undefined {
  const entries = new Map(plan.estimate.memory.map((entry) => [entry.pipelineRank, entry]));
  const { rank } = stageLinks(table);
  const chunks = new Int32Array(table.ranks.length);
  for (const r of rank) chunks[r] = chunks[r]! + 1;
  if (!table.ranks.every((_, r) => entries.has(r))) return undefined;
  const first = entries.get(0)!;
  const overlaps = table.ranks.map((actions) => actions.some((action) => action.overlapped));
  const stages = Array.from(rank, (r, s) => {
    const { parameters, gradients, optimizer, activations, logits, workspace } = entries.get(r)!.terms;
    return {
      parameterBytes: parameters / chunks[r]! / (table.weightVersions?.[s] ?? 1),
      gradientBytes: gradients / chunks[r]!,
      optimizerBytes: optimizer / chunks[r]!,
      activationBytes: activations / peakMicroBatches[r]!,
      // Where a forward and a backward run side by side, the plan counts a workspace for each.
      forwardWorkspaceBytes: overlaps[r] ? workspace / 2 : logits + workspace,
      backwardWorkspaceBytes: overlaps[r] ? workspace / 2 + logits : logits + workspace,
    };
  });
  const used = first.allocatedBytes - first.terms.context;
  return {
    stages,
    contextBytes: first.terms.context,
    fragmentation: used > 0 ? Math.max(1, (first.reservedBytes - first.terms.context) / used) : 1,
  };
}

export interface SimulatePlanOptions extends Omit<SimulateOptions, "memory"> {
  /** Memory of each rank, after `memoryOfPlan`. */
  memory?: boolean;
  /**
   * Played in place of the plan's own schedule: with the plan's stages on the plan's ranks, or, with two routes, with
   * copies of them. Its memory follows from what a micro-batch holds under the plan's own schedule.
   */
  table?: ScheduleTable;
}

/**
 * Simulates one step of a plan: the pipeline from its stages' times, then the exposed gradient
 * synchronisation and the optimizer, which all ranks do after their last backward.
 * @throws MpoptError E_PLAN_INVALID as `scheduleOfPlan` and `timesOfPlan`.
 */
export function simulatePlan(plan: Plan, options: SimulatePlanOptions = {}): StepSimulation {
  const { memory: withMemory = false, table: other, ...others } = options;
  const own = other && !withMemory ? undefined : compileSchedule(scheduleOfPlan(plan));
  const compiled = other ? compileSchedule(other) : own!;
  const { table } = compiled;
  const each = timesOfPlan(plan);
  const layersOf = table.layersOf ?? each.forwardSeconds.map((_, stage) => stage);
  const spread = (seconds: number[]) => layersOf.map((layers) => seconds[layers]!);
  const times: StageTimes = {
    forwardSeconds: spread(each.forwardSeconds),
    backwardSeconds: spread(each.backwardSeconds),
    backwardInputSeconds: spread(each.backwardInputSeconds),
    backwardWeightSeconds: spread(each.backwardWeightSeconds),
  };
  let memory = withMemory ? memoryOfPlan(plan, own!.table, own!.peakMicroBatches) : undefined;
  // The first stages of a table are the plan's: copies come behind them.
  if (memory && other) memory = { ...memory, stages: layersOf.map((layers) => memory!.stages[layers]!) };
  const pipeline = simulate(compiled, times, { ...others, ...(memory ? { memory } : {}) });
  const { gradientSynchronisation, optimizer } = plan.estimate.terms;
  return {
    table,
    stepSeconds: pipeline.stepSeconds + gradientSynchronisation + optimizer,
    pipeline,
    tail: [
      { name: "gradientSynchronisation", seconds: gradientSynchronisation },
      { name: "optimizer", seconds: optimizer },
    ],
  };
}
