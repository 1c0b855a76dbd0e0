import { expect, test, vi } from "vitest";
import { solve } from "../../src/solver/index.js";

// As where @yowasp/clang is not installed: kernel.wasm was never built.
vi.mock("../../src/solver/pool.js", async (original) => ({
  ...(await original<typeof import("../../src/solver/pool.js")>()),
  kernelPath: () => undefined,
}));

const problem = {
  nodes: [
    { costs: [4, 1], usages: [1, 3], interval: [0, 2] as [number, number] },
    { costs: [5, 2], usages: [1, 3], interval: [1, 3] as [number, number] },
  ],
  edges: [{ from: 0, to: 1, costs: [0, 0, 0, 0] }],
  usageLimit: 4,
};

test("without the kernel HiGHS answers", async () => {
  expect(await solve(problem)).toMatchObject({ status: "optimal", objective: 6, engine: "highs" });
});

test("the kernel asked for by name is one sentence", async () => {
  await expect(solve(problem, { engine: "kernel" })).rejects.toMatchObject({
    code: "E_SOLVER",
    message: "Expected the solver kernel (kernel.wasm) but it was not built.",
  });
});
