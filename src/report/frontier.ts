import type { Plan } from "../contracts/index.js";
import { configurationOf } from "../plan/estimate.js";
import type { FrontierPoint } from "../plan/frontier.js";
import { moneyOf } from "../plan/money.js";
import { shortPlan } from "./choices.js";
import { formatCount, formatDollars, formatInteger, formatPercent, formatSeconds, plural } from "./format.js";
import { type Column, renderTable } from "./table.js";
import type { TerminalOptions } from "./terminal.js";

/** What a plan is and costs, without its placement: what tables of many plans give in --json. */
export function planSummary(plan: Plan) {
  const { estimate, cluster, job } = plan;
  const money = moneyOf(plan);
  return {
    cluster: cluster.name,
    devices: cluster.devices,
    memoryFraction: job.limits.memoryFraction,
    configuration: configurationOf(plan),
    schedule: plan.schedule.name,
    /** Block layers of each stage. */
    layers: plan.stages.map(({ layers }) => layers.end - layers.start),
    stepSeconds: estimate.stepSeconds,
    tokensPerSecond: estimate.tokensPerSecond,
    mfu: estimate.mfu,
    hfu: estimate.hfu,
    memoryBytes: Math.max(...estimate.memory.map(({ reservedBytes }) => reservedBytes)),
    limitBytes: estimate.memory[0]!.limitBytes,
    ...(money && {
      dollarsPerHour: money.perHour,
      dollarsPerStep: money.perStep,
      dollarsPerMillionTokens: money.perMillionTokens,
    }),
    certificate: plan.certificate,
  };
}

/** The frontier in --json: one summary a point. */
export function frontierDocument(points: readonly FrontierPoint[]) {
  return points.map(({ plan }) => planSummary(plan));
}

const columns: readonly (Column<FrontierPoint> & { priced?: boolean })[] = [
  { title: "devices", right: true, cell: ({ devices }) => formatInteger(devices) },
  { title: "GiB", right: true, cell: ({ memoryBytes }) => (memoryBytes / 2 ** 30).toFixed(1) },
  { title: "step", right: true, cell: ({ stepSeconds }) => formatSeconds(stepSeconds) },
  { title: "tokens/s", right: true, cell: ({ plan }) => formatCount(plan.estimate.tokensPerSecond) },
  { title: "MFU", right: true, cell: ({ plan }) => formatPercent(plan.estimate.mfu) },
  {
    title: "$/step",
    right: true,
    priced: true,
    cell: ({ plan }) => formatDollars(moneyOf(plan)?.perStep ?? 0),
  },
  {
    title: "$/Mtoken",
    right: true,
    priced: true,
    cell: ({ plan }) => formatDollars(moneyOf(plan)?.perMillionTokens ?? 0),
  },
  { title: "gap", right: true, cell: ({ plan }) => formatPercent(plan.certificate.gap) },
  { title: "plan", cell: ({ plan }) => shortPlan(plan) },
];

/** The frontier as a table for the terminal. */
export function renderFrontier(points: readonly FrontierPoint[], options: TerminalOptions): string {
  const priced = points.every(({ plan }) => moneyOf(plan));
  const shown = columns.filter((column) => priced || !column.priced);
  const title = `Frontier: ${plural(points.length, "plan")}, none better than another in step time, memory, devices and money at once`;
  return renderTable(title, shown, points, options);
}
