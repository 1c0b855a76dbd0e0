import { describe, expect, it } from "vitest";
import { type RobustProblem, solveRobust } from "../../src/validate/leastSquares.js";

/** Logarithms of a sum of powers at several places: curved in both parameters. */
const places = [0.2, 0.5, 1, 2, 4, 8, 16, 32];
const model = ([a, b]: readonly number[]) => places.map((x) => Math.log(Math.exp(a!) + Math.exp(b!) * x));
const truth = [0.7, -1.1];

function problem(measured: readonly number[], changes: Partial<RobustProblem> = {}): RobustProblem {
  return {
    residuals: async (x) => model(x).map((value, i) => value - measured[i]!),
    spread: measured.map(() => 0.02),
    weights: measured.map(() => 1),
    mean: [0, 0],
    sigma: [2, 2],
    lower: [-5, -5],
    upper: [5, 5],
    step: 1e-3,
    maximumIterations: 40,
    ...changes,
  };
}

describe("robust least squares", () => {
  it("finds the parameters that made the numbers", async () => {
    const { x, sigma, cost } = await solveRobust(problem(model(truth)));
    expect(x[0]).toBeCloseTo(truth[0]!, 2);
    expect(x[1]).toBeCloseTo(truth[1]!, 2);
    expect(Math.max(...sigma)).toBeLessThan(0.05);
    // What is left is the pull of the priors: (0.7 / 2)^2 + (1.1 / 2)^2.
    expect(cost).toBeCloseTo(0.425, 2);
  });

  it("is moved little by an outlier, where squares would be moved far", async () => {
    const measured = model(truth).map((value, i) => (i === 3 ? value + 3 : value));
    const robust = await solveRobust(problem(measured));
    // A spread beyond every residual makes the loss a sum of squares.
    const squares = await solveRobust(
      problem(measured, { spread: measured.map(() => 50), sigma: [1e3, 1e3] }),
    );
    const distance = ({ x }: { x: number[] }) => Math.hypot(x[0]! - truth[0]!, x[1]! - truth[1]!);
    expect(distance(robust)).toBeLessThan(0.05);
    expect(distance(squares)).toBeGreaterThan(0.2);
  });

  it("stays inside the box, and lets the rest follow", async () => {
    const bounded = await solveRobust(problem(model(truth), { upper: [0.3, 5] }));
    expect(bounded.x[0]).toBeLessThanOrEqual(0.3);
    expect(bounded.x[0]).toBeCloseTo(0.3, 3);
    expect(bounded.x[1]).toBeGreaterThan(truth[1]!);
  });

  it("leaves a parameter that the numbers do not touch at its prior, with the prior's spread", async () => {
    const measured = places.map((x) => Math.log(2 * x));
    const { x, sigma } = await solveRobust(
      problem(measured, {
        residuals: async ([a]) => places.map((place, i) => a! + Math.log(place) - measured[i]!),
        mean: [0, 0.4],
        sigma: [1, 0.3],
      }),
    );
    expect(x[0]).toBeCloseTo(Math.log(2), 3);
    expect(x[1]).toBe(0.4);
    expect(sigma[1]).toBeCloseTo(0.3, 9);
  });

  it("weighs a row as often as it says", async () => {
    const residuals = async ([a]: readonly number[]) => [a! - 1, a! + 1];
    const base = { residuals, mean: [0], sigma: [100], lower: [-9], upper: [9], step: 1e-3 };
    const { x } = await solveRobust({
      ...base,
      spread: [50, 50],
      weights: [3, 1],
      maximumIterations: 20,
    });
    expect(x[0]).toBeCloseTo(0.5, 1);
  });

  it("begins where it is told that a quantity shows, if it does not at the mean", async () => {
    const floor = (x: number) => places.map((place) => Math.log(Math.max(place, Math.exp(x))));
    const measured = floor(1.5);
    const hidden = {
      residuals: async ([x]: readonly number[]) => floor(x!).map((value, i) => value - measured[i]!),
      mean: [-3],
      sigma: [4],
      lower: [-6],
      upper: [6],
    };
    expect((await solveRobust(problem(measured, hidden))).x[0]).toBe(-3);
    const { x } = await solveRobust(problem(measured, { ...hidden, starts: [[-3], [0], [3]] }));
    expect(x[0]).toBeCloseTo(1.5, 2);
  });
});
