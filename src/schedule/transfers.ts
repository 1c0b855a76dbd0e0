import type { ScheduleTable } from "./actions.js";
import { routesOf, type StageLinks } from "./routes.js";

/**
 * All transfers between ranks. A connection is one direction between two ranks; it moves one transfer at a
 * time, in the order in which the sending rank hands them over, and where the table has receives, waits for the
 * one that belongs to its next transfer: NCCL's sends and receives between two ranks match in order.
 */
export interface Transfers {
  readonly length: number;
  /** Position of the action whose end hands it over: the producer, or the send. */
  readonly producer: Int32Array;
  /** Position of the receive, -1 where the table leaves it to the runtime. */
  readonly posted: Int32Array;
  readonly boundary: Int32Array;
  /** 0 for an activation, 1 for a gradient. */
  readonly gradient: Uint8Array;
  readonly connection: Int32Array;
  /** Transfer before on the same connection, -1 for the first. */
  readonly previous: Int32Array;
  /** Transfer behind on the same connection, -1 for the last. */
  readonly next: Int32Array;
  /** Position after which all that the transfer waits for is in order; ascending. */
  readonly after: Int32Array;
  /** By connection. */
  readonly sourceRank: Int32Array;
  readonly targetRank: Int32Array;
}

/** An edge of the pipeline: activations go from stage `from` to stage `to`, gradients back. */
export interface Boundary {
  from: number;
  to: number;
}

/** Boundaries along all routes, in order; entry i joins stages i and i + 1 where there is one route. */
export function boundariesOf(table: ScheduleTable): Boundary[] {
  return routesOf(table).flatMap(({ stages }) => stages.slice(1).map((to, i) => ({ from: stages[i]!, to })));
}

/**
 * Puts transfers in order while a schedule is compiled. A transfer's key is that of the action that needs it:
 * (direction x stages + stage) x microBatches + microBatch, direction 0 for activations.
 */
export class TransferOrder {
  readonly #microBatches: number;
  readonly #needsReceive: boolean;
  /** By direction and stage: the way of its input; -1 where it comes from the same rank or nowhere. */
  readonly #connectionOf: Int32Array;
  readonly #boundaryOf: Int32Array;
  readonly #sourceRank: number[] = [];
  readonly #targetRank: number[] = [];
  /** By key. */
  readonly #producer: Int32Array;
  readonly #receive: Int32Array;
  readonly #behind: Int32Array;
  readonly #index: Int32Array;
  /** By connection: keys that have been sent but not delivered, and the last one delivered. */
  readonly #head: Int32Array;
  readonly #tail: Int32Array;
  readonly #last: Int32Array;
  /** By transfer. */
  readonly #key: Int32Array;
  readonly #previous: Int32Array;
  readonly #next: Int32Array;
  readonly #after: Int32Array;
  #length = 0;

  /** @param needsReceive the table has sends and receives. */
  constructor(table: ScheduleTable, { rank }: StageLinks, needsReceive: boolean) {
    const { stages, microBatches } = table;
    this.#microBatches = microBatches;
    this.#needsReceive = needsReceive;
    this.#connectionOf = new Int32Array(2 * stages).fill(-1);
    this.#boundaryOf = new Int32Array(2 * stages).fill(-1);
    const indices = new Map<number, number>();
    boundariesOf(table).forEach(({ from, to }, boundary) => {
      for (const [row, source, target] of [
        [to, from, to],
        [stages + from, to, from],
      ] as const) {
        if (rank[source] === rank[target]) continue;
        const ends = rank[source]! * table.ranks.length + rank[target]!;
        if (!indices.has(ends)) {
          indices.set(ends, indices.size);
          this.#sourceRank.push(rank[source]!);
          this.#targetRank.push(rank[target]!);
        }
        this.#connectionOf[row] = indices.get(ends)!;
        this.#boundaryOf[row] = boundary;
      }
    });
    const keys = 2 * stages * microBatches;
    const none = (length: number) => new Int32Array(length).fill(-1);
    [this.#producer, this.#receive, this.#behind] = [none(keys), none(keys), none(keys)];
    [this.#index, this.#key, this.#previous] = [none(keys), none(keys), none(keys)];
    [this.#next, this.#after] = [none(keys), none(keys)];
    [this.#head, this.#tail, this.#last] = [none(indices.size), none(indices.size), none(indices.size)];
  }

  send(key: number, producer: number): void {
    const connection = this.#connection(key);
    this.#producer[key] = producer;
    if (this.#head[connection] === -1) this.#head[connection] = key;
    else this.#behind[this.#tail[connection]!] = key;
    this.#tail[connection] = key;
  }

  receive(key: number, position: number): void {
    this.#receive[key] = position;
  }

  /** Hands over what can go now on a transfer's connection; true where there was any. */
  deliver(key: number): boolean {
    const connection = this.#connection(key);
    const before = this.#length;
    for (;;) {
      const head = this.#head[connection]!;
      if (head === -1 || (this.#needsReceive && this.#receive[head] === -1)) break;
      this.#head[connection] = this.#behind[head]!;
      const last = this.#last[connection]!;
      const index = this.#length++;
      this.#key[index] = head;
      this.#previous[index] = last;
      if (last !== -1) this.#next[last] = index;
      const ready = last === -1 ? -1 : this.#after[last]!;
      this.#after[index] = Math.max(this.#producer[head]!, this.#receive[head]!, ready);
      this.#last[connection] = index;
      this.#index[head] = index;
    }
    return this.#length > before;
  }

  isDelivered(key: number): boolean {
    return this.#index[key] !== -1;
  }

  indexOf(key: number): number {
    return this.#index[key]!;
  }

  producerOf(key: number): number {
    return this.#producer[key]!;
  }

  receiveOf(key: number): number {
    return this.#receive[key]!;
  }

  boundaryOf(key: number): number {
    return this.#boundaryOf[Math.floor(key / this.#microBatches)]!;
  }

  result(): Transfers {
    const keys = this.#key.subarray(0, this.#length);
    const stages = this.#connectionOf.length / 2;
    return {
      length: this.#length,
      producer: Int32Array.from(keys, (key) => this.#producer[key]!),
      posted: Int32Array.from(keys, (key) => this.#receive[key]!),
      boundary: Int32Array.from(keys, (key) => this.boundaryOf(key)),
      gradient: Uint8Array.from(keys, (key) => (key >= stages * this.#microBatches ? 1 : 0)),
      connection: Int32Array.from(keys, (key) => this.#connection(key)),
      previous: this.#previous.slice(0, this.#length),
      next: this.#next.slice(0, this.#length),
      after: this.#after.slice(0, this.#length),
      sourceRank: Int32Array.from(this.#sourceRank),
      targetRank: Int32Array.from(this.#targetRank),
    };
  }

  #connection(key: number): number {
    return this.#connectionOf[Math.floor(key / this.#microBatches)]!;
  }
}
