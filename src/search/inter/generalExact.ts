import type { Potentials, Relaxation, StageLimits } from "./generalBound.js";
import type { WorkBudget } from "./generalBudget.js";
import {
  comesBefore,
  emptyLabel,
  grow,
  type Label,
  memorySentence,
  objectiveOf,
  sameFigure,
} from "./generalLabel.js";
import type { StageModel, StageVariant } from "./stageModel.js";

/** What is known of the stages up to each cut in any plan below a value. */
export interface Completion {
  limits: StageLimits;
  /** Least units of devices. */
  need: Float64Array;
  /** `step`: least sums at several prices of a unit. */
  sums: { price: number; potentials: Potentials }[];
}

export interface LabelSearchOptions {
  /** Labels kept at one cut and place. */
  keep: number;
  /** Plans above this value are dropped. */
  below: number;
  /** Goes on among the plans of value `below` for the one that comes first (`comesBefore`). */
  ties?: boolean;
  labelLimit: number;
  completion?: Completion;
}

/**
 * Partial plans grow from the last stage to the first. At each cut and place only those that no other beats in
 * all of replicas, sum, worst and synchronisation are kept, and only those whose bound is below the best plan
 * known. On a machine of equal hosts, a partial plan also beats those that use whole hosts more.
 */
export class LabelSearch {
  readonly #model: StageModel;
  readonly #relaxation: Relaxation;
  readonly #budget: WorkBudget;
  readonly #devices: number;
  readonly #steady: boolean;
  /** Least memory over limit seen of a stage that did not fit, with where it was. */
  #closest = { excess: Number.POSITIVE_INFINITY, sentence: "" };

  constructor(model: StageModel, relaxation: Relaxation, budget: WorkBudget) {
    this.#model = model;
    this.#relaxation = relaxation;
    this.#budget = budget;
    this.#devices = model.options.machine.devices;
    this.#steady = model.options.objective === "steady";
  }

  /** The constraint that a plan missed by the least. */
  tightest(): string {
    return this.#closest.sentence || "No tensor-parallel degree of the graph fits the devices.";
  }

  run(options: LabelSearchOptions): { label?: Label; value: number; complete: boolean } {
    const { keep, below, labelLimit, completion, ties = false } = options;
    const model = this.#model;
    const places = this.#devices + 1;
    const { period } = model.runs;
    const labels: (Map<number, Label[]> | undefined)[] = new Array(model.cuts);
    const last = model.cuts - 1;
    const ends = new Map<number, Label[]>();
    for (let place = Math.max(1, places - period); place < places; place++) {
      ends.set(place, [emptyLabel(place)]);
    }
    labels[last] = ends;
    const firsts = this.#firstPlaces(completion);
    let best: Label | undefined;
    // A plan of the same value as the known one is found again, so that its labels are at hand.
    let value = below * (1 + (ties ? 10 : 1) * sameFigure);
    let count = 0;
    let complete = true;
    const enter = (label: Label, variant: StageVariant, from: number, to: number, replicas: number) => {
      const { tensor, recompute } = variant;
      const first = label.device - replicas * tensor;
      const shape = { tensor, recompute, replicas };
      const cost = model.cost(from, to, first, shape, label.replicas);
      if (!cost) return;
      if (cost.memoryBytes > cost.limitBytes) {
        this.#remember(cost.memoryBytes, cost.limitBytes, first, replicas * tensor);
        return;
      }
      const grown = grow(model, label, from, first, shape, cost);
      const bound = this.#bound(grown, from, completion);
      if (ties ? bound > value : bound >= value) return;
      if (from === 0) {
        if (ties && best && !comesBefore(grown, best)) return;
        best = grown;
        if (!ties) value = bound;
        return;
      }
      if (ties && best && grown.sum + model.least(from).seconds > best.sum * (1 + sameFigure)) return;
      labels[from] ??= new Map();
      if (this.#insert(labels[from], grown, period, ties)) count++;
    };
    for (let cut = last; cut > 0; cut--) {
      const here = labels[cut];
      if (!here) continue;
      labels[cut] = undefined;
      for (const place of [...here.keys()].sort((a, b) => a - b)) {
        const list = here.get(place)!;
        if (list.length > keep) {
          list.sort((a, b) => objectiveOf(a, this.#steady) - objectiveOf(b, this.#steady) || a.sum - b.sum);
          list.length = keep;
          complete = false;
        }
        const later = list.reduce(
          (least, label) => Math.min(least, label.replicas),
          Number.POSITIVE_INFINITY,
        );
        if (list.length === 0) continue;
        let seen = 0;
        const inner = this.#relaxation.innerOf(cut);
        const parts = inner ? inner.length : cut;
        for (let i = 0; i < parts; i++) {
          const from = inner ? inner[i]! : cut - 1 - i;
          const room = place - firsts[from]!;
          seen++;
          if (room < 1) continue;
          let hopeless = completion !== undefined;
          for (const variant of model.variants) {
            let least = 1;
            seen++;
            if (completion) {
              const hope = this.#relaxation.stage(variant, from, cut, later, completion.limits);
              if (hope >= 0) hopeless = false;
              if (hope <= 0) continue;
              least = this.#relaxation.replicas;
            }
            const most = model.mostReplicas(variant.tensor, room);
            for (let replicas = least; replicas <= most; replicas++) {
              seen += 8 * list.length;
              for (const label of list) enter(label, variant, from, cut, replicas);
            }
          }
          if (hopeless && model.chain) break;
        }
        this.#budget.add(seen);
        if (count > labelLimit || this.#budget.spent) {
          return { label: best, value: best ? value : below, complete: false };
        }
      }
    }
    return { label: best, value: best ? value : below, complete };
  }

  /** For each cut, the first place that leaves devices enough before it. */
  #firstPlaces(completion: Completion | undefined): Int32Array {
    const { before } = this.#relaxation;
    return Int32Array.from({ length: this.#model.cuts }, (_, cut) => {
      if (cut === 0) return 0;
      if (!completion) return 1;
      let low = 1;
      let high = this.#devices + 1;
      while (low < high) {
        const middle = (low + high) >>> 1;
        if (before[middle]! * (1 + 1e-9) >= completion.need[cut]!) high = middle;
        else low = middle + 1;
      }
      return low;
    });
  }

  /** A plan that ends in these stages costs at least this. */
  #bound(label: Label, cut: number, completion: Completion | undefined): number {
    if (cut === 0) return objectiveOf(label, this.#steady);
    const { seconds, deviceSeconds } = this.#model.least(cut);
    const spread = deviceSeconds / label.device;
    if (this.#steady) return Math.max(label.worst, spread);
    // The slowest of the remaining stages has L + (ceil(m / d) - 1) L >= m L / d >= m x spread.
    let remaining = Math.max(seconds + label.worst, this.#model.options.microBatches * spread);
    if (completion) {
      const devices = this.#relaxation.before[label.device]!;
      for (const { price, potentials } of completion.sums) {
        const least = (potentials.cost[cut]! - price * devices) * (1 - 1e-12);
        remaining = Math.max(remaining, least + label.worst);
      }
    }
    return label.sum + remaining + label.sync;
  }

  #remember(needed: number, limit: number, first: number, width: number): void {
    const excess = needed - limit;
    if (excess >= this.#closest.excess) return;
    this.#closest = { excess, sentence: memorySentence(needed, limit, first, width) };
  }

  /** Adds a label unless another one is as good in everything; drops those that it beats. */
  #insert(at: Map<number, Label[]>, label: Label, period: number, ties: boolean): boolean {
    // Among plans of one `steady` value, how close a stage comes to it does not matter.
    const free = ties && this.#steady;
    const beats = (a: Label, b: Label) =>
      a.replicas <= b.replicas &&
      (ties ? !comesBefore(b, a) : a.sum <= b.sum) &&
      (free || (a.worst <= b.worst && a.sync <= b.sync));
    for (let place = label.device + period; place <= this.#devices; place += period) {
      const others = at.get(place);
      if (others) for (const other of others) if (beats(other, label)) return false;
    }
    const list = at.get(label.device);
    if (!list) {
      at.set(label.device, [label]);
      return true;
    }
    for (const other of list) if (beats(other, label)) return false;
    let kept = 0;
    for (const other of list) if (!beats(label, other)) list[kept++] = other;
    list.length = kept;
    list.push(label);
    return true;
  }
}
