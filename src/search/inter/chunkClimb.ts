import { type ChunkLabel, chunkObjective, emptyChunkLabel, growChunk } from "./chunkPlan.js";
import type { WorkBudget } from "./generalBudget.js";
import type { StageModel } from "./stageModel.js";

/** A stage in words that moves can change: its end is the next one's start. */
interface Piece {
  from: number;
  run: number;
  recompute: boolean;
}

interface Shape {
  tensor: number;
  replicas: number;
}

/** A whole plan: pieces first to last, the shapes of the runs, the device behind the last one. */
interface Draft {
  pieces: Piece[];
  shapes: readonly Shape[];
  end: number;
}

interface Scored {
  draft: Draft;
  plan: ChunkLabel;
  value: number;
  /** Sum of squares of the runs' times: what plans of one value are compared by on the way. */
  unevenness: number;
}

/** How far a boundary moves, in cuts. */
const strides = [1, 2, 3, 5, 8, 13, 34, 89];

/**
 * Plans of several stages a run by local moves: boundaries, recomputation, the run of a stage, two stages' runs
 * exchanged, stages joined and divided. Deterministic: moves are tried in one order, and taken when better.
 */
export class ChunkClimb {
  readonly #model: StageModel;
  readonly #budget: WorkBudget;
  readonly #chunks: number;

  constructor(model: StageModel, budget: WorkBudget) {
    this.#model = model;
    this.#budget = budget;
    this.#chunks = model.options.chunks ?? 1;
  }

  /** The best of what becomes of `start` and of looped patterns. */
  run(start: ChunkLabel | undefined): ChunkLabel | undefined {
    let best = start && this.#score(this.#draftOf(start));
    const tried = [...this.#patterns()].sort((a, b) => a.value - b.value);
    if (best) best = this.#climb(best);
    for (const each of tried) {
      if (this.#budget.spent) break;
      const found = this.#climb(each);
      if (!best || better(found, best)) best = found;
    }
    const first = tried[0];
    if (first && (!best || better(first, best))) best = first;
    return best?.plan;
  }

  #score(draft: Draft): Scored | undefined {
    const { pieces, shapes, end } = draft;
    const model = this.#model;
    const at = new Int32Array(shapes.length).fill(-1);
    let plan: ChunkLabel | undefined = emptyChunkLabel(end);
    this.#budget.add(4 * pieces.length);
    for (let i = pieces.length - 1; i >= 0; i--) {
      const { from, run, recompute } = pieces[i]!;
      if (run === pieces[i + 1]?.run) return undefined;
      if (at[run] === -1) at[run] = plan.runs.length;
      if ((plan.runs[at[run]!]?.stages ?? 0) >= this.#chunks) return undefined;
      const to = pieces[i + 1]?.from ?? model.cuts - 1;
      plan = growChunk(model, plan, from, to, at[run]!, shapes[run]!, recompute, { reuse: true });
      if (!plan) return undefined;
    }
    const value = chunkObjective(model, plan);
    const unevenness = plan.runs.reduce((sum, run) => sum + (run.seconds / run.replicas) ** 2, 0);
    return { draft, plan, value, unevenness };
  }

  #draftOf(plan: ChunkLabel): Draft {
    const pieces: Piece[] = [];
    let end = plan.device;
    for (let label: ChunkLabel | undefined = plan; label; label = label.next) {
      if (label.stage) {
        pieces.push({ from: label.stage.from, run: label.front, recompute: label.stage.recompute });
      } else end = label.device;
    }
    return { pieces, shapes: plan.runs, end };
  }

  #climb(start: Scored): Scored {
    let best = start;
    for (let improved = true; improved && !this.#budget.spent; ) {
      improved = false;
      for (const draft of this.#moves(best.draft)) {
        const found = this.#score(draft);
        if (this.#budget.spent) break;
        if (!found || !better(found, best)) continue;
        best = found;
        improved = true;
        break;
      }
    }
    return best;
  }

  *#moves({ pieces, shapes, end }: Draft): Generator<Draft> {
    const model = this.#model;
    const last = model.cuts - 1;
    const changed = (changes: [number, Partial<Piece>][]): Draft => {
      const next = pieces.slice();
      for (const [i, change] of changes) next[i] = { ...next[i]!, ...change };
      return { pieces: next, shapes, end };
    };
    for (let i = 1; i < pieces.length; i++) {
      const { from } = pieces[i]!;
      const before = pieces[i - 1]!.from;
      const after = pieces[i + 1]?.from ?? last;
      for (const stride of strides) {
        for (const to of [from - stride, from + stride]) {
          if (to <= before || to >= after) continue;
          if (model.nested(before, to) && model.nested(to, after)) yield changed([[i, { from: to }]]);
        }
      }
    }
    if (model.recomputes.length > 1) {
      for (const [i, { recompute }] of pieces.entries()) yield changed([[i, { recompute: !recompute }]]);
    }
    for (let i = 0; i < pieces.length; i++) {
      for (let run = 0; run < shapes.length; run++) if (run !== pieces[i]!.run) yield changed([[i, { run }]]);
    }
    for (let i = 0; i < pieces.length; i++) {
      for (let k = i + 1; k < pieces.length; k++) {
        if (pieces[i]!.run === pieces[k]!.run) continue;
        yield changed([
          [i, { run: pieces[k]!.run }],
          [k, { run: pieces[i]!.run }],
        ]);
      }
    }
    for (let i = 1; i < pieces.length; i++) {
      yield { pieces: pieces.toSpliced(i, 1), shapes, end };
      const joined = pieces.toSpliced(i - 1, 1);
      joined[i - 1] = { ...joined[i - 1]!, from: pieces[i - 1]!.from };
      yield { pieces: joined, shapes, end };
    }
    for (let i = 0; i < pieces.length; i++) {
      const { from } = pieces[i]!;
      const to = pieces[i + 1]?.from ?? last;
      const middle = (from + to) >> 1;
      if (!model.nested(from, middle) || !model.nested(middle, to)) continue;
      for (let run = 0; run < shapes.length; run++) {
        yield { pieces: pieces.toSpliced(i + 1, 0, { ...pieces[i]!, from: middle, run }), shapes, end };
        yield {
          pieces: pieces.toSpliced(i, 1, { ...pieces[i]!, run }, { ...pieces[i]!, from: middle }),
          shapes,
          end,
        };
      }
    }
  }

  /** Stage i on run i modulo the runs, all runs alike, cut so that the largest stage is small. */
  *#patterns(): Generator<Scored> {
    const model = this.#model;
    const { machine } = model.options;
    for (const [index, { tensor, recompute }] of model.variants.entries()) {
      for (const runs of counts(Math.floor(machine.devices / tensor))) {
        const replicas = model.mostReplicas(tensor, Math.floor(machine.devices / runs));
        if (replicas < 1) continue;
        for (let loops = this.#chunks; loops >= 2; loops--) {
          if (this.#budget.spent) return;
          const starts = this.#evenCuts(index, runs * loops);
          if (!starts) continue;
          const pieces = starts.map((from, i) => ({ from, run: i % runs, recompute }));
          const shapes = Array.from({ length: runs }, () => ({ tensor, replicas }));
          const scored = this.#score({ pieces, shapes, end: machine.devices });
          if (scored) yield scored;
        }
      }
    }
  }

  /** Starts of at most `count` stages whose largest is as small as bisection finds; the variant's own times. */
  #evenCuts(variant: number, count: number): number[] | undefined {
    const model = this.#model;
    const { forward, backward, missing } = model.variants[variant]!;
    const last = model.cuts - 1;
    if (count < 2 || count > last || missing[last]! > 0) return undefined;
    const total = forward[last]! + backward[last]!;
    let low = total / count;
    let high = total;
    let best: number[] | undefined;
    for (let turn = 0; turn < 24 && !this.#budget.spent; turn++) {
      const limit = turn === 0 ? low : (low + high) / 2;
      const starts = this.#pack(forward, backward, limit * (1 + 1e-12));
      if (starts && starts.length <= count) {
        best = starts;
        high = limit;
      } else low = limit;
      if (high - low < 1e-4 * high) break;
    }
    return best;
  }

  /** Starts of the fewest stages of at most `limit` seconds each. */
  #pack(forward: Float64Array, backward: Float64Array, limit: number): number[] | undefined {
    const model = this.#model;
    const { cuts, chain } = model;
    const stages = new Int32Array(cuts).fill(-1);
    const start = new Int32Array(cuts);
    stages[0] = 0;
    let seen = 0;
    let first = 0;
    for (let to = 1; to < cuts; to++) {
      const time = forward[to]! + backward[to]!;
      if (chain) {
        // The longest stage that ends here leaves the fewest before it.
        while (first < to && time - forward[first]! - backward[first]! > limit) first++;
        seen++;
        if (first === to || stages[first] === -1) continue;
        stages[to] = stages[first]! + 1;
        start[to] = first;
        continue;
      }
      for (let from = 0; from < to; from++) {
        seen++;
        if (stages[from] === -1 || time - forward[from]! - backward[from]! > limit) continue;
        if (stages[to] !== -1 && stages[to]! <= stages[from]! + 1) continue;
        if (!model.nested(from, to)) continue;
        stages[to] = stages[from]! + 1;
        start[to] = from;
      }
    }
    this.#budget.add(seen / 8);
    if (stages[cuts - 1] === -1) return undefined;
    const starts: number[] = [];
    for (let to = cuts - 1; to > 0; to = start[to]!) starts.unshift(start[to]!);
    return starts;
  }
}

function better(a: Scored, b: Scored): boolean {
  const tolerance = 1e-12 * b.value;
  if (Math.abs(a.value - b.value) > tolerance) return a.value < b.value;
  return a.unevenness < b.unevenness * (1 - 1e-9);
}

/** Numbers of runs that are tried: all small ones, then powers of two and half as much again. */
function counts(most: number): number[] {
  const list: number[] = [];
  for (let runs = 2; runs <= Math.min(most, 8); runs++) list.push(runs);
  for (let runs = 12; runs <= most; runs = runs % 3 === 0 ? (runs / 3) * 4 : (runs / 2) * 3) list.push(runs);
  if (most > 8 && !list.includes(most)) list.push(most);
  return list;
}
