import type { Budget } from "./dnnPartitioningBudget.js";
import type { PlacementProblem } from "./dnnPartitioningProblem.js";
import { IdealTable } from "./dnnPartitioningTable.js";

/** A device of a placement: its blocks, and whether it is a processor. */
export interface Placed {
  blocks: number[];
  processor: boolean;
}

export interface IdealSearch {
  /** "none" proves that no chain of stages has every load below the ceiling. */
  outcome: "found" | "none" | "open";
  stages: Placed[];
}

/** Ideals that are kept before a search gives up: some hundred MB. */
const maximumIdeals = 2_000_000;
/** Blocks that are added between two looks at the clock. */
const patience = 1 << 12;

/**
 * Looks for a chain of ideals of the stages' order, from the empty to the full one, whose differences all
 * load their device with less than `ceiling`: breadth first over the accelerators used, from every ideal that
 * is reached to all that one more stage reaches. It goes through all ideals but those that
 * - leave more work than the remaining devices can hold,
 * - are no better than a larger ideal reached with the same devices. With I and I + b both reached, every
 *   completion of I is one of I + b once it loses b; the stage that loses b saves the time of b and pays more
 *   for at most those nets of b that do not touch I.
 */
export function searchIdeals(
  problem: PlacementProblem,
  ceiling: number,
  budget: Budget,
): Promise<IdealSearch> {
  return new Search(problem, ceiling, budget).run();
}

/** Blocks in an order that respects the stages' order; ties go to the smaller number. */
export function blockOrder({ before, after }: PlacementProblem): number[] {
  const missing = before.map((list) => list.length);
  const order: number[] = [];
  const ready: number[] = [];
  const push = (block: number) => {
    let at = ready.length;
    while (at > 0 && ready[at - 1]! < block) at--;
    ready.splice(at, 0, block);
  };
  for (const [block, count] of missing.entries()) if (count === 0) push(block);
  while (ready.length > 0) {
    const block = ready.pop()!;
    order.push(block);
    for (const next of after[block]!) if (--missing[next]! === 0) push(next);
  }
  return order;
}

class Search {
  readonly #size: number;
  readonly #order: number[];
  // All else is by position in the order.
  readonly #after: Int32Array[];
  readonly #before: Int32Array[];
  readonly #nets: Int32Array[];
  readonly #cost: Float64Array;
  readonly #netSize: Int32Array;
  readonly #accelerator: Float64Array;
  readonly #processor: Float64Array;
  readonly #bytes: Float64Array;
  /** Most accelerator time that a millisecond of a processor takes over. */
  readonly #exchange: number;
  readonly #table: IdealTable;

  /** The ideal that is expanded: members, unplaced predecessors of the others, members of each net. */
  readonly #held: Uint8Array;
  readonly #missing: Int32Array;
  readonly #heldOfNet: Int32Array;
  #rest = 0;
  /** The stage that grows on it. */
  readonly #grownOfNet: Int32Array;
  readonly #ready: Int32Array[] = [];
  #time = 0;
  /** Nets that the stage pays for whatever is added, and those that more blocks could close. */
  #cut = 0;
  #open = 0;
  #stageBytes = 0;
  #added = 0;
  #stopped = false;
  #target = { origin: 0, processor: false, accelerators: 0, processors: 0, capacity: 0, memory: 0 };
  #queue: number[] = [];

  constructor(
    readonly problem: PlacementProblem,
    readonly ceiling: number,
    readonly budget: Budget,
  ) {
    const { nets, netsOf, acceleratorMs, processorMs, processors } = problem;
    const order = blockOrder(problem);
    const position = new Int32Array(order.length);
    for (const [at, block] of order.entries()) position[block] = at;
    const positions = (lists: number[][]) =>
      order.map((block) => Int32Array.from(lists[block]!, (other) => position[other]!).sort());
    const values = (list: Float64Array) => Float64Array.from(order, (block) => list[block]!);
    this.#size = order.length;
    this.#order = order;
    this.#after = positions(problem.after);
    this.#before = positions(problem.before);
    this.#nets = order.map((block) => Int32Array.from(netsOf[block]!));
    this.#cost = Float64Array.from(nets, (net) => net.cost);
    this.#netSize = Int32Array.from(nets, (net) => net.members.length);
    this.#accelerator = values(acceleratorMs);
    this.#processor = values(processorMs);
    this.#bytes = values(problem.bytes);
    let exchange = 0;
    for (const [at, time] of this.#accelerator.entries()) {
      const host = this.#processor[at]!;
      if (time > 0 && Number.isFinite(time) && host < ceiling) exchange = Math.max(exchange, time / host);
    }
    this.#exchange = exchange;
    this.#table = new IdealTable(order.length, processors + 1);
    this.#held = new Uint8Array(order.length);
    this.#missing = new Int32Array(order.length);
    this.#heldOfNet = new Int32Array(nets.length);
    this.#grownOfNet = new Int32Array(nets.length);
  }

  async run(): Promise<IdealSearch> {
    const { devices, processors } = this.problem;
    const table = this.#table;
    // By processors used: the ideals to expand with the accelerators at hand.
    let queues: number[][] = Array.from({ length: processors + 1 }, () => []);
    queues[0]!.push(table.reach(0, 0, -1, false));
    for (let used = 0; used <= devices; used++) {
      const next: number[][] = queues.map(() => []);
      for (let hosts = 0; hosts <= processors; hosts++) {
        for (const ideal of queues[hosts]!) {
          if (table.reachedWithFewer(ideal, used, hosts)) continue;
          if (await this.budget.breathe()) return { outcome: "open", stages: [] };
          this.#load(ideal);
          if (this.#dominated(ideal, used, hosts)) continue;
          for (const processor of [false, true]) {
            if (processor ? hosts === processors : used === devices) continue;
            const [accelerators, nowHosts] = processor ? [used, hosts + 1] : [used + 1, hosts];
            this.#queue = processor ? queues[nowHosts]! : next[hosts]!;
            const full = this.#expand(ideal, processor, accelerators, nowHosts);
            if (full >= 0) return { outcome: "found", stages: this.#chain(full, nowHosts) };
            if (this.#stopped || table.count > maximumIdeals) return { outcome: "open", stages: [] };
          }
        }
      }
      queues = next;
    }
    return { outcome: "none", stages: [] };
  }

  #load(ideal: number): void {
    const held = this.#held;
    this.#table.read(ideal, held);
    this.#heldOfNet.fill(0);
    this.#rest = 0;
    for (let at = 0; at < this.#size; at++) {
      if (held[at]) {
        for (const net of this.#nets[at]!) this.#heldOfNet[net]!++;
        continue;
      }
      if (this.#accelerator[at]! < Number.POSITIVE_INFINITY) this.#rest += this.#accelerator[at]!;
      let missing = 0;
      for (const before of this.#before[at]!) if (!held[before]) missing++;
      this.#missing[at] = missing;
    }
  }

  /** Whether a stage that loses this block gains no more than it saves, once the rest is placed as it is. */
  #pays(at: number): boolean {
    let left = this.#accelerator[at]!;
    for (const net of this.#nets[at]!) {
      if (this.#heldOfNet[net] === 0 && this.#grownOfNet[net] === 0) left -= this.#cost[net]!;
    }
    return left >= 0;
  }

  #dominated(ideal: number, used: number, hosts: number): boolean {
    const table = this.#table;
    for (let at = 0; at < this.#size; at++) {
      if (this.#held[at] || this.#missing[at]! > 0 || !this.#pays(at)) continue;
      table.edit(ideal);
      table.add(at);
      const larger = table.find();
      if (larger >= 0 && table.reached(larger, used, hosts)) return true;
    }
    return false;
  }

  /** Grows every stage on the loaded ideal; the number of the full ideal where one is reached, else -1. */
  #expand(origin: number, processor: boolean, accelerators: number, processors: number): number {
    const { problem, ceiling } = this;
    const spare = problem.processors - processors;
    const capacity = (problem.devices - accelerators + (spare > 0 ? spare * this.#exchange : 0)) * ceiling;
    const memory = processor ? Number.POSITIVE_INFINITY : problem.memoryBytes;
    this.#target = {
      origin,
      processor,
      accelerators,
      processors,
      capacity: Number.isNaN(capacity) ? Number.POSITIVE_INFINITY : capacity,
      memory,
    };
    this.#table.edit(origin);
    this.#time = this.#cut = this.#open = this.#stageBytes = 0;
    const ready = this.#list(0, this.#size);
    let count = 0;
    for (let at = 0; at < this.#size; at++)
      if (!this.#held[at] && this.#missing[at] === 0) ready[count++] = at;
    return this.#grow(0, count);
  }

  /** The list of a depth, with room for so many blocks. */
  #list(depth: number, room: number): Int32Array {
    const known = this.#ready[depth];
    if (known && known.length >= room) return known;
    this.#ready[depth] = new Int32Array(2 * room);
    return this.#ready[depth];
  }

  /** Adds each ready block in turn and goes on with later ones, so that every stage is met once. */
  #grow(depth: number, count: number): number {
    const ready = this.#ready[depth]!;
    const { processor, memory, capacity, accelerators, processors, origin } = this.#target;
    const times = processor ? this.#processor : this.#accelerator;
    const table = this.#table;
    for (let i = 0; i < count; i++) {
      const at = ready[i]!;
      const [time, cut, open, rest] = [this.#time, this.#cut, this.#open, this.#rest];
      this.#time += times[at]!;
      this.#stageBytes += this.#bytes[at]!;
      if (this.#accelerator[at]! < Number.POSITIVE_INFINITY) this.#rest -= this.#accelerator[at]!;
      this.#touch(at, processor);
      let full = -1;
      // More blocks never lessen the time, the bytes and the nets that are cut for good.
      if (this.#time + this.#cut < this.ceiling && this.#stageBytes <= memory) {
        if (++this.#added % patience === 0 && this.budget.over()) this.#stopped = true;
        table.add(at);
        const length = this.#step(depth, i, count);
        const fits = this.#time + this.#cut + this.#open < this.ceiling && this.#rest <= capacity;
        if (fits && !this.#better(depth + 1, length)) {
          const reached = table.reach(accelerators, processors, origin, processor);
          if (reached >= 0) this.#queue.push(reached);
          if (reached >= 0 && table.full()) full = reached;
        }
        if (full < 0 && length > 0 && !this.#stopped) full = this.#grow(depth + 1, length);
        for (const after of this.#after[at]!) this.#missing[after]!++;
        table.remove(at);
      }
      for (const net of this.#nets[at]!) this.#grownOfNet[net]!--;
      this.#stageBytes -= this.#bytes[at]!;
      this.#time = time;
      this.#cut = cut;
      this.#open = open;
      this.#rest = rest;
      if (full >= 0 || this.#stopped) return full;
    }
    return -1;
  }

  #touch(at: number, processor: boolean): void {
    for (const net of this.#nets[at]!) {
      const grown = this.#grownOfNet[net]!;
      this.#grownOfNet[net] = grown + 1;
      if (processor) continue;
      if (this.#heldOfNet[net]! > 0) {
        if (grown === 0) this.#cut += this.#cost[net]!;
      } else if (grown === 0) this.#open += this.#cost[net]!;
      else if (grown + 1 === this.#netSize[net]) this.#open -= this.#cost[net]!;
    }
  }

  /** Writes the blocks that may come after the i-th ready one; their number. */
  #step(depth: number, i: number, count: number): number {
    const ready = this.#ready[depth]!;
    const target = this.#list(depth + 1, count + this.#after[ready[i]!]!.length);
    let from = i + 1;
    let length = 0;
    for (const after of this.#after[ready[i]!]!) {
      if (--this.#missing[after]! > 0) continue;
      while (from < count && ready[from]! < after) target[length++] = ready[from++]!;
      target[length++] = after;
    }
    while (from < count) target[length++] = ready[from++]!;
    return length;
  }

  /** Whether one of the next blocks fits the stage and makes its ideal no worse. */
  #better(depth: number, length: number): boolean {
    const ready = this.#ready[depth]!;
    const { processor, memory } = this.#target;
    for (let i = 0; i < length; i++) {
      const at = ready[i]!;
      if (this.#stageBytes + this.#bytes[at]! > memory) continue;
      let load = this.#time + (processor ? this.#processor[at]! : this.#accelerator[at]!);
      if (!processor) {
        load += this.#cut + this.#open;
        for (const net of this.#nets[at]!) {
          const grown = this.#grownOfNet[net]!;
          if (grown === 0) load += this.#cost[net]!;
          else if (this.#heldOfNet[net] === 0 && grown + 1 === this.#netSize[net]) load -= this.#cost[net]!;
        }
      }
      // A margin, because the sum that decides is added up in another order.
      if (load < this.ceiling * (1 - 1e-12) && this.#pays(at)) return true;
    }
    return false;
  }

  #chain(full: number, processors: number): Placed[] {
    const { sets, byProcessor } = this.#table.trace(full, processors);
    const members = sets.map((set) => {
      const held = new Uint8Array(this.#size);
      this.#table.read(set, held);
      return held;
    });
    const stages = byProcessor.map((processor, index) => ({
      blocks: this.#order.filter((_, at) => members[index]![at] && !members[index + 1]![at]),
      processor,
    }));
    return stages.reverse();
  }
}
