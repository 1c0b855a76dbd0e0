import fc from "fast-check";
import type { ScheduleTable } from "../../src/schedule/actions.js";
import { scheduleByName, scheduleNames } from "../../src/schedule/named/index.js";

/** Sizes that the schedule of that name can be made for. */
export function fits(name: string, ranks: number, microBatches: number): boolean {
  if (name === "2bw") return microBatches >= ranks;
  if (name === "chimera") return ranks % 2 === 0 && microBatches >= 2;
  if (name === "dualpipe") return ranks % 2 === 0 && microBatches % 2 === 0 && microBatches >= 2 * ranks;
  if (name === "dualpipev") return microBatches >= 2 * ranks;
  if (name.startsWith("interleaved"))
    return microBatches % Math.max(1, Math.floor(microBatches / ranks)) === 0;
  return true;
}

/** Chunks to try a schedule with. */
export function chunksOf(name: string): (number | undefined)[] {
  return name.startsWith("interleaved") || name === "looped-bfs" ? [1, 2, 3, 4] : [undefined];
}

/** Any named schedule of up to 6 ranks and 18 micro-batches. */
export const anySchedule: fc.Arbitrary<ScheduleTable> = fc
  .record({
    name: fc.constantFrom(...scheduleNames),
    ranks: fc.integer({ min: 1, max: 6 }),
    microBatches: fc.integer({ min: 1, max: 18 }),
    chunks: fc.nat(),
  })
  .filter(({ name, ranks, microBatches }) => fits(name, ranks, microBatches))
  .map(({ name, ranks, microBatches, chunks }) => {
    const choices = chunksOf(name);
    return scheduleByName(name, { ranks, microBatches, chunks: choices[chunks % choices.length] });
  });
