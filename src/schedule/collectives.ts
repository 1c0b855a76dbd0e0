import { MpoptError } from "../contracts/index.js";
import type { Action, ScheduleTable } from "./actions.js";

/**
 * All-gathers and reductions. A rank runs them one at a time in the order in which it comes to them, beside
 * its compute actions. The reductions of copies of a stage (`layersOf`) are one collective: the k-th of each
 * copy join, and start when all their ranks have come to it.
 */
export interface Collectives {
  readonly length: number;
  /** True for a reduction, false for a gather. */
  readonly reduces: Uint8Array;
  /** Stages whose parameters or gradients it moves, more than one for copies. */
  readonly stages: readonly (readonly number[])[];
  /** Positions of its actions. */
  readonly positions: readonly (readonly number[])[];
  /** Ranks that take part, each once. */
  readonly ranks: readonly (readonly number[])[];
  /** By rank: its collectives in the order in which it runs them. */
  readonly ofRank: readonly (readonly number[])[];
}

interface Collective {
  reduces: boolean;
  stages: number[];
  positions: number[];
  ranks: number[];
  /** Actions that have not been placed, by rank. */
  missing: Map<number, number>;
  done: boolean;
}

/** Puts collectives in order while a schedule is compiled. */
export class CollectiveOrder {
  readonly #list: Collective[] = [];
  readonly #ofRank: number[][];
  readonly #head: number[];
  readonly #lastGather: Int32Array;
  readonly #lastReduce: Int32Array;
  readonly #layersOf: number[] | undefined;
  readonly #joint = new Map<string, number>();
  readonly #reducesOf: Int32Array;
  readonly #copies = new Map<number, { stages: number[]; ranks: number[] }>();
  readonly #used: boolean;

  /** @throws MpoptError E_PLAN_INVALID where copies of a stage are reduced unequally often. */
  constructor(table: ScheduleTable) {
    this.#ofRank = table.ranks.map(() => []);
    this.#head = table.ranks.map(() => 0);
    this.#lastGather = new Int32Array(table.stages).fill(-1);
    this.#lastReduce = new Int32Array(table.stages).fill(-1);
    this.#reducesOf = new Int32Array(table.stages);
    this.#layersOf = table.layersOf;
    this.#used = table.ranks.some((actions) =>
      actions.some(({ kind }) => kind === "reduce" || kind === "all-gather"),
    );
    if (this.#used && table.layersOf) this.#findCopies(table);
  }

  lastGatherOf(stage: number): number {
    return this.#lastGather[stage]!;
  }

  lastReduceOf(stage: number): number {
    return this.#lastReduce[stage]!;
  }

  /** True for -1: nothing to wait for. */
  isDone(collective: number): boolean {
    return collective === -1 || this.#list[collective]!.done;
  }

  /** Takes note that a rank has come to an all-gather or reduce; returns its collective. */
  issue(rank: number, action: Action, position: number): number {
    const { stage } = action;
    const reduces = action.kind === "reduce";
    const index = reduces ? this.#reductionOf(rank, stage) : this.#add(false, [stage], [rank]);
    const collective = this.#list[index]!;
    collective.positions.push(position);
    const left = collective.missing.get(rank)! - 1;
    collective.missing.set(rank, left);
    if (left === 0) this.#ofRank[rank]!.push(index);
    (reduces ? this.#lastReduce : this.#lastGather)[stage] = index;
    return index;
  }

  /** Ends what can end now, starting at a rank; returns the ranks to look at again. */
  settle(start: number): number[] {
    const touched = new Set<number>();
    const pending = [start];
    while (pending.length) {
      const rank = pending.pop()!;
      const index = this.#ofRank[rank]![this.#head[rank]!];
      if (index === undefined) continue;
      const { ranks } = this.#list[index]!;
      if (!ranks.every((r) => this.#ofRank[r]![this.#head[r]!] === index)) continue;
      this.#list[index]!.done = true;
      for (const r of ranks) {
        this.#head[r]!++;
        touched.add(r);
        pending.push(r);
      }
    }
    return [...touched];
  }

  result(): Collectives {
    return {
      length: this.#list.length,
      reduces: Uint8Array.from(this.#list, (c) => Number(c.reduces)),
      stages: this.#list.map((c) => c.stages),
      positions: this.#list.map((c) => c.positions),
      ranks: this.#list.map((c) => c.ranks),
      ofRank: this.#ofRank,
    };
  }

  #reductionOf(rank: number, stage: number): number {
    const turn = this.#reducesOf[stage]!;
    this.#reducesOf[stage] = turn + 1;
    const copies = this.#layersOf && this.#copies.get(this.#layersOf[stage]!);
    if (!copies || copies.stages.length === 1) return this.#add(true, [stage], [rank]);
    const key = `${this.#layersOf![stage]} ${turn}`;
    const known = this.#joint.get(key);
    if (known !== undefined) return known;
    const index = this.#add(true, copies.stages, copies.ranks);
    this.#joint.set(key, index);
    return index;
  }

  #add(reduces: boolean, stages: number[], rankOfEach: number[]): number {
    const missing = new Map<number, number>();
    for (const rank of rankOfEach) missing.set(rank, (missing.get(rank) ?? 0) + 1);
    const ranks = [...missing.keys()];
    return this.#list.push({ reduces, stages, positions: [], ranks, missing, done: false }) - 1;
  }

  #findCopies(table: ScheduleTable): void {
    const counts = new Map<number, number>();
    table.ranks.forEach((actions, rank) => {
      for (const { kind, stage } of actions) {
        if (kind !== "reduce") continue;
        if (!counts.has(stage)) {
          const layers = table.layersOf![stage]!;
          const copies = this.#copies.get(layers) ?? { stages: [], ranks: [] };
          copies.stages.push(stage);
          copies.ranks.push(rank);
          this.#copies.set(layers, copies);
        }
        counts.set(stage, (counts.get(stage) ?? 0) + 1);
      }
    });
    for (const { stages } of this.#copies.values()) {
      const [first, ...others] = stages;
      for (const other of others) {
        if (counts.get(other) === counts.get(first!)) continue;
        throw new MpoptError(
          "E_PLAN_INVALID",
          `Expected as many reductions of stage ${other} as of its copy ${first} but found ${counts.get(other)} and ${counts.get(first!)}.`,
        );
      }
    }
  }
}
