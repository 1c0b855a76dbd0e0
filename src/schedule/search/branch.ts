import type { ListScheduler } from "./list.js";
import type { FlatSchedule } from "./problem.js";
import { windowRule } from "./rules.js";
import type { Orders, Timing } from "./timing.js";
import type { Choice, Windows, WindowsSnapshot } from "./windows.js";

/**
 * Depth-first search for a schedule that ends by a deadline. A node holds windows and the states that every
 * rank may still pass; it is split where a rank's states are widest. Every node also makes one list schedule
 * from its windows, so that a schedule is mostly found long before all orders are settled.
 */
export class Branching {
  #listWork = 0;

  constructor(
    private readonly flat: FlatSchedule,
    private readonly windows: Windows,
    private readonly timing: Timing,
    private readonly lists: ListScheduler,
  ) {}

  /** Work of list schedules since the last call. */
  takeListWork(): number {
    const work = this.#listWork;
    this.#listWork = 0;
    return work;
  }

  /**
   * Orders that meet the deadline, `refuted` where there are none, `limit` where the work ran out. Gives way
   * after each node.
   */
  *search(deadline: number, work: number): Generator<void, Orders | "refuted" | "limit"> {
    const { windows } = this;
    const stop = windows.work + this.#listWork + work;
    const before = windows.snapshot();
    try {
      if (!windows.tighten(deadline)) return "refuted";
      const stack: { state: WindowsSnapshot; choice: Choice; above: boolean }[] = [];
      let alive = true;
      let open = true;
      for (;;) {
        if (alive) {
          const rule = windowRule(this.flat, windows.earliest, windows.latest, undefined);
          this.#listWork += this.flat.operations * this.flat.chains;
          const found = this.lists.run(rule);
          if (found && found.seconds <= deadline) return found.orders;
          const choice = windows.choice();
          if (!choice) {
            const orders = windows.settled();
            if (orders && this.timing.forward(orders) <= deadline * (1 + 1e-9)) return orders;
            // Ranks without states stay open: nothing is refuted then.
            open = false;
          } else {
            const state = windows.snapshot();
            stack.push({ state, choice, above: false }, { state, choice, above: true });
          }
        }
        const next = stack.pop();
        if (!next) return open ? "refuted" : "limit";
        if (windows.work + this.#listWork >= stop) return "limit";
        yield;
        windows.restore(next.state);
        alive = windows.restrict(next.choice, next.above);
      }
    } finally {
      windows.restore(before);
    }
  }
}
