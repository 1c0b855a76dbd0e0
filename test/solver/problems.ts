import fc from "fast-check";
import { randomOf } from "../../src/search/inter/random.js";
import type { Problem, ProblemEdge, ProblemNode } from "../../src/solver/index.js";

const forbidden = Number.POSITIVE_INFINITY;

/** Whole or fractional costs; now and then a forbidden one. */
const cost = (weightOfForbidden: number) =>
  fc.oneof(
    { weight: 12, arbitrary: fc.integer({ min: 0, max: 30 }) },
    { weight: 3, arbitrary: fc.integer({ min: 0, max: 4000 }).map((x) => x / 64) },
    { weight: weightOfForbidden, arbitrary: fc.constant(forbidden) },
  );

const node = fc.integer({ min: 1, max: 4 }).chain((count) =>
  fc.record({
    costs: fc.array(cost(1), { minLength: count, maxLength: count }),
    usages: fc.array(fc.nat(12), { minLength: count, maxLength: count }),
    interval: fc.option(
      fc.tuple(fc.nat(6), fc.nat(4)).map(([start, length]): [number, number] => [start, start + length]),
      { nil: undefined, freq: 6 },
    ),
  }),
);

/** Edges anywhere: parallel, reversed, self; dense tables, functions of one end, or sums of the ends. */
function edge(nodes: ProblemNode[]): fc.Arbitrary<ProblemEdge> {
  const end = fc.nat(nodes.length - 1);
  return fc.tuple(end, end, fc.nat(5)).chain(([from, to, kind]) => {
    const [rows, columns] = [nodes[from]!.costs.length, nodes[to]!.costs.length];
    return fc
      .array(cost(kind === 0 ? 8 : 2), { minLength: rows * columns, maxLength: rows * columns })
      .map((table) => {
        const costs = table.map((entry, index) => {
          const [p, q] = [Math.floor(index / columns), index % columns];
          if (kind === 1) return p % columns === q ? Math.min(entry, 40) : forbidden;
          if (kind === 2) return 3 * p + 5 * q;
          return entry;
        });
        return { from, to, costs };
      });
  });
}

/** Problems small enough to enumerate, of one or several components, with or without a limit. */
export const smallProblem: fc.Arbitrary<Problem> = fc
  .array(node, { minLength: 1, maxLength: 6 })
  .chain((nodes) =>
    fc.record({
      nodes: fc.constant(nodes),
      edges: fc.array(edge(nodes), { maxLength: 2 * nodes.length }),
      usageLimit: fc.option(fc.nat(8 * nodes.length), { nil: undefined, freq: 4 }),
    }),
  );

/** A chain: each node tied to the next, alive for `span` steps; the limit leaves `share` of the usage. */
export function chain(seed: number, nodes: number, strategies: number, share?: number, span = 6): Problem {
  return layered(seed, nodes, strategies, (v) => (v === 0 ? [] : [v - 1]), share, span);
}

/** Transformer-like blocks: a chain of eight operators a block, with residual edges over four. */
export function blocks(seed: number, count: number, strategies: number, share?: number): Problem {
  const before = (v: number) => (v === 0 ? [] : v >= 4 && v % 4 === 0 ? [v - 1, v - 4] : [v - 1]);
  return layered(seed, 8 * count, strategies, before, share, 9);
}

function layered(
  seed: number,
  nodes: number,
  strategies: number,
  before: (v: number) => number[],
  share: number | undefined,
  span: number,
): Problem {
  const random = randomOf(seed);
  const list = (length: number, below: number) => Array.from({ length }, () => random(below));
  const problem: Problem = { nodes: [], edges: [] };
  for (let v = 0; v < nodes; v++) {
    // Cheaper strategies use more, as replication does.
    const usages = list(strategies, 1000);
    const costs = usages.map((usage) => 1000 - usage + random(300));
    problem.nodes.push({ costs, usages, interval: [v, v + span] });
    for (const from of before(v)) problem.edges.push({ from, to: v, costs: list(strategies ** 2, 800) });
  }
  if (share !== undefined) problem.usageLimit = Math.round(share * 1000 * span);
  return problem;
}
