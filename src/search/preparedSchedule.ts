import {
  type Clock,
  type CompiledSchedule,
  clockFor,
  compileSchedule,
  flattenTimes,
  routesOf,
  type ScheduleTable,
  stageLinks,
  timeSchedule,
} from "../schedule/index.js";
import { type Holdings, holdingsOf } from "./holdings.js";
import { layoutOfTable, type StageLayout } from "./layout.js";

/** Seconds of one micro-batch on each stage of a plan. */
export interface PassTimes {
  forward: Float64Array;
  backward: Float64Array;
  /** Part of `backward`. */
  backwardWeight: Float64Array;
}

/** A schedule's table with what its time and memory depend on, worked out once for all cuts of a model. */
export class PreparedSchedule {
  readonly table: ScheduleTable;
  readonly layout: StageLayout;
  /** Stage of the plan that each stage of the table holds. */
  readonly layersOf: readonly number[];
  /** What each rank works on: stages of the plan, and the share of the micro-batches that it takes through them. */
  readonly work: readonly (readonly { stage: number; share: number }[])[];
  /** Whether the halves of backwards run apart. */
  readonly split: boolean;
  /** Updates of the weights that a step makes: more than one only without a flush. */
  readonly updates: number;
  readonly actions: number;
  #holdings: Holdings | undefined;
  #compiled: { schedule: CompiledSchedule; clock: Clock } | undefined;

  /** @param table one that passes `checkActions`, as those of `scheduleByName` do. */
  constructor(table: ScheduleTable) {
    this.table = table;
    this.layout = layoutOfTable(table);
    this.layersOf = table.layersOf ?? Array.from({ length: table.stages }, (_, stage) => stage);
    const shares = new Array<number>(table.stages).fill(0);
    for (const { stages, microBatches } of routesOf(table)) {
      for (const stage of stages) shares[stage] = microBatches.length / table.microBatches;
    }
    const work: { stage: number; share: number }[][] = table.ranks.map(() => []);
    for (const [t, rank] of stageLinks(table).rank.entries()) {
      work[rank]!.push({ stage: this.layersOf[t]!, share: shares[t]! });
    }
    this.work = work;
    this.split = table.ranks.some((actions) => actions.some(({ kind }) => kind === "backward-weight"));
    const updates = new Array<number>(table.stages).fill(0);
    for (const actions of table.ranks) {
      for (const { kind, stage } of actions) if (kind === "optimizer") updates[stage]!++;
    }
    this.updates = Math.max(1, ...updates);
    this.actions = table.ranks.reduce((sum, actions) => sum + actions.length, 0);
  }

  get holdings(): Holdings {
    this.#holdings ??= holdingsOf(this.table);
    return this.#holdings;
  }

  /** Seconds of the pipeline by the simulator, without what comes once a step. */
  pipelineSeconds({ forward, backward, backwardWeight }: PassTimes): number {
    if (!this.#compiled) {
      const schedule = compileSchedule(this.table, { checked: true });
      this.#compiled = { schedule, clock: clockFor(schedule) };
    }
    const { schedule, clock } = this.#compiled;
    const spread = (values: Float64Array) => Float64Array.from(this.layersOf, (stage) => values[stage]!);
    const weight = spread(backwardWeight);
    const whole = spread(backward);
    const times = {
      forwardSeconds: spread(forward),
      backwardSeconds: whole,
      backwardInputSeconds: whole.map((seconds, s) => Math.max(0, seconds - weight[s]!)),
      backwardWeightSeconds: weight,
    };
    return timeSchedule(schedule, flattenTimes(times, schedule), clock);
  }

  /** Work of each rank for one micro-batch, on average over the routes. */
  rankSeconds({ forward, backward }: PassTimes): Float64Array {
    return Float64Array.from(this.work, (stages) =>
      stages.reduce((sum, { stage, share }) => sum + share * (forward[stage]! + backward[stage]!), 0),
    );
  }
}
