import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { evaluateAssignment } from "../../src/solver/check.js";
import { eliminate } from "../../src/solver/eliminate.js";
import type { Problem } from "../../src/solver/problem.js";

const cost = fc.oneof(
  { weight: 9, arbitrary: fc.integer({ min: 0, max: 50 }) },
  { weight: 1, arbitrary: fc.constant(Number.POSITIVE_INFINITY) },
);

const problems: fc.Arbitrary<Problem> = fc
  .array(fc.integer({ min: 1, max: 3 }), { minLength: 1, maxLength: 6 })
  .chain((sizes) => {
    const nodes = fc.tuple(
      ...sizes.map((size) => fc.array(cost, { minLength: size, maxLength: size })),
    ) as fc.Arbitrary<number[][]>;
    const pairs = sizes.flatMap((_, from) =>
      sizes.slice(from + 1).map((_, k) => [from, from + 1 + k] as const),
    );
    const edges = fc.subarray(pairs).chain((chosen) =>
      fc.tuple(
        ...chosen.map(([from, to]) => {
          const length = sizes[from]! * sizes[to]!;
          return fc
            .array(cost, { minLength: length, maxLength: length })
            .map((costs) => ({ from, to, costs }));
        }),
      ),
    ) as fc.Arbitrary<Problem["edges"]>;
    return fc.record({ nodes, edges }).map((made) => ({
      nodes: made.nodes.map((costs) => ({ costs, usages: costs.map(() => 0) })),
      edges: made.edges,
    }));
  });

/** The least cost of all assignments. */
function least({ nodes, edges }: Problem): number {
  let best = Number.POSITIVE_INFINITY;
  const choose = (choice: number[]) => {
    if (choice.length < nodes.length) {
      for (let s = 0; s < nodes[choice.length]!.costs.length; s++) choose([...choice, s]);
      return;
    }
    const own = nodes.reduce((sum, node, i) => sum + node.costs[choice[i]!]!, 0);
    const pairs = edges.reduce(
      (sum, { from, to, costs }) => sum + costs[choice[from]! * nodes[to]!.costs.length + choice[to]!]!,
      0,
    );
    best = Math.min(best, own + pairs);
  };
  choose([]);
  return best;
}

describe("eliminate", () => {
  it("equals enumeration on 1,000 random problems, infinities included", () => {
    let finite = 0;
    fc.assert(
      fc.property(problems, (problem) => {
        const wanted = least(problem);
        const found = eliminate(problem)!;
        expect(found.objective).toBe(wanted);
        if (wanted === Number.POSITIVE_INFINITY) return;
        finite++;
        expect(evaluateAssignment(problem, found.assignment).cost).toBe(wanted);
      }),
      { numRuns: 1000, seed: 11 },
    );
    expect(finite).toBeGreaterThan(300);
  });

  it("leaves problems with memory, and those whose tables would grow, to others", () => {
    const node = (usage: number) => ({ costs: [1, 2], usages: [usage, 0] });
    expect(eliminate({ nodes: [node(1)], edges: [] })).toBeUndefined();
    const nodes = Array.from({ length: 12 }, () => node(0));
    const edges = nodes.flatMap((_, from) =>
      nodes.slice(from + 1).map((_, k) => ({ from, to: from + 1 + k, costs: [0, 1, 1, 0] })),
    );
    expect(eliminate({ nodes, edges }, 1000)).toBeUndefined();
    expect(eliminate({ nodes, edges })).toBeDefined();
  });
});
