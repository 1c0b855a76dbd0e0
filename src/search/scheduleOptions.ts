import type { Job } from "../contracts/index.js";
import { schedulePlacement, searchedSchedule } from "../schedule/index.js";
import type { Candidate } from "./candidate.js";
import type { CandidatePool, Shape } from "./candidatePool.js";
import type { Configuration, CostModels } from "./configuration.js";
import { fitsSomehow } from "./oneForwardOneBackward.js";
import {
  type ChainPasses,
  chainPasses,
  leastUpdateSeconds,
  type ScheduleTraits,
  scheduleBound,
  timeBound,
} from "./scheduleBounds.js";
import { type ScheduleChoice, scheduleChoices } from "./scheduleChoices.js";
import { estimateSeconds, isTooLarge } from "./scheduleEstimates.js";
import { cutBound } from "./scheduleProofs.js";
import type { ScheduleRun, ScheduleRuns } from "./scheduleRuns.js";
import { StageCosts } from "./stageCosts.js";

/** A candidate under a schedule that might be the fastest. */
export interface Option {
  candidate: Candidate;
  choice: ScheduleChoice;
  estimate: number;
}

/** A candidate with what it takes at least; some stand for configurations beside their own. */
interface Bounded {
  candidate: Candidate;
  choices: readonly ScheduleChoice[];
  least: number;
  /** Whether it stands for its reliefs as well, which need less memory and as much time. */
  reliefs: boolean;
}

/** Schedules that run no backward in halves. */
const wholeBackwards: ReadonlySet<string> = new Set([
  "1f1b",
  "1f1b-async",
  "2bw",
  "gpipe",
  "interleaved",
  "looped-bfs",
  "chimera",
]);

/** Costs with a schedule's layout. */
export function costsUnder(
  { configuration, chain, costs }: Candidate,
  { schedule: { layout } }: ScheduleRun,
  models: CostModels,
): StageCosts {
  const plain = layout.rankOfStage.length === configuration.pipeline && layout.copies === 1;
  return plain ? costs : new StageCosts(configuration, chain, models, layout);
}

/** Opens the configurations of shapes to schedules, and keeps what bounds all of them. */
export class ScheduleOptions {
  readonly #pool: CandidatePool;
  readonly #job: Job;
  readonly #names: readonly string[];
  readonly #traits: ScheduleTraits;
  readonly #bounded: Bounded[] = [];
  readonly #passes = new WeakMap<Candidate, ChainPasses>();
  #fresh: Option[] = [];

  constructor(pool: CandidatePool, names: readonly string[]) {
    this.#pool = pool;
    this.#job = pool.models.job;
    this.#names = names;
    this.#traits = {
      split: names.some((name) => !wholeBackwards.has(name)),
      bidirectional: names.some((name) => isBidirectional(name, 2)),
    };
  }

  /** Shapes with what they take at least under any of the schedules, the least first. */
  shapes(): { shape: Shape; least: number }[] {
    return this.#pool.shapes
      .map((shape) => {
        const costs = new StageCosts(shape.configuration, shape.chain, this.#pool.models);
        return { shape, least: timeBound(costs, chainPasses(costs.chain), this.#traits) };
      })
      .sort((a, b) => a.least - b.least);
  }

  /** Opens all configurations of a shape that may be faster than the cutoff. */
  explore({ configuration: shape, chain }: Shape, cutoff: number): void {
    for (const root of this.#pool.space.roots(shape)) this.#exploreFrom(root, chain, cutoff);
  }

  /** Options that were opened since the last call, the most promising first. */
  take(): Option[] {
    const fresh = this.#fresh.sort((a, b) => a.estimate - b.estimate);
    this.#fresh = [];
    return fresh;
  }

  /**
   * What everything that was explored takes at least, as far as that is below `known`.
   * @param named whether only named schedules count, so that their own bounds hold.
   */
  bound(known: number, named: boolean, runs: ScheduleRuns): number {
    let bound = known;
    for (const each of this.#bounded) {
      if (each.least >= bound) continue;
      const proven = named ? Math.max(each.least, this.#namedBound(each, runs)) : each.least;
      bound = Math.min(bound, proven);
    }
    return bound;
  }

  /**
   * A configuration, and its reliefs where memory may bind: every recomputation, of layers by number the fewest that
   * fit under 1F1B, and offload where nothing else fits.
   */
  #exploreFrom(configuration: Configuration, chain: Shape["chain"], cutoff: number): boolean {
    const pool = this.#pool;
    const candidate = pool.price({ configuration, chain });
    const fits = fitsSomehow(candidate.costs);
    const tight = this.#consider(candidate, cutoff);
    if (tight === undefined) return fits;
    if (!tight && fits) return true;
    let relieved = fits;
    const offloads: Configuration[] = [];
    for (const relief of pool.space.reliefs(configuration)) {
      if (relief.offload !== configuration.offload) offloads.push(relief);
      else if (relief.recomputeLayers > configuration.recomputeLayers) {
        this.#considerFamily(relief, chain, cutoff);
        const most = chain.blocks.length - 1;
        const fewest = pool.fewestLayers({ configuration: relief, chain }, relief.recomputeLayers, most);
        if (fewest === undefined) continue;
        const fewer = { ...relief, recomputeLayers: fewest };
        this.#consider(pool.price({ configuration: fewer, chain }), cutoff);
        relieved = true;
      } else if (this.#exploreFrom(relief, chain, cutoff)) relieved = true;
    }
    if (offloads.length === 0) return relieved;
    if (relieved) this.#keepRelaxed(candidate, cutoff);
    else for (const relief of offloads) this.#consider(pool.price({ configuration: relief, chain }), cutoff);
    return relieved;
  }

  /**
   * Bounds a candidate and opens it to every schedule that may be faster than the cutoff.
   * @returns whether less memory might help it; undefined where neither it nor what is under it can be faster.
   */
  #consider(candidate: Candidate, cutoff: number): boolean | undefined {
    const { configuration, costs } = candidate;
    const choices = this.#choices(candidate);
    if (choices.length === 0) return undefined;
    const passes = this.#passesOf(candidate);
    const timed = timeBound(costs, passes, this.#traits) + leastUpdateSeconds(costs);
    const least = scheduleBound(costs, passes, this.#traits);
    if (Math.min(timed, least) >= cutoff) return undefined;
    // Without a pipeline the bound is the exact time, or Infinity where memory does not hold it.
    let tight = configuration.pipeline === 1 ? least === Number.POSITIVE_INFINITY : least > timed;
    for (const choice of choices) {
      const { name, chunks } = choice;
      if (isTooLarge(costs, passes, name, chunks)) {
        tight = true;
        continue;
      }
      const both = isBidirectional(name, configuration.pipeline);
      const estimate = Math.max(least, estimateSeconds(costs, passes, name, chunks, both));
      if (estimate < Number.POSITIVE_INFINITY) this.#fresh.push({ candidate, choice, estimate });
    }
    if (least < cutoff) this.#bounded.push({ candidate, choices, least, reliefs: !tight });
    return tight;
  }

  /** Bounds a configuration with some number of layers recomputed whole, for all such numbers. */
  #considerFamily(configuration: Configuration, chain: Shape["chain"], cutoff: number): void {
    const candidate = this.#pool.price({ configuration, chain });
    const choices = this.#choices(candidate);
    const least = scheduleBound(candidate.costs, this.#passesOf(candidate), this.#traits);
    if (least < cutoff) this.#bounded.push({ candidate, choices, least, reliefs: false });
  }

  /** Bounds what offloads parts of a candidate by time alone. */
  #keepRelaxed(candidate: Candidate, cutoff: number): void {
    const { costs } = candidate;
    const least = timeBound(costs, this.#passesOf(candidate), this.#traits) + leastUpdateSeconds(costs);
    if (least < cutoff) {
      this.#bounded.push({ candidate, choices: this.#choices(candidate), least, reliefs: true });
    }
  }

  #choices({ configuration, costs }: Candidate): ScheduleChoice[] {
    return scheduleChoices(this.#job, this.#names, configuration, costs.layerCount);
  }

  /** No cut of a configuration, and of its reliefs where they count, is faster under these schedules. */
  #namedBound({ candidate, choices, reliefs }: Bounded, runs: ScheduleRuns): number {
    const { configuration } = candidate;
    if (configuration.pipeline === 1) return 0;
    let bound = Number.POSITIVE_INFINITY;
    for (const choice of choices) {
      const run = runs.short(choice, configuration);
      if (!run) continue;
      const costs = costsUnder(candidate, run, this.#pool.models);
      if (costs.layout.copies > 1) return 0;
      bound = Math.min(bound, cutBound(costs, this.#passesOf(candidate), run.schedule, !reliefs));
    }
    return bound;
  }

  /** Sums of a candidate's chain, worked out once. */
  #passesOf(candidate: Candidate): ChainPasses {
    const passes = this.#passes.get(candidate) ?? chainPasses(candidate.costs.chain);
    this.#passes.set(candidate, passes);
    return passes;
  }
}

function isBidirectional(name: string, ranks: number): boolean {
  return ranks > 1 && name !== searchedSchedule && schedulePlacement(name).placement === "bidirectional";
}
