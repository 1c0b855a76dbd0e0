import type { LayeredGraph } from "../../models/layered.js";
import type { IdealTable } from "./piperIdeals.js";
import { Knapsack } from "./piperKnapsack.js";
import { isAllowed, type PiperOptions, reduceSecondsPerByte } from "./piperModel.js";

/** Sums of bytes that are not whole differ by this share with the order of summing. */
const byteRounding = 1e-12;

interface Item {
  /** Index into the node's variants. */
  index: number;
  seconds: number;
  parameterBytes: number;
  activationBytes: number;
  fixedBytes: number;
  /** Seconds beyond the least of the node's variants, for each edge into and out of the node that crosses. */
  entering: number[];
  leaving: number[];
}

interface Edge {
  from: number;
  to: number;
  /** Seconds both ways, by degree: what every variant of the receiving or sending stage pays. */
  entering: Float64Array;
  leaving: Float64Array;
}

/**
 * Times and memory of every stage that two nested ideals bound, by tensor-parallel degree. A stage's time at `d`
 * replicas is `(base + reduce (d - 1)) / d`; `base` is least with the fastest variants and grows as memory forces
 * slower ones.
 */
export class StageTable {
  /** Degrees that some node has, ascending. */
  readonly degrees: number[];
  /** By degree: sums over each ideal's nodes, to be subtracted. */
  private readonly fastSeconds: Float64Array[];
  private readonly parameterBytes: Float64Array[];
  private readonly fastA: Float64Array[];
  private readonly fastF: Float64Array[];
  private readonly leastA: Float64Array[];
  private readonly leastF: Float64Array[];
  private readonly slimSeconds: Float64Array[];
  private readonly slimF: Float64Array[];
  private readonly leanA: Float64Array[];
  private readonly missing: Int32Array[];
  /** By degree and pair: seconds of the edges that cross into or out of the stage. */
  private readonly traffic: Float64Array[];
  private readonly lowerOf: Int32Array;
  /** By degree and node. */
  private readonly items: Item[][][];
  /** Variants of one node and degree differ in time and memory alone, so the choice ignores the replicas. */
  private readonly uniform: boolean;
  private readonly knapsack = new Knapsack();
  private memoryBytes: number;
  /** By pair and degree: most micro-batches in flight that fit; -1 where not yet known. */
  private readonly mostInFlight: Int32Array;
  /** Lower ends of what knapsacks answered, and upper ends where they differ. */
  private readonly known = new Map<number, number>();
  private readonly loose = new Map<number, number>();
  private readonly enumerated = new Set<number>();
  private readonly reduceFactor: number;
  /** A choice was met whose cost is only known within bounds. */
  inexact = false;
  private readonly edgesIn: number[][];
  private readonly edgesOut: number[][];
  private readonly edges: Edge[];

  constructor(
    private readonly graph: LayeredGraph,
    private readonly ideals: IdealTable,
    private readonly options: PiperOptions,
    private readonly dataDegreeCount: number,
  ) {
    const { nodes } = graph;
    this.reduceFactor = reduceSecondsPerByte(options);
    this.memoryBytes = options.memoryBytes;
    const allowed = nodes.map(({ variants }) => variants.filter((variant) => isAllowed(variant, options)));
    this.degrees = [...new Set(allowed.flat().map(({ tensor }) => tensor))].sort((a, b) => a - b);
    this.edgesIn = nodes.map(() => []);
    this.edgesOut = nodes.map(() => []);
    this.edges = graph.edges.map(({ from, to }, index) => {
      this.edgesOut[from]!.push(index);
      this.edgesIn[to]!.push(index);
      const zeros = () => new Float64Array(this.degrees.length);
      return { from, to, entering: zeros(), leaving: zeros() };
    });
    this.items = this.degrees.map((degree, t) => nodes.map((_, node) => this.itemsOf(node, degree, t)));
    this.uniform = this.items.every((byNode) =>
      byNode.every((items) =>
        items.every(
          ({ parameterBytes, entering, leaving }) =>
            parameterBytes === items[0]!.parameterBytes &&
            entering.every((extra) => extra === 0) &&
            leaving.every((extra) => extra === 0),
        ),
      ),
    );
    if (this.uniform) this.items = this.items.map((byNode) => byNode.map(undominated));

    const least = (value: (item: Item) => number) => this.sums((items) => Math.min(...items.map(value)));
    const fastest = (items: Item[]) =>
      items.reduce((a, b) => (compare(b, a, "seconds", "activationBytes", "fixedBytes") < 0 ? b : a));
    const slimmest = (items: Item[]) =>
      items.reduce((a, b) => (compare(b, a, "activationBytes", "fixedBytes", "seconds") < 0 ? b : a));
    this.fastSeconds = least(({ seconds }) => seconds);
    this.parameterBytes = least(({ parameterBytes }) => parameterBytes);
    this.leastA = least(({ activationBytes }) => activationBytes);
    this.leastF = least(({ fixedBytes }) => fixedBytes);
    this.fastA = this.sums((items) => fastest(items).activationBytes);
    this.fastF = this.sums((items) => fastest(items).fixedBytes);
    this.slimSeconds = this.sums((items) => slimmest(items).seconds);
    this.slimF = this.sums((items) => slimmest(items).fixedBytes);
    const leanest = (items: Item[]) =>
      items.reduce((a, b) => (compare(b, a, "fixedBytes", "activationBytes", "seconds") < 0 ? b : a));
    this.leanA = this.sums((items) => leanest(items).activationBytes);
    this.missing = this.sums((items) => (items.length === 0 ? 1 : 0), true).map((sums) =>
      Int32Array.from(sums),
    );
    this.lowerOf = new Int32Array(ideals.upper.length);
    for (let i = 0; i < ideals.count; i++) this.lowerOf.fill(i, ideals.start[i], ideals.start[i + 1]);
    this.traffic = this.crossings();
    this.mostInFlight = new Int32Array(ideals.upper.length * this.degrees.length).fill(-1);
  }

  /** Sets the bytes of a device; what was known for another limit is forgotten. */
  setMemory(memoryBytes: number): void {
    if (memoryBytes === this.memoryBytes) return;
    this.memoryBytes = memoryBytes;
    this.mostInFlight.fill(-1);
    this.known.clear();
    this.loose.clear();
    this.enumerated.clear();
  }

  /** True where every node of the stage has the degree. */
  exists(pair: number, t: number): boolean {
    return this.missing[t]![this.ideals.upper[pair]!] === this.missing[t]![this.lowerOf[pair]!];
  }

  /** Seconds of the stage on one replica with the fastest variants. */
  fast(pair: number, t: number): number {
    return this.difference(this.fastSeconds[t]!, pair) + this.traffic[t]![pair]!;
  }

  /** Seconds that each replica beyond the first adds to the replicas' sum. */
  reduce(pair: number, t: number): number {
    return this.reduceFactor * this.difference(this.parameterBytes[t]!, pair);
  }

  /** Most micro-batches in flight for which some variants fit; 0 where none do. */
  inFlightLimit(pair: number, t: number): number {
    const slot = pair * this.degrees.length + t;
    if (this.mostInFlight[slot]! < 0) this.mostInFlight[slot] = this.findInFlightLimit(pair, t);
    return this.mostInFlight[slot]!;
  }

  /**
   * `base` of the best variants that fit with `inFlight` micro-batches; infinite where none fit. A value that
   * keeps the stage within `seconds` need not be the least. With `optimistic`, the lower end where only bounds
   * are known.
   */
  base(
    pair: number,
    t: number,
    degreeIndex: number,
    replicas: number,
    inFlight: number,
    seconds: number,
    optimistic: boolean,
  ): number {
    const reduce = this.reduce(pair, t) * (replicas - 1);
    const within = (base: number) => (base + reduce) / replicas <= seconds;
    if (inFlight > this.inFlightLimit(pair, t)) return Number.POSITIVE_INFINITY;
    const fast = this.fast(pair, t);
    // Without a limit in time only memory decides.
    if (seconds === Number.POSITIVE_INFINITY || !within(fast)) return fast;
    if (this.uniform) {
      if (this.bytes(this.fastA, this.fastF, pair, t, inFlight) <= this.memoryBytes) return fast;
      const slim = this.difference(this.slimSeconds[t]!, pair) + this.traffic[t]![pair]!;
      const slimFits = this.bytes(this.leastA, this.slimF, pair, t, inFlight) <= this.memoryBytes;
      if (slimFits && within(slim)) return slim;
    }
    const byReplicas = this.uniform ? 0 : degreeIndex;
    const key =
      ((pair * this.degrees.length + t) * (this.dataDegreeCount + 1) + byReplicas) *
        (this.options.batch + 1) +
      inFlight;
    let lower = this.known.get(key);
    let upper = this.loose.get(key) ?? lower;
    const answer = (exact: boolean) => {
      this.fill(pair, t, replicas, inFlight);
      const limit = this.memoryBytes * (1 + byteRounding);
      if (exact) this.knapsack.solve(limit);
      else this.knapsack.relax(limit);
      const traffic = this.traffic[t]![pair]!;
      lower = this.knapsack.lower + traffic;
      upper = this.knapsack.upper + traffic;
      this.known.set(key, lower);
      if (upper > lower) this.loose.set(key, upper);
      else this.loose.delete(key);
    };
    if (lower === undefined) answer(false);
    // The exact choice is asked for only where the relaxation leaves the answer open.
    if (within(lower!) && !within(upper!) && !this.enumerated.has(key)) {
      answer(true);
      this.enumerated.add(key);
    }
    if (within(lower!) && !within(upper!)) this.inexact = true;
    return optimistic || !within(lower!) ? lower! : upper!;
  }

  /** The best variants of the stage's nodes. */
  choose(
    pair: number,
    t: number,
    replicas: number,
    inFlight: number,
  ): { nodes: number[]; variants: number[] } {
    const nodes = this.fill(pair, t, replicas, inFlight);
    this.knapsack.solve(this.memoryBytes * (1 + byteRounding), true);
    const variants = this.knapsack.choice.map((option, i) => this.items[t]![nodes[i]!]![option]!.index);
    return { nodes, variants };
  }

  /** Nodes between the ideals, ascending. */
  nodesOf(pair: number): number[] {
    const { words, bits, upper } = this.ideals;
    const [a, b] = [this.lowerOf[pair]! * words, upper[pair]! * words];
    const nodes: number[] = [];
    for (let w = 0; w < words; w++) {
      for (let word = bits[b + w]! & ~bits[a + w]!; word !== 0; word &= word - 1) {
        nodes.push(w * 32 + 31 - Math.clz32(word & -word));
      }
    }
    return nodes;
  }

  private bytes(
    activation: Float64Array[],
    fixed: Float64Array[],
    pair: number,
    t: number,
    inFlight: number,
  ) {
    return this.difference(activation[t]!, pair) * inFlight + this.difference(fixed[t]!, pair);
  }

  private findInFlightLimit(pair: number, t: number): number {
    const most = (activation: Float64Array, fixed: Float64Array) => {
      const a = this.difference(activation, pair);
      const f = this.difference(fixed, pair);
      if (a + f > this.memoryBytes) return 0;
      const count = Math.min(this.options.batch, a > 0 ? Math.floor((this.memoryBytes - f) / a) : Infinity);
      return a * count + f > this.memoryBytes ? count - 1 : count;
    };
    // Two choices that fit and a bound that no choice passes; mostly they meet.
    let low = Math.max(most(this.leastA[t]!, this.slimF[t]!), most(this.leanA[t]!, this.leastF[t]!));
    let high = most(this.leastA[t]!, this.leastF[t]!);
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (this.leastBytes(pair, t, middle) <= this.memoryBytes) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  private leastBytes(pair: number, t: number, inFlight: number): number {
    let sum = 0;
    for (const node of this.nodesOf(pair)) {
      let least = Number.POSITIVE_INFINITY;
      for (const { activationBytes, fixedBytes } of this.items[t]![node]!) {
        least = Math.min(least, activationBytes * inFlight + fixedBytes);
      }
      sum += least;
    }
    return sum;
  }

  private difference(sums: Float64Array, pair: number): number {
    return sums[this.ideals.upper[pair]!]! - sums[this.lowerOf[pair]!]!;
  }

  private fill(pair: number, t: number, replicas: number, inFlight: number): number[] {
    const nodes = this.nodesOf(pair);
    const { knapsack } = this;
    knapsack.clear();
    const inside = this.uniform ? undefined : new Set(nodes);
    for (const node of nodes) {
      const items = this.items[t]![node]!;
      const leastParameters = inside ? Math.min(...items.map(({ parameterBytes }) => parameterBytes)) : 0;
      for (const item of items) {
        let cost = item.seconds;
        if (inside) {
          cost += this.reduceFactor * (replicas - 1) * (item.parameterBytes - leastParameters);
          this.edgesIn[node]!.forEach((edge, i) => {
            if (!inside.has(this.edges[edge]!.from)) cost += item.entering[i]!;
          });
          this.edgesOut[node]!.forEach((edge, i) => {
            if (!inside.has(this.edges[edge]!.to)) cost += item.leaving[i]!;
          });
        }
        knapsack.option(cost, item.activationBytes * inFlight + item.fixedBytes);
      }
      knapsack.endGroup();
    }
    return nodes;
  }

  private itemsOf(node: number, degree: number, t: number): Item[] {
    const { bytesPerSecond } = this.options;
    const { nodes, edges } = this.graph;
    const seconds = (bytes: number | undefined) => (2 * (bytes ?? 0)) / bytesPerSecond;
    const items: Item[] = [];
    nodes[node]!.variants.forEach((variant, index) => {
      if (variant.tensor !== degree || !isAllowed(variant, this.options)) return;
      items.push({
        index,
        seconds: variant.forwardSeconds + variant.backwardSeconds,
        parameterBytes: variant.parameterBytes,
        activationBytes: variant.activationBytes,
        fixedBytes: variant.fixedBytes,
        entering: this.edgesIn[node]!.map((edge) =>
          seconds(variant.syncBytes?.forward.get(nodes[edges[edge]!.from]!.id)),
        ),
        leaving: this.edgesOut[node]!.map((edge) =>
          seconds(variant.syncBytes?.backward.get(nodes[edges[edge]!.to]!.id)),
        ),
      });
    });
    const share = (edgeIndices: number[], way: "entering" | "leaving") => {
      edgeIndices.forEach((edge, i) => {
        const common = items.length === 0 ? 0 : Math.min(...items.map((item) => item[way][i]!));
        for (const item of items) item[way][i]! -= common;
        const { bytes, seconds: given } = edges[edge]!;
        this.edges[edge]![way][t] = common + (given === undefined ? seconds(bytes) : 2 * given);
      });
    };
    share(this.edgesIn[node]!, "entering");
    share(this.edgesOut[node]!, "leaving");
    return items;
  }

  /** Sums of a figure over the nodes of each ideal, by degree. Nodes without the degree count 0. */
  private sums(figure: (items: Item[]) => number, ofMissing = false): Float64Array[] {
    const { words, bits, count } = this.ideals;
    return this.items.map((byNode) => {
      const values = byNode.map((items) => (items.length === 0 && !ofMissing ? 0 : figure(items)));
      const sums = new Float64Array(count);
      for (let i = 0; i < count; i++) {
        let sum = 0;
        for (let w = 0; w < words; w++) {
          for (let word = bits[i * words + w]!; word !== 0; word &= word - 1) {
            sum += values[w * 32 + 31 - Math.clz32(word & -word)]!;
          }
        }
        sums[i] = sum;
      }
      return sums;
    });
  }

  private crossings(): Float64Array[] {
    const { words, bits, count, start, upper } = this.ideals;
    const degrees = this.degrees.length;
    const has = (ideal: number, node: number) =>
      ((bits[ideal * words + (node >>> 5)]! >>> (node & 31)) & 1) === 1;
    const cuts = Array.from({ length: count }, (_, ideal) =>
      this.edges.filter(({ from, to }) => has(ideal, from) && !has(ideal, to)),
    );
    const traffic = this.degrees.map(() => new Float64Array(upper.length));
    for (let i = 0; i < count; i++) {
      const cut = cuts[i]!;
      for (let pair = start[i]!; pair < start[i + 1]!; pair++) {
        const j = upper[pair]!;
        for (const edge of cut) {
          if (!has(j, edge.to)) continue;
          for (let t = 0; t < degrees; t++) traffic[t]![pair]! += edge.entering[t]!;
        }
        for (const edge of cuts[j]!) {
          if (has(i, edge.from)) continue;
          for (let t = 0; t < degrees; t++) traffic[t]![pair]! += edge.leaving[t]!;
        }
      }
    }
    return traffic;
  }
}

type Figure = "seconds" | "activationBytes" | "fixedBytes";

function compare(a: Item, b: Item, ...figures: Figure[]): number {
  for (const figure of figures) if (a[figure] !== b[figure]) return a[figure] - b[figure];
  return a.index - b.index;
}

/** Without items that another beats in time and memory, whatever is in flight. */
function undominated(items: Item[]): Item[] {
  const beats = (a: Item, b: Item) => {
    const sides = (["seconds", "activationBytes", "fixedBytes"] as const).map((it) => a[it] - b[it]);
    return (
      sides.every((side) => side <= 0) && (sides.some((side) => side < 0) || a.index < b.index) && a !== b
    );
  };
  return items.filter((item) => !items.some((other) => beats(other, item)));
}
