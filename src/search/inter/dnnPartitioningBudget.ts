import { setImmediate } from "node:timers/promises";

/** The event loop turns at least this often, so that a signal is heard. */
const breathSeconds = 0.05;

/** What a search may still use: time until its limit, as long as its signal does not abort. */
export class Budget {
  readonly #started = performance.now();
  #last = performance.now();

  constructor(
    readonly seconds: number,
    readonly signal?: AbortSignal,
  ) {}

  left(): number {
    return this.seconds - (performance.now() - this.#started) / 1000;
  }

  over(): boolean {
    return this.signal?.aborted === true || this.left() <= 0;
  }

  /** Lets the event loop turn now and then; true where the search must end. Cheap enough for inner loops. */
  breathe(): Promise<boolean> | boolean {
    if (performance.now() - this.#last < breathSeconds * 1000) return false;
    return this.#turn();
  }

  async #turn(): Promise<boolean> {
    await setImmediate();
    this.#last = performance.now();
    return this.over();
  }
}
