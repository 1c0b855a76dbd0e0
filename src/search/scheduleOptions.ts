import type { Job } from "../contracts/index.js";
import { searchedSchedule } from "../runtimes/index.js";
import { schedulePlacement } from "../schedule/index.js";
import type { Candidate } from "./candidate.js";
import type { CandidatePool, Shape } from "./candidatePool.js";
import type { Configuration, CostModels } from "./configuration.js";
import { priceChain } from "./pricedLayer.js";
import {
  type ChainPasses,
  chainPasses,
  familyBound,
  leastUpdateSeconds,
  type ScheduleTraits,
  scheduleBound,
  timeBound,
} from "./scheduleBounds.js";
import { type ScheduleChoice, scheduleChoices } from "./scheduleChoices.js";
import { estimateSeconds, excessSavedBytes } from "./scheduleEstimates.js";
import { cutBound } from "./scheduleProofs.js";
import type { ScheduleRun, ScheduleRuns } from "./scheduleRuns.js";
import { StageCosts } from "./stageCosts.js";

/** A candidate under a schedule that might be the fastest. */
export interface Option {
  candidate: Candidate;
  choice: ScheduleChoice;
  estimate: number;
}

/** A configuration with what it takes at least; some stand for configurations beside their own. */
interface Bounded {
  configuration: Configuration;
  chain: Shape["chain"];
  least: number;
  /** Whether it stands for its reliefs as well, which need less memory and as much time. */
  reliefs: boolean;
}

/** Options that are kept until somebody looks at them: more than are ever timed. */
const mostOptions = 1024;

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
  /** Where any order of actions is open, the least of these is all that counts. */
  readonly #bounded: Bounded[] = [];
  #least = Number.POSITIVE_INFINITY;
  readonly #anyOrder: boolean;
  #fresh: Option[] = [];

  constructor(pool: CandidatePool, names: readonly string[]) {
    this.#pool = pool;
    this.#job = pool.models.job;
    this.#names = names;
    this.#anyOrder = names.includes(searchedSchedule);
    this.#traits = {
      split: names.some((name) => !wholeBackwards.has(name)),
      bidirectional: names.some((name) => isBidirectional(name, 2)),
    };
  }

  /** Shapes with what they take at least under any of the schedules, the least first. */
  shapes(): { shape: Shape; least: number }[] {
    const { models } = this.#pool;
    return this.#pool.shapes
      .map((shape) => {
        const { configuration, chain, transferSeconds } = shape;
        const passes = chainPasses(priceChain(chain, configuration, models));
        return { shape, least: timeBound({ configuration, transferSeconds }, passes, this.#traits) };
      })
      .sort((a, b) => a.least - b.least);
  }

  /** Opens all configurations of a shape that may be faster than the cutoff. */
  explore({ configuration: shape, chain }: Shape, cutoff: number): void {
    const roots = this.#pool.space
      .roots(shape)
      .map((configuration) => this.#pool.price({ configuration, chain }));
    for (const root of undominated(roots)) this.#exploreRoot(root, cutoff);
  }

  /** Options that were opened since the last call, the most promising first. */
  take(): Option[] {
    const fresh = this.#fresh.sort((a, b) => a.estimate - b.estimate);
    this.#fresh = [];
    return fresh;
  }

  /**
   * What everything that was explored takes at least, as far as that is below `known`.
   * @param quick leaves out the bounds of single schedules, which take time.
   */
  bound(known: number, quick: boolean, runs: ScheduleRuns): number {
    let bound = Math.min(known, this.#least);
    for (const each of this.#bounded) {
      if (each.least >= bound) continue;
      bound = Math.min(bound, quick ? each.least : Math.max(each.least, this.#namedBound(each, runs)));
    }
    return bound;
  }

  #keep({ configuration, chain }: Candidate, least: number, reliefs: boolean): void {
    // Any order of actions may be faster than every named one.
    if (this.#anyOrder) this.#least = Math.min(this.#least, least);
    else this.#bounded.push({ configuration, chain, least, reliefs });
  }

  /**
   * A configuration under every schedule that it may fit, and where it does not, its reliefs: each recomputation, of
   * layers by number as few as are needed, and offload where nothing else fits.
   */
  #exploreRoot(root: Candidate, cutoff: number): void {
    const pool = this.#pool;
    const { chain } = root;
    const lightest = pool.price({ configuration: pool.space.lightest(root.configuration), chain });
    const room = scheduleBound(lightest.costs, chainPasses(lightest.costs.chain), this.#traits);
    if (room === Number.POSITIVE_INFINITY) return;
    const found = this.#consider(root, this.#choices(root), cutoff);
    if (!found) return;
    let left = found.left;
    if (left.length === 0 && !found.tight) return;
    const offloads: Configuration[] = [];
    const open = [root];
    let last = root;
    for (let candidate = open.pop(); candidate; candidate = open.pop()) {
      for (const relief of pool.space.reliefs(candidate.configuration)) {
        if (relief.offload !== candidate.configuration.offload) {
          if (candidate === root) offloads.push(relief);
        } else if (relief.recomputeLayers > candidate.configuration.recomputeLayers) {
          const least = this.#considerFamily(candidate, relief, cutoff);
          if (least < cutoff) this.#openLayers(candidate, relief, left, cutoff);
        } else {
          const next = pool.price({ configuration: relief, chain });
          const after = this.#consider(next, left, cutoff);
          open.push(next);
          if (after) left = after.left;
          last = next;
        }
      }
    }
    for (const away of offloads) {
      const least = this.#keepRelaxed(pool.price({ configuration: away, chain }), cutoff);
      // What does not fit with everything recomputed has to leave the device.
      if (left.length === 0 || least >= cutoff) continue;
      const configuration = { ...last.configuration, offload: away.offload };
      this.#consider(pool.price({ configuration, chain }), left, cutoff);
    }
  }

  /**
   * Bounds a candidate and opens it to every schedule that may be faster than the cutoff.
   * @returns the schedules that it does not fit, and whether memory decides its bound; undefined where neither it nor
   *   what is under it can be faster.
   */
  #consider(
    candidate: Candidate,
    choices: readonly ScheduleChoice[],
    cutoff: number,
  ): { left: ScheduleChoice[]; tight: boolean } | undefined {
    const { configuration, costs } = candidate;
    if (choices.length === 0) return undefined;
    const passes = chainPasses(candidate.costs.chain);
    const timed = timeBound(costs, passes, this.#traits) + leastUpdateSeconds(costs);
    const least = scheduleBound(costs, passes, this.#traits);
    if (Math.min(timed, least) >= cutoff) return undefined;
    // Without a pipeline the bound is the exact time, or Infinity where memory does not hold it.
    const tight = configuration.pipeline === 1 ? least === Number.POSITIVE_INFINITY : least > timed;
    const left = choices.filter((choice) => !this.#open(candidate, choice, least, cutoff));
    const reliefs = !tight && left.length === 0;
    if (least < cutoff) this.#keep(candidate, least, reliefs);
    return { left, tight };
  }

  /**
   * Opens a candidate to a schedule.
   * @returns false where it does not fit.
   */
  #open(candidate: Candidate, choice: ScheduleChoice, least: number, cutoff: number): boolean {
    const { configuration, costs } = candidate;
    const { name, chunks } = choice;
    const passes = chainPasses(candidate.costs.chain);
    if (least === Number.POSITIVE_INFINITY) return false;
    if (excessSavedBytes(costs, passes, name, chunks) > 0) return false;
    const both = isBidirectional(name, configuration.pipeline);
    const estimate = Math.max(least, estimateSeconds(costs, passes, name, chunks, both));
    if (estimate < cutoff) this.#fresh.push({ candidate, choice, estimate });
    // Where something fits already, nobody looks at more than the most promising.
    if (cutoff < Number.POSITIVE_INFINITY && this.#fresh.length > 2 * mostOptions) {
      this.#fresh.sort((a, b) => a.estimate - b.estimate).length = mostOptions;
    }
    return true;
  }

  /** Opens a candidate with as few layers recomputed whole as each schedule needs. */
  #openLayers(
    candidate: Candidate,
    family: Configuration,
    choices: readonly ScheduleChoice[],
    cutoff: number,
  ): void {
    const { chain, costs } = candidate;
    const whole = this.#pool.price({ configuration: { ...family, recomputeLayers: 1 }, chain });
    const base = chainPasses(candidate.costs.chain);
    const savedEach = (base.total.savedBytes - chainPasses(whole.costs.chain).total.savedBytes) / base.blocks;
    if (savedEach <= 0) return;
    const known = new Map<number, Candidate>();
    for (const choice of choices) {
      const excess = excessSavedBytes(costs, base, choice.name, choice.chunks);
      const stages = candidate.configuration.pipeline * choice.chunks;
      const recomputeLayers = Math.max(1, Math.ceil(excess / savedEach / stages));
      if (recomputeLayers * stages >= base.blocks) continue;
      const priced =
        known.get(recomputeLayers) ??
        this.#pool.price({ configuration: { ...family, recomputeLayers }, chain });
      known.set(recomputeLayers, priced);
      const both = isBidirectional(choice.name, candidate.configuration.pipeline);
      const repeated = (recomputeLayers * stages) / base.blocks;
      const passes = withRepeats(base, priced.costs, repeated);
      const estimate = estimateSeconds(priced.costs, passes, choice.name, choice.chunks, both);
      if (estimate < cutoff) this.#fresh.push({ candidate: priced, choice, estimate });
    }
  }

  /** Bounds a candidate with some number of layers recomputed whole, for all such numbers. @returns the bound. */
  #considerFamily(base: Candidate, configuration: Configuration, cutoff: number): number {
    const candidate = this.#pool.price({ configuration, chain: base.chain });
    const { costs } = candidate;
    const least = familyBound(
      costs,
      chainPasses(base.costs.chain),
      chainPasses(candidate.costs.chain),
      this.#traits,
    );
    if (least < cutoff) this.#keep(candidate, least, false);
    return least;
  }

  /** Bounds what recomputes parts of a candidate by time alone. @returns the bound. */
  #keepRelaxed(candidate: Candidate, cutoff: number): number {
    const { costs } = candidate;
    const least =
      timeBound(costs, chainPasses(candidate.costs.chain), this.#traits) + leastUpdateSeconds(costs);
    if (least < cutoff) this.#keep(candidate, least, true);
    return least;
  }

  #choices({ configuration, costs }: Candidate): ScheduleChoice[] {
    return scheduleChoices(this.#job, this.#names, configuration, costs.layerCount);
  }

  /** No cut of a configuration, and of its reliefs where they count, is faster under these schedules. */
  #namedBound({ configuration, chain, reliefs }: Bounded, runs: ScheduleRuns): number {
    if (configuration.pipeline === 1) return 0;
    const candidate = this.#pool.price({ configuration, chain });
    let bound = Number.POSITIVE_INFINITY;
    for (const choice of this.#choices(candidate)) {
      const run = runs.short(choice, configuration);
      if (!run) continue;
      const costs = costsUnder(candidate, run, this.#pool.models);
      if (costs.layout.copies > 1) return 0;
      bound = Math.min(bound, cutBound(costs, chainPasses(candidate.costs.chain), run.schedule, !reliefs));
    }
    return bound;
  }
}

/** Passes of a chain of which a share of the blocks is recomputed whole. */
function withRepeats(base: ChainPasses, { chain }: StageCosts, share: number): ChainPasses {
  const { blocks, whole, pattern } = chain;
  let extra = 0;
  for (const [kind, block] of blocks.entries()) {
    const each = (whole?.[kind]?.backward ?? block.backward) - block.backward;
    extra += share * each * pattern.counts[kind]![pattern.length]!;
  }
  const add = (pass: ChainPasses["total"], seconds: number) => ({
    ...pass,
    backwardInput: pass.backwardInput + seconds,
    pass: pass.pass + seconds,
  });
  return { ...base, total: add(base.total, extra), leastBlock: add(base.leastBlock, extra / base.blocks) };
}

/** Candidates of one shape without those that take as long as another and hold as much. */
function undominated(candidates: readonly Candidate[]): Candidate[] {
  const facts = candidates.map(({ costs }) => {
    const { seconds, leastStageBytes } = costs.wholeModel();
    return [seconds, leastUpdateSeconds(costs), leastStageBytes, costs.chain.moments.workspace] as const;
  });
  return candidates.filter(
    (_, i) =>
      !facts.some(
        (other, j) =>
          j !== i &&
          other.every((value, k) => value <= facts[i]![k]!) &&
          (j < i || other.some((value, k) => value < facts[i]![k]!)),
      ),
  );
}

function isBidirectional(name: string, ranks: number): boolean {
  return ranks > 1 && name !== searchedSchedule && schedulePlacement(name).placement === "bidirectional";
}
