import { separationCost } from "./dnnPartitioningFlow.js";
import type { PlacementProblem } from "./dnnPartitioningProblem.js";

/** Rounding that a bound gives away. */
const margin = 1e-12;
/** Blocks whose cheapest surroundings are looked for. */
const maximumCuts = 64;
/** Pairs of a state and a part of it that the packing goes through for each device. */
const maximumPairs = 500_000;
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
 * Best maximum load of packing the blocks on the devices with all communication left out, for times rounded
 * down to so few kinds that dynamic programming over the numbers of each kind is short:
 * f(k, s) = min over parts q of s of max(load of q, f(k - 1, s - q)).
 */
export function packingBound(problem: PlacementProblem): number {
  const kinds = kindsOf(problem);
  if (kinds.length === 0) return 0;
  const { devices, processors } = problem;
  const strides: number[] = [];
  let states = 1;
  for (const { count } of kinds) {
    strides.push(states);
    states *= count + 1;
  }
  const loads = (of: (kind: Kind) => number) => {
    const list = new Float64Array(states);
    for (let state = 1; state < states; state++) {
      let sum = 0;
      for (const [i, kind] of kinds.entries()) {
        const number = Math.floor(state / strides[i]!) % (kind.count + 1);
        if (number > 0) sum += number * of(kind);
      }
      list[state] = sum;
    }
    return list;
  };
  const accelerator = loads(({ time }) => time);
  const processor = loads(({ host }) => host);
  let best = new Float64Array(states).fill(Number.POSITIVE_INFINITY);
  best[0] = 0;
  for (let device = 0; device < devices + processors; device++) {
    const load = device < devices ? accelerator : processor;
    const next = best.slice();
    const last = device === devices + processors - 1;
    // Only the full state matters on the last device.
    for (let state = last ? states - 1 : 1; state < states; state++) {
      let least = next[state]!;
      const part = (i: number, taken: number) => {
        if (load[taken]! >= least) return;
        if (i < 0) {
          least =
            Math.max(load[taken]!, best[state - taken]!) < least
              ? Math.max(load[taken]!, best[state - taken]!)
              : least;
          return;
        }
        const available = Math.floor(state / strides[i]!) % (kinds[i]!.count + 1);
        for (let number = 0; number <= available; number++) part(i - 1, taken + number * strides[i]!);
      };
      part(kinds.length - 1, 0);
      next[state] = least;
    }
    best = next;
  }
  const bound = best[states - 1]!;
  return Number.isFinite(bound) ? bound * (1 - margin) : 0;
}

/** Blocks by time, neighbours rounded down to one kind where that loses least, until the packing is short. */
function kindsOf({ acceleratorMs, processorMs, devices, processors }: PlacementProblem): Kind[] {
  const finite = [...acceleratorMs].filter(Number.isFinite);
  const even = finite.reduce((sum, time) => sum + time, 0) / Math.max(1, devices + processors);
  const kinds = [...acceleratorMs.keys()]
    .filter((block) => Number.isFinite(acceleratorMs[block]!) && acceleratorMs[block]! > smallestShare * even)
    .map((block): Kind => ({ time: acceleratorMs[block]!, host: processorMs[block]!, count: 1 }))
    .sort((a, b) => b.time - a.time || b.host - a.host);
  const pairs = () => kinds.reduce((all, { count }) => (all * (count + 1) * (count + 2)) / 2, 1);
  while (kinds.length > 1 && pairs() > maximumPairs) {
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
