import type { Model } from "../contracts/index.js";
import type { LayerField, PricedLayer } from "./pricedLayer.js";

/** Which of a model's blocks are equal; all chains of the model share it. */
export interface BlockPattern {
  /** How many blocks there are. */
  length: number;
  /** Kind of each block, counted from 0 in the order of their first appearance. */
  kinds: Int32Array;
  /** How many kinds there are. */
  kindCount: number;
  /** By kind: how many of the first i blocks are of it, for every i. */
  counts: Int32Array[];
}

const patterns = new WeakMap<Model, BlockPattern>();

/** The pattern of a model's blocks. */
export function patternOf(model: Model): BlockPattern {
  const known = patterns.get(model);
  if (known) return known;
  const blocks = model.layers.filter((layer) => layer.kind === "block");
  const numbers = new Map<string, number>();
  const kinds = Int32Array.from(blocks, ({ block }) => {
    const number = numbers.get(block) ?? numbers.size;
    numbers.set(block, number);
    return number;
  });
  const counts = Array.from({ length: numbers.size }, () => new Int32Array(blocks.length + 1));
  for (const [i, kind] of kinds.entries()) {
    for (const [k, count] of counts.entries()) count[i + 1] = count[i]! + (k === kind ? 1 : 0);
  }
  const pattern = { length: blocks.length, kinds, kindCount: numbers.size, counts };
  patterns.set(model, pattern);
  return pattern;
}

/** With more kinds of blocks than this, sums over the first i blocks are cheaper than counts of each kind. */
const mostCountedKinds = 6;

/** Sums of one field over ranges of blocks. */
export interface BlockSum {
  /** Sum over blocks [start, end). */
  range(start: number, end: number): number;
}

/** Sums of the fields of blocks over any range, in constant time. */
export class BlockSums {
  readonly #pattern: BlockPattern;
  readonly #kinds: readonly PricedLayer[];
  readonly #sums = new Map<LayerField, BlockSum>();

  /** @param kinds the block of each kind of the pattern. */
  constructor(pattern: BlockPattern, kinds: readonly PricedLayer[]) {
    this.#pattern = pattern;
    this.#kinds = kinds;
  }

  of(field: LayerField): BlockSum {
    let sum = this.#sums.get(field);
    if (!sum) {
      const values = new Float64Array(this.#kinds.length);
      for (let k = 0; k < values.length; k++) values[k] = this.#kinds[k]![field];
      const counted = this.#pattern.kindCount <= mostCountedKinds;
      sum = counted ? new CountedSum(values, this.#pattern.counts) : new PrefixSum(values, this.#pattern);
      this.#sums.set(field, sum);
    }
    return sum;
  }
}

class CountedSum implements BlockSum {
  readonly #values: Float64Array;
  readonly #counts: readonly Int32Array[];

  constructor(values: Float64Array, counts: readonly Int32Array[]) {
    this.#values = values;
    this.#counts = counts;
  }

  range(start: number, end: number): number {
    let sum = 0;
    for (let k = 0; k < this.#values.length; k++) {
      const counts = this.#counts[k]!;
      sum += (counts[end]! - counts[start]!) * this.#values[k]!;
    }
    return sum;
  }
}

class PrefixSum implements BlockSum {
  readonly #sums: Float64Array;

  constructor(values: Float64Array, { kinds, length }: BlockPattern) {
    this.#sums = new Float64Array(length + 1);
    for (let i = 0; i < length; i++) this.#sums[i + 1] = this.#sums[i]! + values[kinds[i]!]!;
  }

  range(start: number, end: number): number {
    return this.#sums[end]! - this.#sums[start]!;
  }
}
