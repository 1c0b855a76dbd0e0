import { MpoptError, type Plan } from "../contracts/index.js";
import type { ScheduleTable } from "./actions.js";
import { scheduleByName } from "./named/index.js";
import { type Simulation, type StageTimes, simulate } from "./simulate.js";

/** One optimizer step of a plan in time. */
export interface StepSimulation {
  /** The whole step: the pipeline, then the tail. */
  stepSeconds: number;
  pipeline: Simulation;
  /** Exposed work after the last backward, from the plan's terms, in order. */
  tail: { name: "gradientSynchronisation" | "optimizer"; seconds: number }[];
}

/**
 * The schedule that a plan runs.
 * @throws MpoptError E_PLAN_INVALID for an unknown schedule.
 */
export function scheduleOfPlan(plan: Plan): ScheduleTable {
  return scheduleByName(plan.schedule.name, {
    ranks: plan.stages.length,
    microBatches: plan.schedule.microBatches,
  });
}

/**
 * Times of a plan's stages in the order of the forward pass. They include transfers already.
 * @throws MpoptError E_PLAN_INVALID where the stages are not numbered 0, 1, 2, ...
 */
export function timesOfPlan(plan: Plan): StageTimes {
  const stages = [...plan.stages].sort((a, b) => a.index - b.index);
  stages.forEach((stage, i) => {
    if (stage.index !== i) {
      throw new MpoptError("E_PLAN_INVALID", `Expected a stage ${i} in the plan but found ${stage.index}.`);
    }
  });
  return {
    forwardSeconds: stages.map((stage) => stage.forwardSeconds),
    backwardSeconds: stages.map((stage) => stage.backwardSeconds),
  };
}

/**
 * Simulates one step of a plan: the pipeline from its stages' times, then the exposed gradient
 * synchronisation and the optimizer, which all ranks do after their last backward.
 * @throws MpoptError E_PLAN_INVALID as `scheduleOfPlan` and `timesOfPlan`.
 */
export function simulatePlan(plan: Plan, options: { events?: boolean } = {}): StepSimulation {
  const pipeline = simulate(scheduleOfPlan(plan), timesOfPlan(plan), options);
  const { gradientSynchronisation, optimizer } = plan.estimate.terms;
  return {
    stepSeconds: pipeline.stepSeconds + gradientSynchronisation + optimizer,
    pipeline,
    tail: [
      { name: "gradientSynchronisation", seconds: gradientSynchronisation },
      { name: "optimizer", seconds: optimizer },
    ],
  };
}
