import { separationCost } from "./dnnPartitioningFlow.js";
import type { PlacementProblem } from "./dnnPartitioningProblem.js";

/** Rounding that a bound gives away. */
const margin = 1e-12;
/** Blocks whose cheapest surroundings are looked for. */
const maximumCuts = 64;
/** Numbers of blocks of each kind that the packing tells apart. */
const maximumStates = 60_000;
const unpackable = 0x7fffffff;
/** The packing's bound is found to this share. */
const bisection = 1e-5;
/** Steps that it goes on for where it has what was wanted: they are cheap, and tell how good the answer is. */
const furtherSteps = 5;
/** Blocks below this share of an even load are left out of the packing. */
const smallestShare = 1e-3;

/** Load that even a perfectly even split has: all devices full, processors with what suits them best. */
export function volumeBound({ acceleratorMs, processorMs, devices, processors }: PlacementProblem): number {
  const items = [...acceleratorMs.keys()].map((block) => ({
    time: acceleratorMs[block]!,
    host: processorMs[block]!,
  }));
  const must = items.filter(({ time }) => time === Number.POSITIVE_INFINITY);
  const may = items
    .filter(({ time }) => time > 0 && time < Number.POSITIVE_INFINITY)
    .sort((a, b) => a.host / a.time - b.host / b.time);
  const sum = (list: number[]) => list.reduce((all, value) => all + value, 0);
  const total = sum(may.map(({ time }) => time));
  const forced = sum(must.map(({ host }) => host));
  const fits = (load: number) => {
    let spare = load * processors - forced;
    if (spare < 0) return false;
    let left = total;
    for (const { time, host } of may) {
      const part = host <= spare ? 1 : spare / host;
      left -= part * time;
      spare -= part * host;
      if (part < 1) break;
    }
    return left <= load * devices;
  };
  let [low, high] = [0, total + forced];
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2;
    if (fits(middle)) high = middle;
    else low = middle;
  }
  return low * (1 - margin);
}

/** Load of some device that holds the block that is costliest to place, whatever it is placed with. */
export function cutBound(problem: PlacementProblem, known: number, over: () => boolean): number {
  const { blocks, nets, netsOf, acceleratorMs, processorMs, processors } = problem;
  const most = (block: number) =>
    Math.min(
      netsOf[block]!.reduce((sum, net) => sum + nets[net]!.cost, acceleratorMs[block]!),
      processors > 0 ? processorMs[block]! : Number.POSITIVE_INFINITY,
    );
  const order = [...blocks.keys()].sort((a, b) => acceleratorMs[b]! - acceleratorMs[a]! || a - b);
  let bound = known;
  for (const block of order.slice(0, maximumCuts)) {
    if (most(block) <= bound) continue;
    if (over()) break;
    const host = processors > 0 ? processorMs[block]! : Number.POSITIVE_INFINITY;
    bound = Math.max(bound, Math.min(host, separationCost(problem, block)) * (1 - margin));
  }
  return bound;
}

interface Kind {
  time: number;
  host: number;
  count: number;
}

/**
 * A load between `low` and `high` below which the blocks cannot be packed on the devices; the search for it
 * ends soon after `wanted`. All communication is left out, and times are rounded down to so few kinds that every
 * number of each is one state. Bisection over the load; for one load, dynamic programming over the states
 * finds the fewest bins, and the least fill of the last one, by adding one block at a time.
 */
export function packingBound(
  problem: PlacementProblem,
  low: number,
  high: number,
  wanted = high,
  over: () => boolean = () => false,
): number {
  const kinds = kindsOf(problem);
  const { devices, processors } = problem;
  const strides: number[] = [];
  let states = 1;
  for (const { count } of kinds) {
    strides.push(states);
    states *= count + 1;
  }
  const bins = new Int32Array(states);
  const fill = new Float64Array(states);
  /** Fewest bins for each state. */
  const pack = (of: (kind: Kind) => number, load: number): Int32Array => {
    const limit = load * (1 + margin);
    const digits = new Int32Array(kinds.length);
    for (let state = 1; state < states; state++) {
      let i = 0;
      while (digits[i] === kinds[i]!.count) digits[i++] = 0;
      digits[i]!++;
      let [fewest, least] = [unpackable, 0];
      for (const [k, kind] of kinds.entries()) {
        if (digits[k] === 0) continue;
        const size = of(kind);
        const from = state - strides[k]!;
        if (size > limit || bins[from] === unpackable) continue;
        let [used, filled] = [bins[from]!, fill[from]! + size];
        if (used === 0 || filled > limit) [used, filled] = [used + 1, size];
        if (used < fewest || (used === fewest && filled < least)) [fewest, least] = [used, filled];
      }
      bins[state] = fewest;
      fill[state] = least;
    }
    return bins;
  };
  const packable = (load: number): boolean => {
    const hosted = processors > 0 ? pack(({ host }) => host, load).slice() : new Int32Array(states).fill(1);
    hosted[0] = 0;
    const placed = pack(({ time }) => time, load);
    for (let state = 0; state < states; state++) {
      if (hosted[state]! <= processors && placed[states - 1 - state]! <= devices) return true;
    }
    return false;
  };
  let [closed, open] = [low, high];
  // The wanted load first, then the best known one: where nothing packs below that, it is the best of all.
  for (const load of [wanted, high * (1 - margin)]) {
    if (load <= closed || load >= open) continue;
    if (packable(load)) open = load;
    else closed = load;
  }
  for (let step = 0; open - closed > bisection * open && !over(); step++) {
    if (closed >= wanted && step >= furtherSteps) break;
    const load = (open + closed) / 2;
    if (packable(load)) open = load;
    else closed = load;
  }
  return Math.max(low, closed * (1 - margin));
}

/** Blocks by time, neighbours rounded down to one kind where that loses least, until the packing is short. */
function kindsOf({ acceleratorMs, processorMs, devices, processors }: PlacementProblem): Kind[] {
  const finite = [...acceleratorMs].filter(Number.isFinite);
  const even = finite.reduce((sum, time) => sum + time, 0) / Math.max(1, devices + processors);
  const kinds = [...acceleratorMs.keys()]
    .filter((block) => Number.isFinite(acceleratorMs[block]!) && acceleratorMs[block]! > smallestShare * even)
    .map((block): Kind => ({ time: acceleratorMs[block]!, host: processorMs[block]!, count: 1 }))
    .sort((a, b) => b.time - a.time || b.host - a.host);
  const states = () => kinds.reduce((all, { count }) => all * (count + 1), 1);
  while (kinds.length > 1 && states() > maximumStates) {
    let chosen = 0;
    let least = Number.POSITIVE_INFINITY;
    for (let i = 0; i + 1 < kinds.length; i++) {
      const [larger, smaller] = [kinds[i]!, kinds[i + 1]!];
      const loss = larger.count * (larger.time - smaller.time);
      if (loss < least) [chosen, least] = [i, loss];
    }
    const [larger, smaller] = [kinds[chosen]!, kinds[chosen + 1]!];
    const count = larger.count + smaller.count;
    kinds.splice(chosen, 2, { time: smaller.time, host: Math.min(larger.host, smaller.host), count });
  }
  return kinds;
}
