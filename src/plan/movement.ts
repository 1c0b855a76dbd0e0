import type { Model, Plan } from "../contracts/index.js";
import {
  type Box,
  boxElements,
  commonBox,
  type StateLayout,
  stateLayout,
  stateParts,
} from "./stateLayout.js";

/** What one rank of the new plan needs of the training state, and where it comes from. */
export interface RankMovement {
  rank: number;
  /** The rank of the old plan whose device it has; undefined for a device that the old plan did not use. */
  formerRank: number | undefined;
  /** Parameters and optimizer state of the new plan. */
  neededBytes: number;
  /** Of those what its device holds already. */
  keptBytes: number;
  /** What ranks of the old plan send it, the most first. */
  from: { formerRank: number; bytes: number }[];
  /** What no device that is left holds. */
  checkpointBytes: number;
}

export interface Movement {
  ranks: RankMovement[];
  neededBytes: number;
  keptBytes: number;
  /** Between ranks; no way to move the state between these devices takes fewer bytes. */
  movedBytes: number;
  /** To be read from a checkpoint. */
  checkpointBytes: number;
}

/** A block of a parameter that is stored under the old plan, with the ranks that hold it and are left. */
class StoredBlock {
  readonly holders = new Set<number>();
  readonly #byNode = new Map<number, number[]>();
  readonly #all: number[] = [];

  constructor(readonly box: Box) {}

  add(rank: number, node: number): void {
    this.holders.add(rank);
    this.#all.push(rank);
    this.#byNode.set(node, [...(this.#byNode.get(node) ?? []), rank]);
  }

  /** One of the holders, on a node where there are such. */
  source(node: number | undefined, turn: number): number {
    const ranks = (node === undefined ? undefined : this.#byNode.get(node)) ?? this.#all;
    return ranks[turn % ranks.length]!;
  }
}

/** A parameter on one pipeline rank, whose blocks together are all of it; a tied one may lie on two. */
interface StoredCopy {
  pipelineRank: number;
  blocks: StoredBlock[];
}

/**
 * What must move so that the new plan's ranks have their parameters and optimizer states. Every device keeps what it
 * has; each byte that it lacks comes once, from a rank on its own node where one holds it. Holders take turns.
 * @param formerRanks the old plan's rank on the device of each new rank, or undefined.
 */
export function stateMovement(
  before: Plan,
  after: Plan,
  model: Model,
  formerRanks: readonly (number | undefined)[],
): Movement {
  const old = stateLayout(before, model);
  const next = stateLayout(after, model);
  const left = new Set(formerRanks.filter((rank) => rank !== undefined));
  const nodeOf = (rank: number) => Math.floor(rank / before.cluster.devicesPerNode);
  const stored = storedCopies(old, left, nodeOf);
  const pipelineRankOf = (rank: number | undefined) =>
    rank === undefined ? undefined : Math.floor(rank / old.width);
  let turns = 0;
  const ranks = after.rankTable.map((_, rank): RankMovement => {
    const formerRank = formerRanks[rank];
    const from = new Map<number, number>();
    const sums = { needed: 0, kept: 0, checkpoint: 0 };
    /** Takes a block from the copies of a parameter in turn, as far as each has it. */
    const take = (wanted: Box, bytesEach: number, [copy, ...others]: readonly StoredCopy[]): void => {
      if (!copy) {
        sums.checkpoint += bytesEach * boxElements(wanted);
        return;
      }
      for (const block of copy.blocks) {
        const common = commonBox(wanted, block.box);
        if (!common) continue;
        const bytes = bytesEach * boxElements(common);
        if (formerRank !== undefined && block.holders.has(formerRank)) sums.kept += bytes;
        else if (block.holders.size === 0) take(common, bytesEach, others);
        else {
          const source = block.source(formerRank === undefined ? undefined : nodeOf(formerRank), turns++);
          from.set(source, (from.get(source) ?? 0) + bytes);
        }
      }
    };
    for (const parameter of next.byPipelineRank[Math.floor(rank / next.width)]!) {
      for (const part of stateParts) {
        const bytesEach = next.bytesEach[part];
        const copies = stored.get(`${part}/${parameter.id}`) ?? [];
        const own = copies.filter(({ pipelineRank }) => pipelineRank === pipelineRankOf(formerRank));
        const inOrder = [...own, ...copies.filter((copy) => !own.includes(copy))];
        for (const wanted of parameter.boxes(part, rank % next.width)) {
          sums.needed += bytesEach * boxElements(wanted);
          take(wanted, bytesEach, inOrder);
        }
      }
    }
    return {
      rank,
      formerRank,
      neededBytes: sums.needed,
      keptBytes: sums.kept,
      from: [...from]
        .map(([source, bytes]) => ({ formerRank: source, bytes }))
        .sort((a, b) => b.bytes - a.bytes || a.formerRank - b.formerRank),
      checkpointBytes: sums.checkpoint,
    };
  });
  const sum = (of: (rank: RankMovement) => number) => ranks.reduce((total, rank) => total + of(rank), 0);
  return {
    ranks,
    neededBytes: sum(({ neededBytes }) => neededBytes),
    keptBytes: sum(({ keptBytes }) => keptBytes),
    movedBytes: sum(({ from }) => from.reduce((total, { bytes }) => total + bytes, 0)),
    checkpointBytes: sum(({ checkpointBytes }) => checkpointBytes),
  };
}

/** The copies of each parameter under the old plan, by part and id. */
function storedCopies(
  layout: StateLayout,
  left: ReadonlySet<number>,
  nodeOf: (rank: number) => number,
): Map<string, StoredCopy[]> {
  const found = new Map<string, StoredCopy[]>();
  for (const [pipelineRank, parameters] of layout.byPipelineRank.entries()) {
    for (const { id, boxes } of parameters) {
      for (const part of stateParts) {
        const blocks = new Map<string, StoredBlock>();
        for (let place = 0; place < layout.width; place++) {
          const rank = pipelineRank * layout.width + place;
          for (const box of boxes(part, place)) {
            const name = box.join();
            const block = blocks.get(name) ?? new StoredBlock(box);
            blocks.set(name, block);
            if (left.has(rank)) block.add(rank, nodeOf(rank));
          }
        }
        const key = `${part}/${id}`;
        found.set(key, [...(found.get(key) ?? []), { pipelineRank, blocks: [...blocks.values()] }]);
      }
    }
  }
  return found;
}
