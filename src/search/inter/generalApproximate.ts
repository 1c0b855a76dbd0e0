import { beamSearch } from "./generalBeam.js";
import type { Potentials, Relaxation, StageLimits } from "./generalBound.js";
import type { WorkBudget } from "./generalBudget.js";
import { type Label, objectiveOf } from "./generalLabel.js";
import type { StageModel } from "./stageModel.js";

/** A plan and what no plan is below; no label where none was found. */
export interface Approximation {
  label?: Label;
  value: number;
  bound: number;
}

/** Shares above the least limit at which a plan may exist that are tried one after the other. */
const looserStep = [0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 10, 100, 1e4];
const looser = [0, 5e-4, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 10, 100, 1e4];
/** Ratio of the limits that are tried one after the other where tensor-parallel groups keep to domains. */
const sweepStep = 1.1;
/** Gap below which no more work goes into the relaxation. */
const smallGap = 2e-4;
/** Divisions before which a plan is searched in the box. */
const beamTurns = new Set(Array.from({ length: 30 }, (_, i) => (i + 1) ** 2));
/** Boxes that are divided at most. */
const mostTurns = 1000;

/**
 * Plans and bounds without a state for each device. The least limit on every stage under which the relaxed
 * stages still find devices enough is found by bisection; plans are then searched at that limit and just above.
 */
export class Approximate {
  readonly #model: StageModel;
  readonly #relaxation: Relaxation;
  readonly #budget: WorkBudget;
  readonly #steady: boolean;
  readonly #width: number;
  readonly #tolerance: number;
  #label: Label | undefined;
  #root: Box | undefined;
  #value = Number.POSITIVE_INFINITY;

  constructor(model: StageModel, relaxation: Relaxation, budget: WorkBudget) {
    this.#model = model;
    this.#relaxation = relaxation;
    this.#budget = budget;
    this.#steady = model.options.objective === "steady";
    const pass = Math.max(1, (model.cuts * model.cuts * model.variants.length) / 2);
    this.#width = Math.max(this.#steady ? 1 : 4, Math.min(16, Math.floor(budget.limit / pass / 24)));
    this.#tolerance = budget.limit / pass > 200 ? 1e-5 : 2e-4;
  }

  run(): Approximation {
    if (!this.#fits(this.#limitsOf(Number.POSITIVE_INFINITY))) {
      return { value: Number.POSITIVE_INFINITY, bound: Number.POSITIVE_INFINITY };
    }
    const bound = this.#steady ? this.#runSteady() : this.#runStep();
    return { label: this.#label, value: this.#value, bound: Math.min(bound, this.#value) };
  }

  #limitsOf(limit: number): StageLimits {
    return this.#steady ? { steady: limit } : { repeat: limit };
  }

  #need(limits: StageLimits, later: Float64Array): Potentials {
    return this.#relaxation.potentials(limits, later, 0, 1);
  }

  #fits(limits: StageLimits): boolean {
    const { cost } = this.#need(limits, this.#relaxation.later(limits));
    return cost.at(-1)! <= this.#relaxation.total * (1 + 1e-9);
  }

  /** Largest limit known to be too small and smallest one that is not, close together. */
  #threshold(least: number, guess: number, tolerance: number): [number, number] {
    if (this.#fits(this.#limitsOf(least))) return [least, least];
    let low = least;
    let high = guess;
    for (let turn = 0; turn < 200 && !this.#fits(this.#limitsOf(high)); turn++) {
      low = high;
      high *= 2;
    }
    // From zero, the scale has to be found first.
    for (let turn = 0; turn < (this.#steady ? 60 : 6) && low === 0; turn++) {
      if (this.#fits(this.#limitsOf(high / 4))) high /= 4;
      else low = high / 4;
    }
    while (high - low > tolerance * high && !this.#budget.spent) {
      const middle = low > 0 ? Math.sqrt(low * high) : high / 2;
      if (middle <= low || middle >= high) break;
      if (this.#fits(this.#limitsOf(middle))) high = middle;
      else low = middle;
    }
    return [low, high];
  }

  #beam(
    limits: StageLimits,
    need: Float64Array,
    sums: Potentials | undefined,
    price: number,
    freeSync?: number,
  ): boolean {
    const below = this.#value;
    const found = beamSearch(this.#model, this.#relaxation, this.#budget, {
      limits,
      need,
      sums,
      price,
      freeSync,
      width: this.#width,
      below,
    });
    if (!found) return false;
    this.#label = found;
    this.#value = objectiveOf(found, this.#steady);
    return true;
  }

  /** Plans at limits from `start` upwards until there is one, then between the last two limits. */
  #climb(start: number, attempt: (limit: number) => boolean): void {
    let failed = start;
    for (const share of this.#steady ? looser : looserStep) {
      // The first attempts have to end in a plan, whatever the budget.
      const limit = start * (1 + share);
      if (!attempt(limit)) {
        failed = limit;
        continue;
      }
      let high = Math.min(limit, this.#steady ? this.#value : limit);
      for (
        let turn = 0;
        this.#steady && turn < 4 && high > failed * (1 + smallGap) && !this.#budget.spent;
        turn++
      ) {
        const middle = (failed + high) / 2;
        if (attempt(middle)) high = this.#steady ? Math.min(middle, this.#value) : middle;
        else failed = middle;
      }
      return;
    }
  }

  #runSteady(): number {
    const { deviceSeconds } = this.#model.least(this.#model.cuts - 1);
    const least = deviceSeconds / Math.min(...this.#model.options.machine.slowdown) / this.#relaxation.total;
    const [low, high] = this.#threshold(least, least > 0 ? least * 1.1 : 1, this.#tolerance);
    const attempt = (limit: number) => {
      const limits = { steady: limit };
      const need = this.#need(limits, this.#relaxation.later(limits)).cost;
      return this.#beam(limits, need, undefined, 0);
    };
    this.#climb(high, attempt);
    if (!this.#label) attempt(Number.POSITIVE_INFINITY);
    return low;
  }

  #runStep(): number {
    const { seconds, deviceSeconds } = this.#model.least(this.#model.cuts - 1);
    const spread = deviceSeconds / this.#model.options.machine.devices;
    const { microBatches } = this.#model.options;
    const scale = microBatches * spread;
    const [low, high] = this.#threshold(0, scale > 0 ? scale : 1, 0.005);
    let price = seconds / this.#relaxation.total;
    const attempt = (limit: number) => {
      const box = this.#price(new Box(0, limit, 0, Number.POSITIVE_INFINITY, price));
      price = box.price;
      return this.#beam(box.limits, box.need!, box.sums, price);
    };
    this.#climb(high, attempt);
    if (!this.#label) attempt(Number.POSITIVE_INFINITY);
    const all = this.#price(new Box(low, this.#value, 0, Number.POSITIVE_INFINITY, price));
    this.#root = all;
    return Math.max(all.bound, seconds, scale);
  }

  /** Raises the bound, and finds better plans on the way, until the gap is small or the work is done. */
  refine(near: Approximation): Approximation {
    if (!this.#root || !this.#label) return near;
    if (this.#model.options.machine.domainOf) this.#sweep(this.#root);
    const bound = Math.max(near.bound, this.#divide(this.#root));
    return { label: this.#label, value: this.#value, bound: Math.min(bound, this.#value) };
  }

  /**
   * Plans at limits all the way up. Groups that must keep to their domains leave devices to smaller groups, so
   * that the best plan may need a looser limit, and more synchronisation, than the relaxation says.
   */
  #sweep({ repeat, price }: Box): void {
    for (let limit = repeat[0] * sweepStep; limit < this.#value && !this.#budget.spent; limit *= sweepStep) {
      const {
        limits,
        need,
        sums,
        price: found,
      } = this.#price(new Box(0, limit, 0, Number.POSITIVE_INFINITY, price));
      this.#beam(limits, need!, sums, found);
      this.#beam(limits, need!, sums, found, this.#value - limit);
    }
  }

  /** Best-first division of the limits on repetition and synchronisation; returns the least open bound. */
  #divide(root: Box): number {
    const open = [root];
    let closed = this.#value;
    for (let turn = 0; open.length > 0; turn++) {
      let at = 0;
      open.forEach((box, i) => {
        if (box.bound < open[at]!.bound) at = i;
      });
      const box = open[at]!;
      if (box.bound >= this.#value * (1 - smallGap / 4) || this.#budget.spent || turn === mostTurns) {
        return Math.min(closed, box.bound);
      }
      open.splice(at, 1);
      // Beams cost more than bounds: one now and then, where the bound says that the best plan may be.
      if (beamTurns.has(turn)) this.#beam(box.limits, box.need!, box.sums, box.price);
      // What is left of the best value once the rest is paid is all that repetition and synchronisation can be.
      const rest = box.bound - box.repeat[0] - box.sync[0];
      const mostRepeat = Math.min(box.repeat[1], this.#value - rest - box.sync[0]);
      const mostSync = Math.min(box.sync[1], this.#value - rest - box.repeat[0]);
      const wideRepeat = mostRepeat - box.repeat[0];
      const wideSync = mostSync - box.sync[0];
      if (!(Math.max(wideRepeat, wideSync) > this.#value * 1e-7)) {
        closed = Math.min(closed, box.bound);
        continue;
      }
      const half = (from: number, to: number) => from + (to - from) / 2;
      const parts =
        wideRepeat >= wideSync
          ? [
              [box.repeat[0], half(box.repeat[0], mostRepeat), box.sync[0], mostSync],
              [half(box.repeat[0], mostRepeat), mostRepeat, box.sync[0], mostSync],
            ]
          : [
              [box.repeat[0], mostRepeat, box.sync[0], half(box.sync[0], mostSync)],
              [box.repeat[0], mostRepeat, half(box.sync[0], mostSync), mostSync],
            ];
      for (const [fromRepeat, toRepeat, fromSync, toSync] of parts as [number, number, number, number][]) {
        const part = this.#price(new Box(fromRepeat, toRepeat, fromSync, toSync, box.price));
        part.bound = Math.max(part.bound, box.bound);
        if (part.bound >= this.#value) continue;
        open.push(part);
      }
    }
    return closed;
  }

  /** Bounds a box by the best price of devices found in a few steps: the dual of a concave function. */
  #price(box: Box): Box {
    const { total } = this.#relaxation;
    this.#relaxation.collect(box.limits, this.#relaxation.later(box.limits));
    box.need = this.#relaxation.shortest(0, 1).cost;
    const floor = box.repeat[0] + box.sync[0];
    const dual = (price: number) => {
      const sums = this.#relaxation.shortest(1, price);
      const value = sums.cost.at(-1)! - price * total;
      const slope = sums.units.at(-1)! - total;
      if (!box.sums || floor + value > box.bound) {
        box.bound = floor + value;
        box.price = price;
        box.sums = sums;
      }
      return { price, value, slope };
    };
    const start = box.price;
    let left = dual(0);
    if (left.value === Number.POSITIVE_INFINITY || left.slope <= 0) return box;
    let right: typeof left | undefined;
    let next = start > 0 ? start : Math.max(left.value, Number.MIN_VALUE) / total;
    for (let turn = 0; turn < 8; turn++) {
      const found = dual(next);
      if (found.slope > 0) left = found;
      else right = found;
      if (found.slope === 0) break;
      if (right) {
        next =
          (left.value - left.slope * left.price - right.value + right.slope * right.price) /
          (right.slope - left.slope);
        const promise = left.value + left.slope * (next - left.price);
        if (promise - Math.max(left.value, right.value) < 1e-4 * this.#scale(promise)) break;
      } else next *= 4;
      if (this.#budget.spent) break;
    }
    return box;
  }

  #scale(value: number): number {
    return Number.isFinite(this.#value) ? this.#value : Math.abs(value);
  }
}

/** Plans whose largest repetition and largest synchronisation lie between two values each. */
class Box {
  readonly repeat: [number, number];
  readonly sync: [number, number];
  readonly limits: StageLimits;
  bound = Number.NEGATIVE_INFINITY;
  need: Float64Array | undefined;
  sums: Potentials | undefined;

  constructor(
    fromRepeat: number,
    toRepeat: number,
    fromSync: number,
    toSync: number,
    public price: number,
  ) {
    this.repeat = [fromRepeat, toRepeat];
    this.sync = [fromSync, toSync];
    this.limits = { repeat: toRepeat, sync: toSync };
  }
}
