import { type ChunkLabel, type ChunkRun, chunkObjective, emptyChunkLabel, growChunk } from "./chunkPlan.js";
import type { WorkBudget } from "./generalBudget.js";
import { comesBefore, sameFigure } from "./generalLabel.js";
import type { StageModel } from "./stageModel.js";

export interface ChunkSearchOptions {
  /** Plans at or above this value are dropped; with `ties`, only those above it. */
  below: number;
  ties: boolean;
  labelLimit: number;
}

/**
 * All partial plans of several stages a run, from the last stage to the first, but for those that another one
 * of the same runs beats in everything and those that cannot end below the best plan known.
 */
export class ChunkSearch {
  readonly #model: StageModel;
  readonly #budget: WorkBudget;
  readonly #short: (needed: number, limit: number, first: number, width: number) => void;

  constructor(
    model: StageModel,
    budget: WorkBudget,
    short: (needed: number, limit: number, first: number, width: number) => void,
  ) {
    this.#model = model;
    this.#budget = budget;
    this.#short = short;
  }

  run({ below, ties, labelLimit }: ChunkSearchOptions): { label?: ChunkLabel; complete: boolean } {
    const model = this.#model;
    const { machine, chunks = 1 } = model.options;
    const last = model.cuts - 1;
    const labels: (Map<string, ChunkLabel[]> | undefined)[] = new Array(model.cuts);
    labels[last] = new Map();
    for (let end = machine.devices; end > 0; end--) labels[last].set(`${end}`, [emptyChunkLabel(end)]);
    let best: ChunkLabel | undefined;
    let value = below;
    let count = 0;
    const how = { short: this.#short };
    const enter = (grown: ChunkLabel | undefined, from: number) => {
      if (!grown) return;
      const bound = from === 0 ? chunkObjective(model, grown) : this.#bound(grown, from);
      if (ties ? bound > value * (1 + sameFigure) : bound >= value) return;
      if (from > 0) {
        labels[from] ??= new Map();
        if (this.#insert(labels[from], grown)) count++;
      } else if (!best || bound < value * (1 - sameFigure) || comesBefore(grown, best)) {
        best = grown;
        value = Math.min(value, bound);
      }
    };
    for (let to = last; to > 0; to--) {
      const here = labels[to];
      if (!here) continue;
      labels[to] = undefined;
      for (const key of [...here.keys()].sort()) {
        for (const label of here.get(key)!) {
          for (let from = to - 1; from >= 0; from--) {
            if (!model.nested(from, to)) continue;
            let seen = 1;
            for (const recompute of model.recomputes) {
              for (const [at, run] of label.runs.entries()) {
                if (at === label.front || run.stages === chunks) continue;
                seen++;
                enter(growChunk(model, label, from, to, at, run, recompute, how), from);
              }
              for (const tensor of model.tensors) {
                const most = model.mostReplicas(tensor, label.device);
                for (let replicas = 1; replicas <= most; replicas++) {
                  seen++;
                  const shape = { tensor, replicas };
                  const at = label.runs.length;
                  enter(growChunk(model, label, from, to, at, shape, recompute, how), from);
                }
              }
            }
            this.#budget.add(seen * (8 + 2 * label.runs.length));
          }
          if (count > labelLimit || this.#budget.spent) return { label: best, complete: false };
        }
      }
    }
    return { label: best, complete: true };
  }

  /** A plan that ends in these stages costs at least this. */
  #bound(label: ChunkLabel, cut: number): number {
    const { objective, microBatches } = this.#model.options;
    const { runs, device } = label;
    // All runs together do all work: the most loaded one is no better than their mean.
    const least = this.#model.least(cut);
    let work = least.deviceSeconds;
    let devices = device;
    let sync = 0;
    for (const run of runs) {
      work += run.tensor * run.seconds;
      devices += run.tensor * run.replicas;
      sync = Math.max(sync, run.syncSeconds);
    }
    const spread = work / devices;
    // Runs only grow.
    const now = chunkObjective(this.#model, label);
    if (objective === "steady") return Math.max(spread, now);
    return Math.max(now, sync + Math.max(microBatches * spread, label.sum + least.seconds));
  }

  #insert(at: Map<string, ChunkLabel[]>, label: ChunkLabel): boolean {
    const { runs, front, device } = label;
    const key = `${device}|${front}|${runs.map((r) => `${r.first}.${r.tensor}.${r.replicas}.${r.stages}`).join()}`;
    const list = at.get(key);
    if (!list) {
      at.set(key, [label]);
      return true;
    }
    this.#budget.add(list.length);
    for (const other of list) if (this.#beats(other, label)) return false;
    const kept = list.filter((other) => !this.#beats(label, other));
    kept.push(label);
    at.set(key, kept);
    return true;
  }

  /** Whether every way on from `b` is at least as good from `a`, which has the same runs. */
  #beats(a: ChunkLabel, b: ChunkLabel): boolean {
    if (a.replicas > b.replicas || comesBefore(b, a)) return false;
    const { microBatches, objective } = this.#model.options;
    const steady = objective === "steady";
    // What the first stage sends back is still to come.
    if (!steady && a.stage!.seconds > b.stage!.seconds) return false;
    return a.runs.every((run, i) => {
      const other = b.runs[i]!;
      if (run.seconds > other.seconds) return false;
      if (run.syncSeconds > other.syncSeconds || run.memoryBytes > other.memoryBytes) return false;
      if (steady) return true;
      const rounds = Math.ceil(microBatches / run.replicas);
      return (
        run.largestSeconds <= other.largestSeconds && beyondFill(run, rounds) <= beyondFill(other, rounds)
      );
    });
  }
}

function beyondFill({ seconds, largestSeconds }: ChunkRun, rounds: number): number {
  return rounds * seconds - largestSeconds;
}
