import type { Configuration } from "./configuration.js";
import type { PassTimes, PreparedSchedule } from "./preparedSchedule.js";
import { longestUpdate, passTimes } from "./pricing.js";
import { makeSchedule, type ScheduleChoice } from "./scheduleChoices.js";
import type { StageCosts } from "./stageCosts.js";

/** A schedule for as many micro-batches as show its pace, which stands for more of them. */
export interface ScheduleRun {
  schedule: PreparedSchedule;
  /** Micro-batches beyond those of the run, each taken to add one round of the busiest rank. */
  further: number;
}

/** Seconds of a whole step by a run; exact where it is not shortened. */
export function runSeconds(costs: StageCosts, boundaries: readonly number[], run: ScheduleRun): number {
  const times = passTimes(costs, boundaries);
  const { gradientSynchronisation, optimizer } = longestUpdate(costs, boundaries, times, run.schedule);
  return pipelineSeconds(times, run) + gradientSynchronisation + optimizer;
}

function pipelineSeconds(times: PassTimes, { schedule, further }: ScheduleRun): number {
  const seconds = schedule.pipelineSeconds(times);
  if (further === 0) return seconds;
  return seconds + further * schedule.rankSeconds(times).reduce((a, b) => Math.max(a, b), 0);
}

/** Runs by schedule, ranks and micro-batches, so that all configurations that share one compile it once. */
export class ScheduleRuns {
  readonly #runs = new Map<string, PreparedSchedule | undefined>();
  /** Actions of all schedules made so far. */
  actions = 0;

  /** A run that is short where that shows enough; undefined where the schedule does not exist for these counts. */
  short(choice: ScheduleChoice, configuration: Configuration): ScheduleRun | undefined {
    const { pipeline, microBatches } = configuration;
    const enough = shortRun(choice.name, pipeline, microBatches);
    // Shapes are the same for any number of micro-batches that is large enough, but not whether they exist.
    const schedule = this.#get(choice, pipeline, enough);
    return schedule && { schedule, further: microBatches - enough };
  }

  /** The run of all micro-batches. */
  whole(choice: ScheduleChoice, { pipeline, microBatches }: Configuration): ScheduleRun | undefined {
    const schedule = this.#get(choice, pipeline, microBatches);
    return schedule && { schedule, further: 0 };
  }

  #get(choice: ScheduleChoice, ranks: number, microBatches: number): PreparedSchedule | undefined {
    const key = `${choice.name}/${choice.chunks}/${ranks}/${microBatches}`;
    if (!this.#runs.has(key)) {
      const schedule = makeSchedule(choice, ranks, microBatches);
      this.actions += schedule?.actions ?? 0;
      this.#runs.set(key, schedule);
    }
    return this.#runs.get(key);
  }
}

/** Micro-batches after which a schedule repeats itself, and holds as much as it ever will. */
function shortRun(name: string, ranks: number, microBatches: number): number {
  // These hold all micro-batches at once.
  if (name === "gpipe" || name === "looped-bfs") return microBatches;
  // Rounds of another length than one a rank depend on the number of micro-batches.
  if (name.startsWith("interleaved") && microBatches % ranks !== 0) return microBatches;
  const enough = (name === "dualpipe" || name === "chimera" ? 4 : 3) * ranks;
  const parity = name === "dualpipe" || name === "chimera" ? (microBatches + enough) % 2 : 0;
  return microBatches > 1.5 * enough ? enough + parity : microBatches;
}
