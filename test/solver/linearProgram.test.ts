import { describe, expect, it } from "vitest";
import { LinearProgram, solveProgram } from "../../src/solver/linearProgram.js";

/** Maximise value within one capacity: items 0-1, as costs below zero. */
function knapsack(values: number[], sizes: number[], capacity: number): LinearProgram {
  const program = new LinearProgram();
  const columns = values.map((value) => program.column(-value, true));
  const row = columns.map((column, i) => [column, sizes[i]! / capacity] as const);
  program.row(row, Number.NEGATIVE_INFINITY, 1);
  return program;
}

describe("solveProgram", () => {
  it("solves integers and continuous columns, and streams what it finds", async () => {
    const program = knapsack([10, 13, 7, 8], [3, 4, 2, 3], 7);
    const half = program.column(-1, false);
    program.row([[half, 1]], 0, 0.5);
    let bound = Number.NEGATIVE_INFINITY;
    const answer = await solveProgram(program, {
      start: Float64Array.of(1, 0, 1, 0, 0),
      onProgress: (progress) => {
        expect(progress.bound).toBeGreaterThanOrEqual(bound);
        bound = progress.bound;
      },
    });
    expect(answer.status).toBe("optimal");
    // Brute force: 10 + 13 fills 7 of 7; half of the free column on top.
    expect([...answer.solution!].map((value) => Math.round(value * 2) / 2)).toEqual([1, 1, 0, 0, 0.5]);
    expect(answer.bound).toBeCloseTo(-23.5, 6);
  });

  it("proves that there is no solution", async () => {
    const program = new LinearProgram();
    const [a, b] = [program.column(1, true), program.column(1, true)];
    program.row(
      [
        [a, 1],
        [b, 1],
      ],
      1,
      1,
    );
    program.row(
      [
        [a, 1],
        [b, -1],
      ],
      0,
      0,
    );
    expect(await solveProgram(program)).toMatchObject({ status: "infeasible", solution: undefined });
  });

  it("stops for a signal", async () => {
    await expect(solveProgram(knapsack([1], [1], 1), { signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: "E_CANCELLED",
    });
  });
});
