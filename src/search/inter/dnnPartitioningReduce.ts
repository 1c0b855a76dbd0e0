import { separationCost } from "./dnnPartitioningFlow.js";
import { mergeBlocks, type PlacementProblem } from "./dnnPartitioningProblem.js";

/** Pairs for which a minimum cut is worth its time, in each pass. */
const maximumPairs = 4000;

/**
 * Merges blocks that share a device in some best placement, as long as one has a maximum load below
 * `ceiling`; what is left has a placement below the ceiling exactly where the problem has one, with the same
 * best load. Repeats until nothing merges or `over` ends the work; `probe` adds what minimum cuts tell.
 */
export function reduceProblem(
  problem: PlacementProblem,
  ceiling: number,
  probe: boolean,
  over: () => boolean = () => false,
): PlacementProblem {
  let reduced = problem;
  for (;;) {
    const before = reduced.blocks.length;
    reduced = pass(reduced, (groups) => joinHeavyNets(reduced, ceiling, groups));
    reduced = pass(reduced, (groups) => joinDominated(reduced, ceiling, groups));
    if (reduced.blocks.length === before && probe) {
      reduced = pass(reduced, (groups) => joinInseparable(reduced, ceiling, groups, over));
    }
    if (reduced.blocks.length === before || over()) return reduced;
  }
}

function pass(problem: PlacementProblem, run: (groups: Groups) => void): PlacementProblem {
  const groups = new Groups(problem.blocks.length);
  run(groups);
  return groups.merged === 0 ? problem : mergeBlocks(problem, groups.list());
}

/** Union of sets of blocks. */
class Groups {
  merged = 0;
  readonly #parent: Int32Array;

  constructor(size: number) {
    this.#parent = Int32Array.from({ length: size }, (_, block) => block);
  }

  find(block: number): number {
    const parent = this.#parent;
    while (parent[block] !== block) {
      parent[block] = parent[parent[block]!]!;
      block = parent[block]!;
    }
    return block;
  }

  join(a: number, b: number): void {
    const [first, second] = [this.find(a), this.find(b)];
    if (first === second) return;
    this.#parent[Math.max(first, second)] = Math.min(first, second);
    this.merged++;
  }

  list(): Int32Array {
    return this.#parent.map((_, block) => this.find(block));
  }
}

/** A net that no device could pay for is not cut, so its blocks share a device. */
function joinHeavyNets(problem: PlacementProblem, ceiling: number, groups: Groups): void {
  const { nets, acceleratorMs, processorMs, processors } = problem;
  for (const { cost, members } of nets) {
    const onProcessor = (block: number) => processors > 0 && processorMs[block]! < ceiling;
    const onAccelerator = (block: number) => acceleratorMs[block]! + cost < ceiling;
    // Cut, it lies on two devices: with one processor, one of them is an accelerator that pays.
    const needsAccelerator = processors <= 1 || members.some((block) => !onProcessor(block));
    if (
      members.some((block) => !onProcessor(block) && !onAccelerator(block)) ||
      (needsAccelerator && !members.some(onAccelerator))
    ) {
      for (const block of members) groups.join(members[0]!, block);
    }
  }
}

/**
 * A block v may as well move to the device of a block w where the nets of v without w cost, with v's own
 * time, no more than the net {v, w}: both devices save that net, neither gains more than the rest, and nets
 * that hold w and others are paid by w's device anyway.
 */
function joinDominated(problem: PlacementProblem, ceiling: number, groups: Groups): void {
  const { blocks, nets, netsOf, acceleratorMs, processorMs, bytes, processors, memoryBytes } = problem;
  const stale = new Uint8Array(blocks.length);
  for (const [block, own] of netsOf.entries()) {
    if (stale[block] || (memoryBytes < Number.POSITIVE_INFINITY && bytes[block]! > 0)) continue;
    const order = [...problem.before[block]!, ...problem.after[block]!];
    const candidates = new Set([...own.flatMap((net) => nets[net]!.members), ...order]);
    if (candidates.size === 0) candidates.add(block === 0 ? 1 : 0);
    for (const other of candidates) {
      if (other === block || other >= blocks.length || stale[other]) continue;
      let saved = 0;
      let gained = acceleratorMs[block]!;
      for (const net of own) {
        const { cost, members } = nets[net]!;
        if (!members.includes(other)) gained += cost;
        else if (members.length === 2) saved += cost;
      }
      const slower = processors > 0 && processorMs[block]! > 0 && processorMs[other]! < ceiling;
      if (gained > saved || slower || !mayFollow(problem, block, other)) continue;
      groups.join(block, other);
      // The proof is for one move: what it touches waits for the merged problem.
      stale[block] = stale[other] = 1;
      for (const near of own) for (const member of nets[near]!.members) stale[member] = 1;
      break;
    }
  }
}

/** Whether a block may move to the stage of another from wherever the chain of stages lets it be. */
function mayFollow({ before, after }: PlacementProblem, block: number, other: number): boolean {
  const only = (list: number[]) => list.length === 1 && list[0] === other;
  return only(after[block]!) || only(before[block]!) || after[block]!.length + before[block]!.length === 0;
}

/** Two blocks of a net are inseparable where every set that holds one without the other loads too much. */
function joinInseparable(
  problem: PlacementProblem,
  ceiling: number,
  groups: Groups,
  over: () => boolean,
): void {
  const { nets, processorMs, processors } = problem;
  const needsAccelerator = (block: number) => processors === 0 || processorMs[block]! >= ceiling;
  let pairs = 0;
  for (const { members } of [...nets].sort((a, b) => b.cost - a.cost)) {
    for (let i = 0; i < members.length; i++) {
      for (let j = i + 1; j < members.length; j++) {
        const [a, b] = [members[i]!, members[j]!];
        if (groups.find(a) === groups.find(b)) continue;
        if (++pairs > maximumPairs || over()) return;
        if (
          (needsAccelerator(a) && separationCost(problem, a, b) >= ceiling) ||
          (needsAccelerator(b) && separationCost(problem, b, a) >= ceiling)
        ) {
          groups.join(a, b);
        }
      }
    }
  }
}
