export * from "./actions.js";
export * from "./bounds.js";
export {
  type CompiledSchedule,
  type CompileOptions,
  compileSchedule,
  kindCodes,
  kindNames,
  lastComputeKind,
  peakMicroBatchesOf,
} from "./compile.js";
export {
  readScheduleCsv,
  type ScheduleCsvForm,
  scheduleCsvForm,
  type WriteScheduleCsvOptions,
  writeScheduleCsv,
} from "./csv.js";
export { checkDeadlock, type DeadlockOptions } from "./deadlock.js";
export type { BoundaryTransfer, Network } from "./links.js";
export { addSharding, addTransfers } from "./lower.js";
export * from "./memory.js";
export { asynchronousSchedules } from "./named/asynchronous.js";
export * from "./named/index.js";
export * from "./plan.js";
export { peakInFlight, routesOf, type StageLinks, stageLinks } from "./routes.js";
export * from "./search/index.js";
export * from "./simulate.js";
export { timeByEvents } from "./timeByEvents.js";
export { type Clock, clockFor, isTimedInOrder, timeInOrder } from "./timeInOrder.js";
export { type FlatTimes, flattenTimes, type StageTimes } from "./times.js";
export { type Boundary, boundariesOf } from "./transfers.js";
export { addUpdates, type UpdateOptions } from "./updates.js";
export type { Wait, WaitCause } from "./waits.js";
