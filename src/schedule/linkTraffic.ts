import type { CompiledSchedule } from "./compile.js";
import type { EventHeap } from "./eventHeap.js";
import type { Clock } from "./timeInOrder.js";
import type { FlatTimes } from "./times.js";

/** Transfers on their way, for `timeByEvents`; `Network` says how links are shared. */
export class LinkTraffic {
  readonly #schedule: CompiledSchedule;
  readonly #times: FlatTimes;
  readonly #clock: Clock;
  readonly #heap: EventHeap;
  readonly #firstConnection: number;
  readonly #firstArrival: number;
  /** By transfer: actions that still have to hand it over. */
  readonly #missing: Uint8Array;
  readonly #arrived: Uint8Array;
  /** By connection: its next transfer, and whether that one moves. */
  readonly #head: Int32Array;
  readonly #moves: Uint8Array;
  readonly #bytesLeft: Float64Array;
  readonly #bytesPerSecond: Float64Array;
  readonly #since: Float64Array;
  /** By link: connections that move something over it. */
  readonly #users: Int32Array;

  constructor(
    schedule: CompiledSchedule,
    times: FlatTimes,
    clock: Clock,
    heap: EventHeap,
    firstConnection: number,
    firstArrival: number,
  ) {
    const { transfers } = schedule;
    const connections = transfers.sourceRank.length;
    this.#schedule = schedule;
    this.#times = times;
    this.#clock = clock;
    this.#heap = heap;
    this.#firstConnection = firstConnection;
    this.#firstArrival = firstArrival;
    this.#missing = Uint8Array.from(transfers.posted, (position) => (position === -1 ? 1 : 2));
    this.#arrived = new Uint8Array(transfers.length);
    this.#head = new Int32Array(connections).fill(-1);
    for (let t = transfers.length - 1; t >= 0; t--) {
      if (transfers.previous[t] === -1) this.#head[transfers.connection[t]!] = t;
    }
    this.#moves = new Uint8Array(connections);
    this.#bytesLeft = new Float64Array(connections);
    this.#bytesPerSecond = new Float64Array(connections);
    this.#since = new Float64Array(connections);
    this.#users = new Int32Array(times.network?.bytesPerSecond.length ?? 0);
  }

  hasArrived(transfer: number): boolean {
    return this.#arrived[transfer] === 1;
  }

  /** One of the actions that a transfer waits for has come to it. */
  handOver(transfer: number, now: number): void {
    const missing = this.#missing[transfer]! - 1;
    this.#missing[transfer] = missing;
    if (missing > 0) return;
    if (this.#times.network) this.#tryStart(this.#schedule.transfers.connection[transfer]!, now);
    else {
      this.#clock.transferStarts[transfer] = now;
      this.#heap.set(this.#firstArrival + transfer, now + this.#times.delaySeconds[this.#wayOf(transfer)]!);
    }
  }

  /** The last byte of a connection's transfer has left. */
  finish(connection: number, now: number): void {
    const network = this.#times.network!;
    const transfer = this.#head[connection]!;
    const way = this.#wayOf(transfer);
    this.#moves[connection] = 0;
    this.#head[connection] = this.#schedule.transfers.next[transfer]!;
    this.#heap.set(this.#firstArrival + transfer, now + network.latencySeconds[way]!);
    if (network.bytes[way]! > 0) this.#use(way, -1, now);
    this.#tryStart(connection, now);
  }

  arrive(transfer: number, now: number): void {
    this.#clock.arrivals[transfer] = now;
    this.#arrived[transfer] = 1;
  }

  #wayOf(transfer: number): number {
    const { boundary, gradient } = this.#schedule.transfers;
    return 2 * boundary[transfer]! + gradient[transfer]!;
  }

  #tryStart(connection: number, now: number): void {
    const transfer = this.#head[connection]!;
    if (transfer === -1 || this.#moves[connection] || this.#missing[transfer]! > 0) return;
    const { bytes, linksOfWay } = this.#times.network!;
    const way = this.#wayOf(transfer);
    this.#clock.transferStarts[transfer] = now;
    this.#moves[connection] = 1;
    this.#bytesLeft[connection] = bytes[way]!;
    this.#bytesPerSecond[connection] = 0;
    this.#since[connection] = now;
    if (bytes[way] === 0 || linksOfWay[way]!.length === 0) {
      this.#bytesPerSecond[connection] = Number.POSITIVE_INFINITY;
      this.#heap.set(this.#firstConnection + connection, now);
    } else this.#use(way, 1, now);
  }

  /** One transfer more or less on the links of a way: everyone there gets a new share. */
  #use(way: number, change: number, now: number): void {
    const { linksOfWay, connectionsOfLink } = this.#times.network!;
    for (const link of linksOfWay[way]!) this.#users[link] = this.#users[link]! + change;
    for (const link of linksOfWay[way]!) {
      for (const connection of connectionsOfLink[link]!) {
        if (this.#moves[connection]) this.#pace(connection, now);
      }
    }
  }

  #pace(connection: number, now: number): void {
    const { bytesPerSecond, linksOfWay } = this.#times.network!;
    const old = this.#bytesPerSecond[connection]!;
    if (old === Number.POSITIVE_INFINITY) return;
    let share = Number.POSITIVE_INFINITY;
    for (const link of linksOfWay[this.#wayOf(this.#head[connection]!)]!) {
      const mine = bytesPerSecond[link]! / this.#users[link]!;
      if (mine < share) share = mine;
    }
    if (share === old) return;
    const left = this.#bytesLeft[connection]! - (now - this.#since[connection]!) * old;
    this.#bytesLeft[connection] = Math.max(0, left);
    this.#since[connection] = now;
    this.#bytesPerSecond[connection] = share;
    this.#heap.set(this.#firstConnection + connection, now + this.#bytesLeft[connection]! / share);
  }
}
