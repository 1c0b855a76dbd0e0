/** What was counted so far against what may be; equal on every machine, unlike seconds. */
export class WorkBudget {
  used = 0;
  readonly #signal: AbortSignal | undefined;

  constructor(
    readonly limit: number,
    signal: AbortSignal | undefined,
  ) {
    this.#signal = signal;
  }

  get spent(): boolean {
    return this.used >= this.limit;
  }

  /** @throws the signal's reason once it is aborted. */
  add(work: number): void {
    this.used += work;
    this.#signal?.throwIfAborted();
  }
}
