import { splitmix32 } from "./random.js";

/** No way to an ideal is known. */
const unreached = 0x7fffffff;

/**
 * Sets of positions 0 to size - 1, each with a number, and for each count of processors the fewest
 * accelerators with which it is reached and the set it is reached from. One set is being edited at a time.
 */
export class IdealTable {
  count = 0;
  readonly #words: number;
  readonly #keys: Int32Array;
  readonly #current: Int32Array;
  #hash = 0;
  #members = 0;
  #sets: Int32Array;
  #hashes: Int32Array;
  #sizes: Int32Array;
  /** Fewest accelerators, and origin (number << 1 | by a processor), per set and count of processors. */
  #fewest: Int32Array;
  #origins: Int32Array;
  #slots: Int32Array;

  constructor(
    readonly size: number,
    /** Processor counts that are told apart. */
    readonly columns: number,
  ) {
    this.#words = Math.max(1, (size + 31) >> 5);
    this.#current = new Int32Array(this.#words);
    // Zobrist keys from splitmix32: a set's hash is the exclusive or of its members' keys.
    this.#keys = Int32Array.from({ length: size }, splitmix32(1));
    const room = 1 << 10;
    this.#sets = new Int32Array(room * this.#words);
    this.#hashes = new Int32Array(room);
    this.#sizes = new Int32Array(room);
    this.#fewest = new Int32Array(room * columns).fill(unreached);
    this.#origins = new Int32Array(room * columns);
    this.#slots = new Int32Array(4 * room).fill(-1);
  }

  /** Edits a copy of a known set. */
  edit(set: number): void {
    this.#current.set(this.#sets.subarray(set * this.#words, (set + 1) * this.#words));
    this.#hash = this.#hashes[set]!;
    this.#members = this.#sizes[set]!;
  }

  add(at: number): void {
    this.#flip(at);
    this.#members++;
  }

  remove(at: number): void {
    this.#flip(at);
    this.#members--;
  }

  #flip(at: number): void {
    this.#current[at >> 5]! ^= 1 << (at & 31);
    this.#hash ^= this.#keys[at]!;
  }

  /** Whether the edited set holds everything. */
  full(): boolean {
    return this.#members === this.size;
  }

  /** Writes 1 for members and 0 for the others. */
  read(set: number, held: Uint8Array): void {
    const start = set * this.#words;
    for (let at = 0; at < this.size; at++) held[at] = (this.#sets[start + (at >> 5)]! >>> (at & 31)) & 1;
  }

  /** Number of the edited set, -1 where it is not known. */
  find(): number {
    const slot = this.#slot();
    return this.#slots[slot]!;
  }

  #slot(): number {
    const mask = this.#slots.length - 1;
    for (let slot = (this.#hash ^ (this.#hash >>> 15)) & mask; ; slot = (slot + 1) & mask) {
      const set = this.#slots[slot]!;
      if (set < 0 || (this.#hashes[set] === this.#hash && this.#same(set))) return slot;
    }
  }

  #same(set: number): boolean {
    const start = set * this.#words;
    for (let word = 0; word < this.#words; word++) {
      if (this.#sets[start + word] !== this.#current[word]) return false;
    }
    return true;
  }

  /**
   * Notes that the edited set is reached with so many devices from another set (-1: from nothing). Its number,
   * or -1 where as few are known to reach it.
   */
  reach(accelerators: number, processors: number, from: number, byProcessor: boolean): number {
    const slot = this.#slot();
    let set = this.#slots[slot]!;
    if (set < 0) {
      set = this.count;
      this.#slots[slot] = set;
      this.#insert();
    } else if (this.reached(set, accelerators, processors)) {
      return -1;
    }
    this.#fewest[set * this.columns + processors] = accelerators;
    this.#origins[set * this.columns + processors] = (from << 1) | (byProcessor ? 1 : 0);
    return set;
  }

  #insert(): void {
    const set = this.count++;
    if (set >= this.#hashes.length) this.#grow();
    this.#sets.set(this.#current, set * this.#words);
    this.#hashes[set] = this.#hash;
    this.#sizes[set] = this.#members;
  }

  #grow(): void {
    const larger = (list: Int32Array, fill = 0) => {
      const copy = new Int32Array(2 * list.length).fill(fill, list.length);
      copy.set(list);
      return copy;
    };
    this.#sets = larger(this.#sets);
    this.#hashes = larger(this.#hashes);
    this.#sizes = larger(this.#sizes);
    this.#fewest = larger(this.#fewest, unreached);
    this.#origins = larger(this.#origins);
    const old = this.#slots;
    this.#slots = new Int32Array(2 * old.length).fill(-1);
    const mask = this.#slots.length - 1;
    for (const set of old) {
      if (set < 0) continue;
      // The set that is being inserted has no hash yet: it is the edited one.
      const hash = set === this.count - 1 ? this.#hash : this.#hashes[set]!;
      let slot = (hash ^ (hash >>> 15)) & mask;
      while (this.#slots[slot]! >= 0) slot = (slot + 1) & mask;
      this.#slots[slot] = set;
    }
  }

  /** Whether a set is reached with at most so many of both kinds of device. */
  reached(set: number, accelerators: number, processors: number): boolean {
    for (let p = 0; p <= processors; p++) {
      if (this.#fewest[set * this.columns + p]! <= accelerators) return true;
    }
    return false;
  }

  /** Whether a set is reached with fewer devices of one kind and no more of the other. */
  reachedWithFewer(set: number, accelerators: number, processors: number): boolean {
    return (
      (processors > 0 && this.reached(set, accelerators, processors - 1)) ||
      this.reached(set, accelerators - 1, processors)
    );
  }

  /** The sets on the way to one, itself first and the empty one last, and the kind of device of each step. */
  trace(set: number, processors: number): { sets: number[]; byProcessor: boolean[] } {
    const sets = [set];
    const byProcessor: boolean[] = [];
    for (let at = set, p = processors; ; ) {
      const origin = this.#origins[at * this.columns + p]!;
      if (origin < 0) return { sets, byProcessor };
      byProcessor.push((origin & 1) === 1);
      if (origin & 1) p--;
      at = origin >> 1;
      sets.push(at);
    }
  }
}
