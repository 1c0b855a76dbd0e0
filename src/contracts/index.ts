export * from "./cluster.js";
export * from "./document.js";
export * from "./errors.js";
export * from "./job.js";
export * from "./model.js";
export * from "./plan.js";
export * from "./progress.js";
export * from "./quantity.js";
export { version } from "./version.js";
