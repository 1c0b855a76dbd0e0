import { expect, test } from "vitest";
import { type Engine, solve } from "../../src/solver/index.js";
import { kernelPath, runTask } from "../../src/solver/pool.js";
import { chain } from "./problems.js";

const engines: Engine[] = kernelPath() === undefined ? ["highs"] : ["kernel", "highs", "auto"];
/** Long enough that no engine here closes it in a second: a tight limit over long lives. */
const hard = chain(21, 200, 12, 0.3, 40);

test.each(engines)("%s keeps the time limit and still bounds", { timeout: 60_000 }, async (engine) => {
  const start = performance.now();
  const solution = await solve(hard, { engine, seconds: 1.5 });
  expect((performance.now() - start) / 1000).toBeLessThan(5);
  expect(["feasible", "unknown", "optimal"]).toContain(solution.status);
  expect(solution.bound).toBeLessThanOrEqual(solution.objective);
  expect(solution.bound).toBeGreaterThan(Number.NEGATIVE_INFINITY);
});

test.each(engines)("%s stops when cancelled, and the pool goes on", async (engine) => {
  const controller = new AbortController();
  const solving = solve(hard, { engine, signal: controller.signal });
  const cancelled = expect(solving).rejects.toMatchObject({ code: "E_CANCELLED" });
  setTimeout(() => controller.abort(), 300);
  await cancelled;
  const next = await solve({ nodes: [{ costs: [2, 1], usages: [0, 0] }], edges: [] }, { engine });
  expect(next).toMatchObject({ status: "optimal", objective: 1, assignment: [1] });
});

test("does not start with a signal that is aborted already", async () => {
  await expect(solve(hard, { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: "E_CANCELLED" });
});

test("solves many problems at once on few workers", async () => {
  const solutions = await Promise.all(
    Array.from({ length: 40 }, (_, cost) =>
      solve({
        nodes: [{ costs: [cost + 1, cost], usages: [1, 1], interval: [0, 1] }],
        edges: [],
        usageLimit: 1,
      }),
    ),
  );
  expect(solutions.map(({ objective }) => objective)).toEqual(Array.from({ length: 40 }, (_, cost) => cost));
});

test("a failing worker is one error, and is replaced", async () => {
  const nonsense = { kernel: { wasm: "/no/such/kernel.wasm" } } as never;
  await expect(runTask(nonsense)).rejects.toMatchObject({ code: "E_SOLVER" });
  expect((await solve({ nodes: [{ costs: [5], usages: [0] }], edges: [] })).objective).toBe(5);
});

test("reports progress with a bound that never passes the objective", { timeout: 60_000 }, async () => {
  const seen: { objective: number; bound: number }[] = [];
  await solve(hard, { seconds: 2, onProgress: (progress) => seen.push(progress) });
  expect(seen.length).toBeGreaterThan(0);
  for (const { objective, bound } of seen) expect(bound).toBeLessThanOrEqual(objective);
});
