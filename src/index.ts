/**
 * mpopt's library: what the command line does, as typed functions without global state. Long work takes an
 * AbortSignal and reports progress; every failure is an `MpoptError` with a stable code.
 */

import type { Plan } from "./contracts/index.js";
import { lossyFor } from "./launch/index.js";
import { planInThread, type ThreadPlanOptions } from "./plan/thread.js";

/**
 * The best plan for a model on a cluster, with its proof, checked before it is returned. The search runs on a thread
 * of its own: the event loop stays free, plans may be made beside each other, and an abort ends it at once.
 * @throws MpoptError E_FIELD for a job that does not fit its contract, E_INFEASIBLE naming the tightest constraint,
 *   E_USAGE for a pinned schedule that the runtime does not execute, E_CANCELLED once the signal aborts,
 *   E_PLAN_INVALID if the plan breaks an invariant (a defect of mpopt).
 */
export function plan(options: ThreadPlanOptions): Promise<Plan> {
  return planInThread({ lossyFor, ...options });
}

export { clusterPreset, clusterPresetNames, loadCluster } from "./cluster/index.js";
export { type ProfileOptions, profileCluster as profile } from "./cluster/profile.js";
export * from "./contracts/index.js";
export {
  type Elastic,
  exportPlan,
  findPython,
  type LaunchOptions,
  launch,
  lossyFor,
  type RunRecord,
  type StarterName,
} from "./launch/index.js";
export {
  importHuggingFace,
  loadModel,
  presetNames,
  type TransformerDimensions,
  transformerModel,
} from "./models/index.js";
export { type FrontierOptions, type FrontierPoint, planFrontier } from "./plan/frontier.js";
export {
  checkPlan,
  estimatePlan,
  type Violation,
} from "./plan/index.js";
export { type Money, moneyOf } from "./plan/money.js";
export { type Movement, type RankMovement, stateMovement } from "./plan/movement.js";
export { type Replanned, type ReplanOptions, replan } from "./plan/replan.js";
export type { ThreadPlanOptions as PlanOptions } from "./plan/thread.js";
export { parseWhatIf, planWhatIf, type WhatIf, type WhatIfChange } from "./plan/whatIf.js";
export { explainPlan, renderHtml, renderPlan, renderSimulation, traceOf } from "./report/index.js";
export {
  checkActions,
  checkDeadlock,
  readScheduleCsv,
  type ScheduleTable,
  scheduleByName,
  scheduleNames,
  searchSchedule,
  simulate,
  simulatePlan,
  writeScheduleCsv,
} from "./schedule/index.js";
export { evaluateAssignment, type Problem, type Solution, type SolveLimits, solve } from "./solver/index.js";
