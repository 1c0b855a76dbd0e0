import { MpoptError } from "../../contracts/index.js";
import type { IdealTable } from "./piperIdeals.js";
import type { StageTable } from "./piperStages.js";

export interface Limits {
  devices: number;
  memoryBytes: number;
  /** Replicas of all stages together. */
  batch: number;
  /** Data-parallel degrees, ascending. */
  dataDegrees: number[];
  signal?: AbortSignal;
}

/** A stage of an answer, input side first. */
export interface Cut {
  pair: number;
  /** Index into the table's tensor-parallel degrees. */
  t: number;
  replicas: number;
  inFlight: number;
}

export interface Probe {
  /** Undefined where no plan keeps every stage within the time. */
  cuts?: Cut[];
  devices: number;
  /** With any smaller time limit above the one probed, the answer would be the same. */
  next: number;
}

const none = 0x7fffffff;

/**
 * Answers whether stages exist whose times stay within a limit, with the fewest devices.
 *
 * Stages are cut off the output side, so that the replicas of later stages, on which the activations in flight
 * depend, are known. For each ideal that is left, the undominated pairs (replicas, devices) of the stages so far
 * are kept: with fewer replicas and fewer devices, whatever completes the other completes this one, as memory
 * grows with the replicas behind. For one stage and degree only the fewest replicas that fit can matter, by the
 * same dominance. A bound on the devices that the rest needs, memory apart, cuts the rest.
 */
export class FeasibilitySearch {
  private readonly first: Uint16Array;
  private readonly rest: Float64Array;
  private readonly nextDegree: Uint16Array;
  // One undominated pair a row, ideals in the order of the search.
  private replicas = new Int32Array(1024);
  private used = new Int32Array(1024);
  private stagePair = new Int32Array(1024);
  private stageDegrees = new Int32Array(1024);
  private parent = new Int32Array(1024);
  private readonly rowsFrom: Int32Array;
  private readonly rowsTo: Int32Array;
  // Of the ideal in work, by replicas: fewest devices with that many or fewer, and where they come from.
  private readonly best: Int32Array;
  private readonly from: Int32Array;
  private readonly fromPair: Int32Array;
  private readonly fromDegrees: Int32Array;

  constructor(
    private readonly ideals: IdealTable,
    private readonly table: StageTable,
    private readonly limits: Limits,
  ) {
    this.first = new Uint16Array(ideals.upper.length * table.degrees.length);
    this.rest = new Float64Array(ideals.count);
    this.rowsFrom = new Int32Array(ideals.count);
    this.rowsTo = new Int32Array(ideals.count);
    const capacity = Math.min(limits.devices, limits.batch);
    this.best = new Int32Array(capacity + 1).fill(none);
    this.from = new Int32Array(capacity + 1);
    this.fromPair = new Int32Array(capacity + 1);
    this.fromDegrees = new Int32Array(capacity + 1);
    const { dataDegrees } = limits;
    const largest = dataDegrees.at(-1)!;
    this.nextDegree = new Uint16Array(largest + 2).fill(dataDegrees.length);
    for (let d = largest, at = dataDegrees.length - 1; d >= 0; d--) {
      while (at > 0 && dataDegrees[at - 1]! >= d) at--;
      this.nextDegree[d] = at;
    }
  }

  /**
   * @param seconds The largest stage time allowed; infinite for memory alone.
   * @param optimistic Stages whose best choice of variants is known only within bounds count as the lower bound.
   */
  probe(seconds: number, optimistic = false): Probe {
    const { ideals, limits } = this;
    this.table.setMemory(limits.memoryBytes);
    let next = this.boundRest(seconds);
    const last = ideals.count - 1;
    if (this.rest[last]! > limits.devices) return { devices: this.rest[last]!, next };
    const { best, from, fromPair, fromDegrees } = this;
    this.rowsFrom[last] = 0;
    this.rowsTo[last] = 1;
    this.replicas[0] = this.used[0] = 0;
    let rows = 1;
    const degrees = this.table.degrees.length;
    for (let i = last - 1; i >= 0; i--) {
      if ((i & 63) === 0) this.checkSignal();
      const need = this.rest[i]!;
      for (let pair = ideals.start[i]!; pair < ideals.start[i + 1]!; pair++) {
        const upper = ideals.upper[pair]!;
        const [begin, end] = [this.rowsFrom[upper]!, this.rowsTo[upper]!];
        if (begin === end) continue;
        for (let t = 0; t < degrees; t++) {
          const found = this.extend(pair, t, begin, end, need, seconds, optimistic);
          if (found < next) next = found;
        }
      }
      this.rowsFrom[i] = rows;
      let fewest = none;
      for (let r = 0; r < best.length; r++) {
        if (best[r]! < fewest) {
          fewest = best[r]!;
          if (rows === this.replicas.length) this.grow();
          this.replicas[rows] = r;
          this.used[rows] = fewest;
          this.stagePair[rows] = fromPair[r]!;
          this.stageDegrees[rows] = fromDegrees[r]!;
          this.parent[rows] = from[r]!;
          rows++;
        }
        best[r] = none;
      }
      this.rowsTo[i] = rows;
    }
    if (this.rowsFrom[0] === this.rowsTo[0]) return { devices: Number.POSITIVE_INFINITY, next };
    const row = this.rowsTo[0]! - 1;
    return { devices: this.used[row]!, next, cuts: this.trace(row) };
  }

  /** Fewest devices for each ideal, memory behind it apart; the least time above the limit that was refused. */
  private boundRest(seconds: number): number {
    const { ideals, table, rest, first, nextDegree } = this;
    const { dataDegrees } = this.limits;
    const degrees = table.degrees.length;
    const largest = dataDegrees.at(-1)!;
    let next = Number.POSITIVE_INFINITY;
    rest.fill(Number.POSITIVE_INFINITY);
    rest[0] = 0;
    for (let i = 0; i < ideals.count; i++) {
      const before = rest[i]!;
      for (let pair = ideals.start[i]!; pair < ideals.start[i + 1]!; pair++) {
        const upper = ideals.upper[pair]!;
        for (let t = 0; t < degrees; t++) {
          const slot = pair * degrees + t;
          first[slot] = dataDegrees.length;
          if (!table.exists(pair, t) || table.inFlightLimit(pair, t) === 0) continue;
          const fast = table.fast(pair, t);
          const reduce = table.reduce(pair, t);
          const time = (d: number) => (fast + reduce * (d - 1)) / d;
          let at = 0;
          if (fast > seconds) {
            // Beyond one replica, time falls to `reduce`, or rises to it.
            const wanted = (fast - reduce) / (seconds - reduce);
            if (!(wanted > 0 && wanted <= largest)) at = dataDegrees.length;
            else at = nextDegree[Math.ceil(wanted)]!;
            while (at > 0 && time(dataDegrees[at - 1]!) <= seconds) at--;
            while (at < dataDegrees.length && time(dataDegrees[at]!) > seconds) at++;
            if (at > 0) {
              const refused = time(dataDegrees[at - 1]!);
              if (refused > seconds && refused < next) next = refused;
            }
            if (at === dataDegrees.length && fast < next) next = fast;
          }
          first[slot] = at;
          if (at === dataDegrees.length) continue;
          const devices = before + dataDegrees[at]! * table.degrees[t]!;
          if (devices < rest[upper]!) rest[upper] = devices;
        }
      }
    }
    return next;
  }

  /**
   * Offers a stage with the fewest replicas that fit to each row of the ideal above it.
   * Returns the least time above the limit that was refused.
   */
  private extend(
    pair: number,
    t: number,
    begin: number,
    end: number,
    need: number,
    seconds: number,
    optimistic: boolean,
  ): number {
    const { dataDegrees, devices, batch } = this.limits;
    const { table } = this;
    const tensor = table.degrees[t]!;
    let next = Number.POSITIVE_INFINITY;
    let index = this.first[pair * table.degrees.length + t]!;
    if (index === dataDegrees.length) return next;
    const reduce = table.reduce(pair, t);
    let d = dataDegrees[index]!;
    let fitting = 0;
    for (let row = begin; row < end; row++) {
      // Devices fall from row to row as replicas rise.
      if (this.used[row]! + d * tensor + need > devices) continue;
      const later = this.replicas[row]!;
      let found = false;
      while (later + d <= batch) {
        // With more replicas it would be beaten all the more.
        if (this.best[later + d]! <= this.used[row]! + d * tensor) break;
        const inFlight = 1 + Math.ceil(later / d);
        if (inFlight <= fitting) {
          found = true;
          break;
        }
        const base = table.base(pair, t, index, d, inFlight, seconds, optimistic);
        const time = (base + reduce * (d - 1)) / d;
        if (time <= seconds && time < Number.POSITIVE_INFINITY) {
          fitting = inFlight;
          found = true;
          break;
        }
        if (time < next) next = time;
        index++;
        fitting = 0;
        if (index === dataDegrees.length) return next;
        d = dataDegrees[index]!;
        if (this.used[row]! + d * tensor + need > devices) break;
      }
      if (found) this.offer(row, pair, d, t, index);
    }
    return next;
  }

  private offer(row: number, pair: number, d: number, t: number, index: number): void {
    const { best } = this;
    const replicas = this.replicas[row]! + d;
    const devices = this.used[row]! + d * this.table.degrees[t]!;
    this.from[replicas] = row;
    this.fromPair[replicas] = pair;
    this.fromDegrees[replicas] = t * 65536 + index;
    for (let r = replicas; r < best.length && best[r]! > devices; r++) best[r] = devices;
  }

  private trace(last: number): Cut[] {
    const cuts: Cut[] = [];
    for (let row = last; row !== 0; row = this.parent[row]!) {
      const packed = this.stageDegrees[row]!;
      const replicas = this.limits.dataDegrees[packed & 65535]!;
      const later = this.replicas[this.parent[row]!]!;
      const inFlight = 1 + Math.ceil(later / replicas);
      cuts.push({ pair: this.stagePair[row]!, t: packed >>> 16, replicas, inFlight });
    }
    return cuts;
  }

  private grow(): void {
    const larger = (from: Int32Array) => {
      const to = new Int32Array(2 * from.length);
      to.set(from);
      return to;
    };
    this.replicas = larger(this.replicas);
    this.used = larger(this.used);
    this.stagePair = larger(this.stagePair);
    this.stageDegrees = larger(this.stageDegrees);
    this.parent = larger(this.parent);
  }

  private checkSignal(): void {
    if (this.limits.signal?.aborted) throw new MpoptError("E_CANCELLED", "The search was stopped.");
  }
}
