export * from "./compare.js";
export * from "./explain.js";
export * from "./facts.js";
export * from "./format.js";
export { renderHtml, renderSimulation } from "./html.js";
export { renderPlan, type TerminalOptions, terminalOptions } from "./terminal.js";
export { renderTimeline } from "./timelineText.js";
export * from "./trace.js";
