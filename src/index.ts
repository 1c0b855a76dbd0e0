/**
 * mpopt's library: what the command line does, as typed functions without global state. Long work takes an
 * AbortSignal and reports progress; every failure is an `MpoptError` with a stable code.
 */

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
  createPlan as plan,
  estimatePlan,
  type PlanOptions,
  type Violation,
} from "./plan/index.js";
export { type Money, moneyOf } from "./plan/money.js";
export { type Movement, type RankMovement, stateMovement } from "./plan/movement.js";
export { type Replanned, type ReplanOptions, replan } from "./plan/replan.js";
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
