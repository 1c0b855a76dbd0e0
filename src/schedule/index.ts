export * from "./actions.js";
export * from "./bounds.js";
export * from "./compile.js";
export * from "./named.js";
export * from "./plan.js";
export * from "./simulate.js";
