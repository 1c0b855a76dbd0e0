import { splitmix32 } from "../../src/search/inter/random.js";

/** Reproducible numbers (splitmix32): whole ones below a bound, real ones below 1. */
export function randomOf(seed: number): { whole(below: number): number; real(): number } {
  const word = splitmix32(seed * 0x632be5ab);
  return { whole: (below) => word() % below, real: () => word() / 2 ** 32 };
}
