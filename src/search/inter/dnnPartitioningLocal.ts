import type { Budget } from "./dnnPartitioningBudget.js";
import { Loads } from "./dnnPartitioningLoads.js";
import { mergeBlocks, type PlacementProblem } from "./dnnPartitioningProblem.js";
import { randomOf } from "./random.js";

const coarseLevels = 6;
/** Swaps that a descent tries before it gives up on a bottleneck. */
const maximumSwaps = 200_000;
/** Net costs at which a descent tells clusters apart. */
const clusterLevels = 12;

/**
 * Good placements, contiguous or not: descent from a start on every level of a hierarchy that ties blocks
 * by their costliest nets, then kicks of the best one. The same problem gives the same placement unless the
 * budget ends first.
 */
export async function localSearch(
  problem: PlacementProblem,
  starts: ArrayLike<number>[],
  kicks: number,
  budget: Budget,
  onBetter: (deviceOf: Int32Array, load: number) => void,
  enough: (load: number) => boolean,
): Promise<void> {
  const random = randomOf(1);
  const thresholds = clusterThresholds(problem);
  const over = () => budget.over();
  let best: Int32Array | undefined;
  let least = Number.POSITIVE_INFINITY;
  const offer = (deviceOf: Int32Array, load: number) => {
    if (!(load < least)) return;
    best = deviceOf.slice();
    least = load;
    onBetter(best, load);
  };
  for (const start of starts) {
    const loads = new Loads(problem, start);
    descend(loads, thresholds, over);
    offer(loads.deviceOf, loads.objective());
    if ((await budget.breathe()) || enough(least)) return;
  }
  for (const groups of hierarchy(problem)) {
    const coarse = mergeBlocks(problem, groups);
    const loads = new Loads(coarse, largestFirst(coarse));
    descend(loads, clusterThresholds(coarse), over);
    const home = new Map(
      coarse.blocks.flatMap((nodes, block) => nodes.map((node) => [node, block] as const)),
    );
    const fine = new Loads(
      problem,
      problem.blocks.map((nodes) => loads.deviceOf[home.get(nodes[0]!)!]!),
    );
    descend(fine, thresholds, over);
    offer(fine.deviceOf, fine.objective());
    if ((await budget.breathe()) || enough(least)) return;
  }
  for (let kick = 0; kick < kicks && best; kick++) {
    const loads = new Loads(problem, best);
    const blocks = 2 + random(4);
    for (let i = 0; i < blocks; i++) {
      const block = random(problem.blocks.length);
      const device = random(loads.count);
      if (Number.isFinite(loads.withBlock(block, device))) loads.move(block, device);
    }
    descend(loads, thresholds, over);
    offer(loads.deviceOf, loads.objective());
    if ((await budget.breathe()) || enough(least)) return;
  }
}

/**
 * Moves of the bottleneck's blocks, alone or with those that costly nets tie to them, and swaps, as long as
 * they lower the larger of the two loads they change.
 */
function descend(loads: Loads, thresholds: number[], over: () => boolean): void {
  while (!over() && (moveOne(loads) || moveCluster(loads, thresholds) || swapTwo(loads)));
}

/** Costs of nets that tell clusters apart, highest first. */
function clusterThresholds({ nets }: PlacementProblem): number[] {
  const costs = [...new Set(nets.map(({ cost }) => cost))].sort((a, b) => b - a);
  const step = Math.max(1, costs.length / clusterLevels);
  return Array.from(
    { length: Math.min(clusterLevels, costs.length) },
    (_, i) => costs[Math.floor(i * step)]!,
  );
}

/** Moves a cluster of the bottleneck: its blocks that nets of at least a threshold connect. */
function moveCluster(loads: Loads, thresholds: number[]): boolean {
  const from = bottleneck(loads);
  const { nets, netsOf, devices, memoryBytes } = loads.problem;
  const target = loads.load[from]! * (1 - 1e-12);
  const own = [...loads.deviceOf.keys()].filter((block) => loads.deviceOf[block] === from);
  let least = target;
  let best: { cluster: number[]; to: number } | undefined;
  for (const threshold of thresholds) {
    const seen = new Set<number>();
    for (const seed of own) {
      if (seen.has(seed)) continue;
      const cluster = [seed];
      seen.add(seed);
      for (const block of cluster) {
        for (const net of netsOf[block]!) {
          if (nets[net]!.cost < threshold) continue;
          for (const other of nets[net]!.members) {
            if (loads.deviceOf[other] !== from || seen.has(other)) continue;
            seen.add(other);
            cluster.push(other);
          }
        }
      }
      if (cluster.length === 1 || cluster.length === own.length) continue;
      for (let to = 0; to < loads.count; to++) {
        if (to === from || cluster.some((block) => !Number.isFinite(loads.time(block, to)))) continue;
        for (const block of cluster) loads.move(block, to);
        const fits = to >= devices || loads.bytes[to]! <= memoryBytes;
        const load = Math.max(loads.load[from]!, loads.load[to]!);
        if (fits && load < least) [least, best] = [load, { cluster, to }];
        for (const block of cluster) loads.move(block, from);
      }
    }
  }
  if (best) for (const block of best.cluster) loads.move(block, best.to);
  return best !== undefined;
}

function bottleneck(loads: Loads): number {
  let most = 0;
  for (let device = 1; device < loads.count; device++) {
    if (loads.load[device]! > loads.load[most]!) most = device;
  }
  return most;
}

function moveOne(loads: Loads): boolean {
  const from = bottleneck(loads);
  let best = loads.load[from]! * (1 - 1e-12);
  let move: [number, number] | undefined;
  for (let block = 0; block < loads.deviceOf.length; block++) {
    if (loads.deviceOf[block] !== from) continue;
    const left = loads.without(block);
    if (left >= best) continue;
    for (let to = 0; to < loads.count; to++) {
      if (to === from) continue;
      const load = Math.max(left, loads.withBlock(block, to));
      if (load < best) [best, move] = [load, [block, to]];
    }
  }
  if (move) loads.move(...move);
  return move !== undefined;
}

function swapTwo(loads: Loads): boolean {
  const from = bottleneck(loads);
  const { memoryBytes, devices } = loads.problem;
  const target = loads.load[from]! * (1 - 1e-12);
  const fits = (device: number) => device >= devices || loads.bytes[device]! <= memoryBytes;
  let tries = 0;
  for (let block = 0; block < loads.deviceOf.length; block++) {
    if (loads.deviceOf[block] !== from) continue;
    for (let other = 0; other < loads.deviceOf.length; other++) {
      const to = loads.deviceOf[other]!;
      if (to === from) continue;
      if (!Number.isFinite(loads.time(block, to) + loads.time(other, from))) continue;
      if (++tries > maximumSwaps) return false;
      // Communication aside, a swap that makes either side slower cannot help enough to be tried.
      const change = loads.time(block, from) - loads.time(other, from);
      if (change < 0 && loads.problem.netsOf[block]!.length + loads.problem.netsOf[other]!.length === 0)
        continue;
      loads.move(block, to);
      loads.move(other, from);
      if (loads.load[from]! < target && loads.load[to]! < target && fits(from) && fits(to)) return true;
      loads.move(other, to);
      loads.move(block, from);
    }
  }
  return false;
}

/** Groups of blocks, coarsest first: nets tie their blocks, costliest nets first, up to a share of a device. */
function hierarchy(problem: PlacementProblem): Int32Array[] {
  const { blocks, nets, acceleratorMs, devices } = problem;
  const order = [...nets.keys()].sort((a, b) => nets[b]!.cost - nets[a]!.cost || a - b);
  const total = acceleratorMs.reduce((sum, time) => sum + (Number.isFinite(time) ? time : 0), 0);
  const levels: Int32Array[] = [];
  for (let level = 0; level < coarseLevels; level++) {
    const most = total / Math.max(1, devices) / 2 ** level;
    const parent = Int32Array.from(blocks.keys());
    const time = Float64Array.from(acceleratorMs);
    const find = (block: number) => {
      while (parent[block] !== block) block = parent[block] = parent[parent[block]!]!;
      return block;
    };
    for (const net of order) {
      const [first, ...rest] = nets[net]!.members;
      for (const member of rest) {
        const [a, b] = [find(first!), find(member)];
        if (a === b || time[a]! + time[b]! > most) continue;
        parent[Math.max(a, b)] = Math.min(a, b);
        time[Math.min(a, b)] = time[a]! + time[b]!;
      }
    }
    levels.push(parent.map((_, block) => find(block)));
  }
  levels.push(Int32Array.from(blocks.keys()));
  return levels;
}

/** Longest processing time first: each block goes where the load ends up least. */
function largestFirst(problem: PlacementProblem): Int32Array {
  const { blocks, acceleratorMs, processorMs, bytes, memoryBytes, devices, processors } = problem;
  const count = devices + processors;
  const deviceOf = new Int32Array(blocks.length);
  const load = new Float64Array(count);
  const held = new Float64Array(count);
  const size = (block: number) =>
    (Number.isFinite(acceleratorMs[block]!) ? acceleratorMs[block]! : 1e9) +
    (memoryBytes < Number.POSITIVE_INFINITY ? bytes[block]! / memoryBytes : 0);
  for (const block of [...blocks.keys()].sort((a, b) => size(b) - size(a) || a - b)) {
    let chosen = devices < count ? devices : 0;
    let least = Number.POSITIVE_INFINITY;
    for (let device = 0; device < count; device++) {
      const after = load[device]! + (device < devices ? acceleratorMs : processorMs)[block]!;
      if (device < devices && held[device]! + bytes[block]! > memoryBytes) continue;
      if (after < least) [chosen, least] = [device, after];
    }
    deviceOf[block] = chosen;
    load[chosen] = Number.isFinite(least) ? least : load[chosen]!;
    held[chosen]! += bytes[block]!;
  }
  return deviceOf;
}
