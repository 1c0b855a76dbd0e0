export * from "./actions.js";
export * from "./bounds.js";
export * from "./compile.js";
export { checkDeadlock, type DeadlockOptions } from "./deadlock.js";
export { addSharding, addTransfers } from "./lower.js";
export * from "./named/index.js";
export * from "./plan.js";
export { peakInFlight, routesOf, type StageLinks, stageLinks } from "./routes.js";
export * from "./simulate.js";
