import type { WorkBudget } from "./generalBudget.js";
import { type Machine, ringSeconds } from "./machine.js";
import type { StageModel, StageVariant } from "./stageModel.js";

/** What each stage of a plan may cost at most. */
export interface StageLimits {
  /** Largest L / d + G / m (`steady`). */
  steady?: number;
  /** Largest (ceil(m / d) - 1) L, and largest G (`step`). */
  repeat?: number;
  sync?: number;
}

/** Devices that are alike enough to be one kind in the relaxation. */
interface Kind {
  /** Least slowdown of the kind. */
  slowdown: number;
  /** Largest slowdown of the kind: a device counts for 1 / slowest units at least. */
  slowest: number;
  memoryBytes: number;
}

/** For each cut: least cost of the stages up to it. */
export interface Potentials {
  cost: Float64Array;
  /** Units of devices of a plan of that cost. */
  units: Float64Array;
}

const slack = 1e-10;

/**
 * Stages without places. A stage may have the best link that any run of its span has, the memory and speed of
 * any one kind of device, and the fewest later replicas that the nodes behind it allow; a plan then only has to
 * find units enough, where a device of slowdown s is 1 / s units. What remains is a shortest path over the cuts,
 * and every path that a plan takes costs no more in it than in the plan: all its values are lower bounds.
 */
export class Relaxation {
  /** Units of all devices. */
  readonly total: number;
  /** Units of the devices before each place. */
  readonly before: Float64Array;
  readonly #model: StageModel;
  readonly #budget: WorkBudget;
  readonly #kinds: Kind[];
  /** Best seconds that each cut takes to pass, in one direction. */
  readonly #send: Float64Array;
  /** Best ring links of a span above each size of group, widest last. */
  readonly #links: SpanLink[];
  /** Inner cuts of each cut, where not every smaller one is. */
  readonly #inner: Int32Array[] | undefined;
  readonly #memoryBinds: boolean;
  /** Stages that keep to the limits at hand, by the cut where they end. */
  readonly #starts: Int32Array;
  #from = new Int32Array(1024);
  #seconds = new Float64Array(1024);
  #units = new Float64Array(1024);
  /** Found by `stage`: fewest replicas, its seconds, and its units. */
  replicas = 0;
  seconds = 0;
  units = 0;

  constructor(model: StageModel, budget: WorkBudget) {
    this.#model = model;
    this.#budget = budget;
    this.#starts = new Int32Array(model.cuts + 1);
    const { machine, microBatches } = model.options;
    const { devices, slowdown, memoryBytes } = machine;
    this.before = new Float64Array(devices + 1);
    for (let i = 0; i < devices; i++) this.before[i + 1] = this.before[i]! + 1 / slowdown[i]!;
    this.total = this.before[devices]!;
    this.#kinds = kindsOf(slowdown, memoryBytes);
    this.#links = bestLinks(machine);
    const { latency, bandwidth } = this.#links[0]!;
    this.#send = model.liveBytes.map((bytes) => (bytes > 0 ? latency + bytes / bandwidth : 0));
    if (!model.chain) {
      this.#inner = Array.from({ length: model.cuts }, (_, cut) => {
        const inner: number[] = [];
        for (let from = cut - 1; from >= 0; from--) if (model.nested(from, cut)) inner.push(from);
        return Int32Array.from(inner);
      });
      budget.add(model.cuts * model.cuts);
    }
    const last = model.cuts - 1;
    const least = memoryBytes.reduce((a, b) => Math.min(a, b));
    const most = Math.min(microBatches, devices);
    this.#memoryBinds = model.variants.some(
      ({ fixed, activations }) => fixed[last]! + most * activations[last]! > least,
    );
  }

  /** Cuts inside a cut, largest first. */
  innerOf(cut: number): Int32Array | undefined {
    return this.#inner?.[cut];
  }

  /** Fewest replicas of all stages behind each cut. */
  later(limits: StageLimits): Float64Array {
    const { cuts, variants } = this.#model;
    const later = new Float64Array(cuts);
    if (!this.#memoryBinds) return later;
    later.fill(Number.POSITIVE_INFINITY);
    later[cuts - 1] = 0;
    for (let to = cuts - 1; to > 0; to--) {
      if (later[to] === Number.POSITIVE_INFINITY) continue;
      this.#scan(to, (from) => {
        let hopeless = true;
        for (const variant of variants) {
          const hope = this.stage(variant, from, to, later[to]!, limits);
          if (hope >= 0) hopeless = false;
          if (hope > 0) later[from] = Math.min(later[from]!, later[to]! + this.replicas);
        }
        return hopeless;
      });
    }
    return later;
  }

  /** Least sum of `seconds` x L + `price` x units of the stages up to each cut, each within the limits. */
  potentials(limits: StageLimits, later: Float64Array, seconds: number, price: number): Potentials {
    this.collect(limits, later);
    return this.shortest(seconds, price);
  }

  /** Lists the stages that keep to the limits, for `shortest`; the list before is lost. */
  collect(limits: StageLimits, later: Float64Array): void {
    const { cuts, variants } = this.#model;
    let count = 0;
    for (let to = 1; to < cuts; to++) {
      this.#starts[to] = count;
      if (later[to] === Number.POSITIVE_INFINITY) continue;
      this.#scan(to, (from) => {
        let hopeless = true;
        const first = count;
        if (count + variants.length > this.#from.length) this.#widen();
        for (const variant of variants) {
          const hope = this.stage(variant, from, to, later[to]!, limits);
          if (hope >= 0) hopeless = false;
          if (hope <= 0) continue;
          // Of the variants of one part, those that another one beats in both are left out.
          let beaten = false;
          for (let i = first; i < count && !beaten; i++) {
            beaten = this.#seconds[i]! <= this.seconds && this.#units[i]! <= this.units;
          }
          if (beaten) continue;
          this.#from[count] = from;
          this.#seconds[count] = this.seconds;
          this.#units[count++] = this.units;
        }
        return hopeless;
      });
    }
    this.#starts[cuts] = count;
  }

  /** Least sum of `seconds` x L + `price` x units of the collected stages up to each cut. */
  shortest(seconds: number, price: number): Potentials {
    const { cuts } = this.#model;
    const cost = new Float64Array(cuts).fill(Number.POSITIVE_INFINITY);
    const units = new Float64Array(cuts).fill(Number.POSITIVE_INFINITY);
    cost[0] = 0;
    units[0] = 0;
    for (let to = 1; to < cuts; to++) {
      let best = Number.POSITIVE_INFINITY;
      let at = -1;
      const end = this.#starts[to + 1]!;
      for (let i = this.#starts[to]!; i < end; i++) {
        const sum = cost[this.#from[i]!]! + seconds * this.#seconds[i]! + price * this.#units[i]!;
        if (sum < best) {
          best = sum;
          at = i;
        }
      }
      if (at < 0) continue;
      cost[to] = best;
      units[to] = units[this.#from[at]!]! + this.#units[at]!;
    }
    this.#budget.add(this.#starts[cuts]! / 8);
    return { cost, units };
  }

  #widen(): void {
    const wider = <T extends Int32Array | Float64Array>(old: T, next: T): T => {
      next.set(old);
      return next;
    };
    const length = 2 * this.#from.length;
    this.#from = wider(this.#from, new Int32Array(length));
    this.#seconds = wider(this.#seconds, new Float64Array(length));
    this.#units = wider(this.#units, new Float64Array(length));
  }

  #scan(to: number, visit: (from: number) => boolean): void {
    const { chain, variants } = this.#model;
    const inner = this.#inner?.[to];
    let seen = 0;
    if (inner) {
      for (const from of inner) visit(from);
      seen = inner.length;
    } else {
      // On a chain the parts only grow: what no variant can hold now, none can hold later.
      for (let from = to - 1; from >= 0; from--) {
        seen++;
        if (visit(from) && chain) break;
      }
    }
    this.#budget.add(seen * variants.length);
  }

  /**
   * Puts the least that a stage needs into `replicas`, `seconds` and `units`.
   * @returns 1 if it fits, 0 if not, -1 if no stage that also holds more nodes fits either.
   */
  stage(variant: StageVariant, from: number, to: number, later: number, limits: StageLimits): number {
    const { microBatches, overlap = 0, replicate, machine } = this.#model.options;
    const { tensor } = variant;
    if (variant.missing[to]! > variant.missing[from]!) return -1;
    const most = replicate === false ? 1 : Math.min(microBatches, Math.floor(machine.devices / tensor));
    if (most < 1) return -1;
    const forward = variant.forward[to]! - variant.forward[from]!;
    const backward = variant.backward[to]! - variant.backward[from]!;
    const bytes = variant.parameters[to]! - variant.parameters[from]!;
    const fixed = variant.fixed[to]! - variant.fixed[from]!;
    const activations = variant.activations[to]! - variant.activations[from]!;
    const sent = (to < this.#model.cuts - 1 ? this.#send[to]! : 0) + (from > 0 ? this.#send[from]! : 0);
    let answer = -1;
    let bestUnits = Number.POSITIVE_INFINITY;
    for (const kind of this.#kinds) {
      const room = kind.memoryBytes * (1 + slack) - fixed;
      if (room < 0) continue;
      const work = kind.slowdown * (forward + backward);
      const seconds = work + sent;
      const hidden = overlap * kind.slowdown * backward;
      // Fewest replicas by time; those without transfers tell whether a larger part has any hope.
      let replicas = 1;
      if (limits.steady !== undefined) {
        const steady = limits.steady * (1 + slack);
        if (work > steady * most) continue;
        answer = Math.max(answer, 0);
        replicas = this.#steadyReplicas(seconds, bytes, hidden, tensor, steady);
      } else {
        const repeat = limits.repeat! * (1 + slack);
        if (work > 0 && repeatsWithin(microBatches, work, repeat) > most) continue;
        answer = Math.max(answer, 0);
        if (seconds > 0) replicas = repeatsWithin(microBatches, seconds, repeat);
      }
      if (this.#memoryBinds && activations > 0) {
        const inFlight = Math.floor(room / activations + slack);
        if (inFlight < 1) continue;
        const byPlace = inFlight > 1 ? Math.ceil(later / (inFlight - 1)) : later > 0 ? most + 1 : 1;
        replicas = Math.max(replicas, Math.min(Math.ceil(microBatches / inFlight), byPlace));
      }
      if (replicas > most) continue;
      if (limits.sync !== undefined && limits.sync < Number.POSITIVE_INFINITY) {
        const ring = ringSeconds(bytes, replicas, spanLink(this.#links, (replicas - 1) * tensor + 1));
        if (ring - hidden > limits.sync * (1 + slack)) continue;
      }
      const units = (replicas * tensor) / kind.slowest;
      if (answer === 1) {
        // Several kinds: the least of each on its own is still a lower bound.
        this.replicas = Math.min(this.replicas, replicas);
        this.seconds = Math.min(this.seconds, seconds);
      } else {
        this.replicas = replicas;
        this.seconds = seconds;
      }
      answer = 1;
      bestUnits = Math.min(bestUnits, units);
    }
    this.units = bestUnits;
    return answer;
  }

  /** Fewest replicas d with L / d + G(d) / m within `limit`, or fewer. */
  #steadyReplicas(seconds: number, bytes: number, hidden: number, tensor: number, limit: number): number {
    const { microBatches } = this.#model.options;
    let replicas =
      limit > 0
        ? Math.max(1, Math.ceil(seconds / limit - slack))
        : seconds > 0
          ? Number.POSITIVE_INFINITY
          : 1;
    // Each turn goes to a wider span, whose link is no better.
    for (let turn = 0; turn <= this.#links.length; turn++) {
      if (replicas === Number.POSITIVE_INFINITY) return replicas;
      const link = spanLink(this.#links, (replicas - 1) * tensor + 1);
      const sync = Math.max(0, ringSeconds(bytes, replicas, link) - hidden) / microBatches;
      if (seconds / replicas + sync <= limit) return replicas;
      // With G(d) = 2 (d - 1) / d x bytes / bandwidth - hidden, a hyperbola in d; latency only adds.
      const ring = (2 * bytes) / link.bandwidth / microBatches;
      const rest = limit - ring + hidden / microBatches;
      if (seconds <= ring || rest <= 0) return Number.POSITIVE_INFINITY;
      const wider = Math.ceil((seconds - ring) / rest - slack);
      if (wider <= replicas) return replicas;
      replicas = wider;
    }
    return replicas;
  }
}

/** What the links of any run of so many devices are at best. */
export interface SpanLink {
  span: number;
  latency: number;
  bandwidth: number;
}

/** Link i serves spans up to its own: at best those of level i and of all levels outside it. Widest last. */
export function bestLinks({ levels }: Machine): SpanLink[] {
  const all = levels.map(({ latencySeconds, bytesPerSecond, groupOf }) => ({
    span: largestGroup(groupOf),
    latency: Math.min(...latencySeconds),
    bandwidth: Math.max(...bytesPerSecond),
  }));
  return all.map(({ span }, i) => ({
    span,
    latency: Math.min(...all.slice(i).map(({ latency }) => latency)),
    bandwidth: Math.max(...all.slice(i).map(({ bandwidth }) => bandwidth)),
  }));
}

/** The best link of a ring over devices of which the outermost are `span` - 1 apart. */
export function spanLink(links: readonly SpanLink[], span: number): SpanLink {
  for (const link of links) if (span <= link.span) return link;
  return links.at(-1)!;
}

/** Fewest d with (ceil(m / d) - 1) L within a limit. */
function repeatsWithin(microBatches: number, seconds: number, limit: number): number {
  return Math.max(1, Math.ceil(microBatches / (Math.floor(limit / seconds) + 1)));
}

/** Devices from the first to the last of a group, at most. */
function largestGroup(groupOf: Int32Array): number {
  const first = new Map<number, number>();
  let most = 0;
  groupOf.forEach((group, device) => {
    if (!first.has(group)) first.set(group, device);
    most = Math.max(most, device - first.get(group)! + 1);
  });
  return most;
}

/** At most four kinds of devices, by slowdown. */
function kindsOf(slowdown: Float64Array, memoryBytes: Float64Array): Kind[] {
  const distinct = [...new Set(slowdown)].sort((a, b) => a - b);
  const size = Math.ceil(distinct.length / 4);
  const kinds: Kind[] = [];
  for (let at = 0; at < distinct.length; at += size) {
    const part = distinct.slice(at, at + size);
    const most = slowdown.reduce(
      (all, each, i) => (each >= part[0]! && each <= part.at(-1)! ? Math.max(all, memoryBytes[i]!) : all),
      0,
    );
    kinds.push({ slowdown: part[0]!, slowest: part.at(-1)!, memoryBytes: most });
  }
  return kinds;
}
