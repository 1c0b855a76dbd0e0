import { describe, expect, test } from "vitest";
import { Knapsack } from "../../src/search/inter/piperKnapsack.js";
import { randomOf } from "./piperRandom.js";

interface Option {
  cost: number;
  size: number;
}

function fill(knapsack: Knapsack, groups: Option[][]): void {
  knapsack.clear();
  for (const options of groups) {
    for (const { cost, size } of options) knapsack.option(cost, size);
    knapsack.endGroup();
  }
}

function enumerate(groups: Option[][], limit: number): number {
  const [first, ...rest] = groups;
  if (!first) return limit >= 0 ? 0 : Number.POSITIVE_INFINITY;
  return Math.min(...first.map(({ cost, size }) => cost + enumerate(rest, limit - size)));
}

describe("the multiple-choice knapsack", () => {
  test("equals enumeration, and its choice has its cost and fits", () => {
    const knapsack = new Knapsack();
    for (let seed = 0; seed < 3000; seed++) {
      const { whole, real } = randomOf(seed);
      const figure = seed % 2 === 0 ? () => whole(8) : () => real() * 8;
      const groups = Array.from({ length: whole(7) }, () =>
        Array.from({ length: 1 + whole(4) }, () => ({ cost: figure(), size: whole(8) })),
      );
      const limit = whole(4 * groups.length + 1);
      fill(knapsack, groups);
      knapsack.solve(limit, true);
      const best = enumerate(groups, limit);
      if (best === Number.POSITIVE_INFINITY) {
        expect(knapsack.upper).toBe(best);
        continue;
      }
      expect(Math.abs(knapsack.upper - best), `seed ${seed}`).toBeLessThanOrEqual(1e-12 * (1 + best));
      expect(knapsack.lower).toBe(knapsack.upper);
      const chosen = knapsack.choice.map((option, g) => groups[g]![option]!);
      expect(chosen).toHaveLength(groups.length);
      expect(chosen.reduce((sum, { size }) => sum + size, 0)).toBeLessThanOrEqual(limit);
      const cost = chosen.reduce((sum, it) => sum + it.cost, 0);
      expect(Math.abs(cost - best), `seed ${seed}`).toBeLessThanOrEqual(1e-12 * (1 + best));
    }
  });

  test("equal layers with close times stay quick", () => {
    const knapsack = new Knapsack();
    const { real } = randomOf(7);
    const groups = Array.from({ length: 400 }, () => {
      const seconds = 1 + real() / 1000;
      return [
        { cost: seconds, size: 10 },
        { cost: 1.3 * seconds, size: 1 },
        { cost: 1.1 * seconds, size: 6 },
      ];
    });
    fill(knapsack, groups);
    const before = performance.now();
    knapsack.solve(1777);
    expect(performance.now() - before).toBeLessThan(2000);
    expect(knapsack.lower).toBe(knapsack.upper);
  });

  test("says what it knows where the list outgrows its limit", () => {
    const { whole } = randomOf(3);
    // Cost and saving go together, so that no bound tells the choices apart.
    const groups = Array.from({ length: 30 }, () => {
      const saving = 1000 + whole(1000);
      return [
        { cost: 0, size: saving },
        { cost: saving + 10, size: 0 },
      ];
    });
    const limit = 20_001;
    const narrow = new Knapsack(10);
    fill(narrow, groups);
    narrow.solve(limit, true);
    const wide = new Knapsack(1e6);
    fill(wide, groups);
    wide.solve(limit);
    expect(wide.lower).toBe(wide.upper);
    expect(narrow.lower).toBeLessThan(narrow.upper);
    expect(narrow.lower).toBeLessThanOrEqual(wide.lower);
    expect(narrow.upper).toBeGreaterThanOrEqual(wide.upper);
    const size = narrow.choice.reduce((sum, option, g) => sum + groups[g]![option]!.size, 0);
    expect(size).toBeLessThanOrEqual(limit);
  });
});
