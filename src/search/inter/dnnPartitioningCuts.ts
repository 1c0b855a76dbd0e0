import type { Placed } from "./dnnPartitioningIdeals.js";
import { blockOrder } from "./dnnPartitioningIdeals.js";
import type { PlacementProblem } from "./dnnPartitioningProblem.js";

/**
 * Best cut of one order of the blocks into stages, at most one a device, by dynamic programming:
 * best(j, k, p) = min over i of max(best(i, without the last device), load of blocks i to j). Undefined where
 * no cut loads every device with less than `ceiling`, and where `over` ends the work.
 */
export function cutOrder(
  problem: PlacementProblem,
  order: number[],
  ceiling: number,
  over: () => boolean = () => false,
): { load: number; stages: Placed[] } | undefined {
  const { devices, processors, nets, netsOf, acceleratorMs, processorMs, bytes, memoryBytes } = problem;
  const size = order.length;
  const columns = processors + 1;
  const width = (Math.min(devices, size) + 1) * columns;
  const best = new Float64Array((size + 1) * width).fill(Number.POSITIVE_INFINITY);
  const origin = new Int32Array(best.length).fill(-1);
  best[0] = 0;
  const heldOfNet = new Int32Array(nets.length);
  const grownOfNet = new Int32Array(nets.length);
  const offer = (target: number, load: number, from: number, known: number) => {
    const value = Math.max(best[from]!, load);
    if (value >= best[target]! || value >= ceiling) return;
    best[target] = value;
    origin[target] = known;
  };
  for (let start = 0; start < size; start++) {
    if (over()) return undefined;
    const open = best.subarray(start * width, (start + 1) * width).some((value) => value < ceiling);
    let [time, host, cut, loose, held] = [0, 0, 0, 0, 0];
    for (let end = start; end < size && open; end++) {
      const block = order[end]!;
      time += acceleratorMs[block]!;
      host += processorMs[block]!;
      held += bytes[block]!;
      for (const net of netsOf[block]!) {
        const { cost, members } = nets[net]!;
        const grown = grownOfNet[net]!++;
        if (heldOfNet[net]! > 0) cut += grown === 0 ? cost : 0;
        else if (grown === 0) loose += cost;
        else if (grown + 1 === members.length) loose -= cost;
      }
      const onAccelerator = time + cut < ceiling && held <= memoryBytes;
      const onProcessor = processors > 0 && host < ceiling;
      if (!onAccelerator && !onProcessor) {
        for (let back = start; back <= end; back++)
          for (const net of netsOf[order[back]!]!) grownOfNet[net] = 0;
        break;
      }
      for (let from = 0; from < width; from++) {
        const state = start * width + from;
        if (best[state]! >= ceiling) continue;
        const target = (end + 1) * width + from;
        if (onAccelerator && from + columns < width) {
          offer(target + columns, time + cut + loose, state, state * 2);
        }
        if (onProcessor && (from % columns) + 1 < columns) offer(target + 1, host, state, state * 2 + 1);
      }
    }
    grownOfNet.fill(0);
    for (const net of netsOf[order[start]!]!) heldOfNet[net]!++;
  }
  let last = size * width;
  for (let state = last + 1; state < best.length; state++) if (best[state]! < best[last]!) last = state;
  const load = best[last]!;
  if (!(load < ceiling)) return undefined;
  const stages: Placed[] = [];
  for (let state = last; state !== 0; ) {
    const from = origin[state]! >> 1;
    const [start, end] = [Math.floor(from / width), Math.floor(state / width)];
    stages.unshift({ blocks: order.slice(start, end), processor: (origin[state]! & 1) === 1 });
    state = from;
  }
  return { load, stages };
}

/**
 * Orders of the blocks that are likely to cut well: by number, depth first from either end, and the one that
 * keeps the nets between what is placed and what is not as cheap as it can, block by block.
 */
export function linearOrders(problem: PlacementProblem): number[][] {
  const { before, after } = problem;
  const depthFirst = walk(problem, before, after, (ready) => ready.length - 1);
  const backwards = walk(problem, after, before, (ready) => ready.length - 1).reverse();
  return [blockOrder(problem), depthFirst, backwards, cheapestFirst(problem)];
}

function walk(
  problem: PlacementProblem,
  before: number[][],
  after: number[][],
  choose: (ready: number[]) => number,
): number[] {
  const missing = before.map((list) => list.length);
  const ready = [...problem.blocks.keys()].filter((block) => missing[block] === 0);
  const order: number[] = [];
  while (ready.length > 0) {
    const block = ready.splice(choose(ready), 1)[0]!;
    order.push(block);
    for (const next of after[block]!) if (--missing[next]! === 0) ready.push(next);
  }
  return order;
}

function cheapestFirst(problem: PlacementProblem): number[] {
  const { nets, netsOf, before, after } = problem;
  const placed = new Int32Array(nets.length);
  return walk(problem, before, after, (ready) => {
    let best = ready.length - 1;
    let least = Number.POSITIVE_INFINITY;
    for (let i = ready.length - 1; i >= 0; i--) {
      let change = 0;
      for (const net of netsOf[ready[i]!]!) {
        const { cost, members } = nets[net]!;
        if (placed[net] === 0) change += cost;
        if (placed[net] === members.length - 1) change -= cost;
      }
      if (change < least) [best, least] = [i, change];
    }
    for (const net of netsOf[ready[best]!]!) placed[net]!++;
    return best;
  });
}
