/**
 * The next moment of each of a fixed number of things, the earliest first: a binary heap that knows where each
 * thing stands, so that a moment can move (Cormen et al., "Introduction to Algorithms", section 6.5).
 */
export class EventHeap {
  readonly #times: Float64Array;
  readonly #heap: Int32Array;
  readonly #place: Int32Array;
  #size = 0;

  constructor(things: number) {
    this.#times = new Float64Array(things);
    this.#heap = new Int32Array(things);
    this.#place = new Int32Array(things).fill(-1);
  }

  get size(): number {
    return this.#size;
  }

  /** Adds a thing or moves its moment. */
  set(thing: number, time: number): void {
    let at = this.#place[thing]!;
    if (at === -1) {
      at = this.#size++;
      this.#times[thing] = time;
      this.#rise(at, thing);
    } else if (time < this.#times[thing]!) {
      this.#times[thing] = time;
      this.#rise(at, thing);
    } else {
      this.#times[thing] = time;
      this.#sink(at, thing);
    }
  }

  timeOf(thing: number): number {
    return this.#times[thing]!;
  }

  /** Takes out the thing with the earliest moment; only where `size` is above 0. */
  pop(): number {
    const first = this.#heap[0]!;
    this.#place[first] = -1;
    const last = this.#heap[--this.#size]!;
    if (this.#size > 0) this.#sink(0, last);
    return first;
  }

  #rise(from: number, thing: number): void {
    const time = this.#times[thing]!;
    let at = from;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const other = this.#heap[parent]!;
      if (this.#times[other]! <= time) break;
      this.#heap[at] = other;
      this.#place[other] = at;
      at = parent;
    }
    this.#heap[at] = thing;
    this.#place[thing] = at;
  }

  #sink(from: number, thing: number): void {
    const time = this.#times[thing]!;
    let at = from;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= this.#size) break;
      if (child + 1 < this.#size && this.#times[this.#heap[child + 1]!]! < this.#times[this.#heap[child]!]!) {
        child++;
      }
      const other = this.#heap[child]!;
      if (this.#times[other]! >= time) break;
      this.#heap[at] = other;
      this.#place[other] = at;
      at = child;
    }
    this.#heap[at] = thing;
    this.#place[thing] = at;
  }
}
