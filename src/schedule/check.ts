import type { ActionKind, ScheduleTable } from "./actions.js";
import { checkOrder } from "./checkOrder.js";
import { type CheckOptions, checkLimits, checkOverlaps, checkWholeStages } from "./checkRank.js";
import { describeAction, isCompute, stageLinks } from "./routes.js";

export type { CheckOptions, MemoryLimit } from "./checkRank.js";

/** How many violations `checkActions` lists before it stops. */
const maximumFindings = 20;

const kinds: ReadonlySet<ActionKind> = new Set<ActionKind>([
  "forward",
  "backward",
  "backward-input",
  "backward-weight",
  "send",
  "receive",
  "all-gather",
  "reshard",
  "reduce",
  "optimizer",
]);

/**
 * Checks that a schedule does all work once and in an order that data allows on each rank: every micro-batch
 * takes one route and passes each of its stages once in each direction (a backward, or its two halves, input
 * first), a stage stays on one rank, sends and receives come in pairs after what they carry and before what
 * needs it, and parameters are gathered and gradients reduced around the work. Whether ranks wait for each other
 * in a circle shows in `checkDeadlock`.
 * @returns one sentence a violation, at most 20; empty for a valid table.
 */
export function checkActions(table: ScheduleTable, options: CheckOptions = {}): string[] {
  const findings: string[] = [];
  const report = (sentence: string) => {
    if (findings.length < maximumFindings) findings.push(sentence);
  };
  checkShape(table, report);
  if (findings.length) return findings;
  checkRoutes(table, report);
  checkFields(table, report);
  if (findings.length) return findings;
  const links = stageLinks(table);
  checkOrder(table, links, report);
  const present = new Set<ActionKind>();
  for (const actions of table.ranks) for (const { kind } of actions) present.add(kind);
  table.ranks.forEach((actions, rank) => {
    checkOverlaps(actions, rank, links, report);
    checkWholeStages(actions, rank, table, present, report);
  });
  if (findings.length === 0) checkLimits(table, options, report);
  return findings;
}

type Report = (sentence: string) => void;

function checkShape(table: ScheduleTable, report: Report): void {
  const { stages, microBatches, ranks, layersOf, weightVersions } = table;
  if (!Number.isInteger(stages) || stages < 1) report(`Expected at least 1 stage but found ${stages}.`);
  if (!Number.isInteger(microBatches) || microBatches < 1) {
    report(`Expected at least 1 micro-batch but found ${microBatches}.`);
  }
  if (!ranks.length) report("Expected at least 1 rank but found none.");
  if (ranks.length > stages) {
    report(`Expected at least as many stages as ranks (${ranks.length}) but found ${stages}.`);
  }
  const actions = ranks.reduce((sum, list) => sum + list.length, 0);
  // Keeps a mistyped index from asking for terabytes below.
  if (stages * microBatches > 1e5 && stages * microBatches > 64 * actions) {
    report(
      `Expected work for ${stages} stages x ${microBatches} micro-batches but found ${actions} actions in all.`,
    );
  }
  for (const [name, list, least] of [
    ["layersOf", layersOf, 0],
    ["weightVersions", weightVersions, 1],
  ] as const) {
    if (!list) continue;
    if (list.length !== stages) {
      report(`Expected ${stages} entries for ${name}, one a stage, but found ${list.length}.`);
    }
    list.forEach((value, stage) => {
      if (!Number.isInteger(value) || value < least) {
        report(`Expected an integer of at least ${least} for ${name} of stage ${stage} but found ${value}.`);
      }
    });
  }
}

/** Every stage lies on one route, every micro-batch takes one. */
function checkRoutes(table: ScheduleTable, report: Report): void {
  if (!table.routes) return;
  for (const [what, count, lists] of [
    ["stage", table.stages, table.routes.map((route) => route.stages)],
    ["micro-batch", table.microBatches, table.routes.map((route) => route.microBatches)],
  ] as const) {
    const routeOf = new Int32Array(count).fill(-1);
    lists.forEach((list, route) => {
      if (!list.length) report(`Expected a ${what} on route ${route} but found none.`);
      for (const index of list) {
        if (!Number.isInteger(index) || index < 0 || index >= count) {
          report(`Expected a ${what} from 0 to ${count - 1} on route ${route} but found ${index}.`);
        } else if (routeOf[index] !== -1) {
          report(
            `Expected ${what} ${index} on route ${routeOf[index]} alone but found it on route ${route}.`,
          );
        } else routeOf[index] = route;
      }
    });
    routeOf.forEach((route, index) => {
      if (route === -1) report(`Expected a route for ${what} ${index} but found none.`);
    });
  }
}

/** Kinds and indices of every action, and one rank for every stage. */
function checkFields(table: ScheduleTable, report: Report): void {
  const { stages, microBatches } = table;
  const home = new Int32Array(stages).fill(-1);
  table.ranks.forEach((actions, rank) => {
    if (!actions.length) report(`Expected work for rank ${rank} but found no action.`);
    for (let i = 0; i < actions.length; i++) {
      const action = actions[i]!;
      const { kind, stage, microBatch, payload } = action;
      const found = () => `found the ${describeAction(action)} (rank ${rank}, action ${i})`;
      if (!kinds.has(kind)) {
        report(`Expected a known kind of action but found "${String(kind)}" (rank ${rank}, action ${i}).`);
        continue;
      }
      if (!Number.isInteger(stage) || stage < 0 || stage >= stages) {
        report(`Expected a stage from 0 to ${stages - 1} but ${found()}.`);
        continue;
      }
      const moves = kind === "send" || kind === "receive";
      if (isCompute(action) || moves) {
        if (!Number.isInteger(microBatch) || microBatch < 0 || microBatch >= microBatches) {
          report(`Expected a micro-batch from 0 to ${microBatches - 1} but ${found()}.`);
          continue;
        }
      } else if (microBatch !== -1) {
        report(`Expected -1 for the micro-batch of a ${kind} but ${found()}.`);
        continue;
      }
      if (moves ? payload !== "activation" && payload !== "gradient" : payload !== undefined) {
        const wanted = moves ? "an activation or a gradient to move" : "no payload";
        report(`Expected ${wanted} but ${found()}.`);
      }
      if (home[stage] === -1) home[stage] = rank;
      else if (home[stage] !== rank)
        report(`Expected stage ${stage} on rank ${home[stage]} alone but ${found()}.`);
    }
  });
}
