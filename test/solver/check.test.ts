import { describe, expect, test } from "vitest";
import { checkSolution } from "../../src/solver/check.js";
import { maximalTimeSteps } from "../../src/solver/flat.js";
import { evaluateAssignment, type Problem, type Solution, solve } from "../../src/solver/index.js";

const problem: Problem = {
  nodes: [
    { costs: [1, 4], usages: [5, 2], interval: [0, 3] },
    { costs: [2, Number.POSITIVE_INFINITY], usages: [5, 0], interval: [2, 4] },
  ],
  edges: [{ from: 0, to: 1, costs: [10, 0, 20, 0] }],
  usageLimit: 8,
};

describe("evaluateAssignment", () => {
  test("adds nodes and edges", () => {
    expect(evaluateAssignment(problem, [1, 0])).toEqual({ cost: 26, feasible: true });
  });
  test("names the step that overflows", () => {
    const { feasible, violation } = evaluateAssignment(problem, [0, 0]);
    expect(feasible).toBe(false);
    expect(violation).toBe("Expected a usage of at most 8 at time 2 but found 10.");
  });
  test("rejects forbidden choices, unknown strategies and wrong lengths", () => {
    expect(evaluateAssignment(problem, [1, 1]).violation).toMatch(/forbidden/);
    expect(evaluateAssignment(problem, [2, 0]).violation).toMatch(/below 2 for node 0 but found 2/);
    expect(evaluateAssignment(problem, [1]).violation).toMatch(/2 nodes but found 1/);
  });
});

describe("checkSolution", () => {
  const right: Solution = {
    status: "optimal",
    objective: 26,
    bound: 26,
    gap: 0,
    seconds: 0,
    assignment: [1, 0],
    engine: "test",
  };
  test("accepts the right answer", () => expect(() => checkSolution(problem, right)).not.toThrow());
  test.each([
    ["a wrong objective", { objective: 25 }],
    ["an assignment that overflows", { assignment: [0, 0], objective: 13 }],
    ["a bound above the objective", { bound: 27 }],
    ["an assignment with infeasible", { status: "infeasible" as const }],
  ])("rejects %s", (_what, change) => {
    expect(() => checkSolution(problem, { ...right, ...change })).toThrowError(/wrong answer/);
  });
});

test("keeps only maximal time steps", () => {
  const node = (interval: [number, number]) => ({ costs: [0], usages: [1], interval });
  const nodes = [node([0, 10]), node([2, 4]), node([3, 5]), node([5, 7]), node([7, 7])];
  expect(maximalTimeSteps({ nodes, edges: [], usageLimit: 1 })).toEqual([3, 5]);
});

describe("a malformed problem is one sentence", () => {
  const node = { costs: [1, 2], usages: [0, 0] };
  test.each<[string, Problem, string]>([
    ["no strategies", { nodes: [{ costs: [], usages: [] }], edges: [] }, "at least one strategy for node 0"],
    ["usages missing", { nodes: [{ costs: [1], usages: [] }], edges: [] }, "1 usages for node 0 but found 0"],
    [
      "NaN cost",
      { nodes: [{ costs: [Number.NaN], usages: [0] }], edges: [] },
      "cost 0 of node 0 but found NaN",
    ],
    [
      "negative usage",
      { nodes: [{ costs: [1], usages: [-1] }], edges: [] },
      "usage 0 of node 0 but found -1",
    ],
    [
      "unknown node",
      { nodes: [node], edges: [{ from: 0, to: 3, costs: [] }] },
      "node below 1 for edge 0 but found 3",
    ],
    [
      "short table",
      { nodes: [node], edges: [{ from: 0, to: 0, costs: [1] }] },
      "4 costs (2 x 2) for edge 0 but found 1",
    ],
    [
      "NaN in a table",
      { nodes: [node], edges: [{ from: 0, to: 0, costs: [1, 2, Number.NaN, 4] }] },
      "cost 2 of edge 0",
    ],
    ["backward interval", { nodes: [{ ...node, interval: [4, 2] }], edges: [] }, "but found [4, 2]"],
    ["negative interval", { nodes: [{ ...node, interval: [-1, 2] }], edges: [] }, "but found [-1, 2]"],
    ["NaN limit", { nodes: [node], edges: [], usageLimit: Number.NaN }, "usage limit but found NaN"],
  ])("%s", async (_what, malformed, sentence) => {
    await expect(solve(malformed)).rejects.toMatchObject({
      code: "E_FIELD",
      message: expect.stringContaining(sentence),
    });
  });
});
