/**
 * Robust least squares with Gaussian priors inside a box: Levenberg-Marquardt (Marquardt 1963) on numerical
 * derivatives, the soft-L1 loss by reweighting (Triggs et al., Bundle Adjustment, 1999, section 3.3).
 */
export interface RobustProblem {
  /** One number a row, 0 where prediction and measurement agree; always as many. */
  residuals: (x: readonly number[]) => Promise<readonly number[]>;
  /** Spread that a row's residual has where nothing is wrong: beyond it the loss grows linearly. */
  spread: readonly number[];
  /** What a row counts for; 1 is one measurement. */
  weights: readonly number[];
  /** What the search is pulled towards. */
  mean: readonly number[];
  /** Where it may begin: at the one of least cost. By default at the mean alone. */
  starts?: readonly (readonly number[])[];
  /** Standard deviations of the priors. */
  sigma: readonly number[];
  lower: readonly number[];
  upper: readonly number[];
  /** Step of the derivatives. */
  step: number;
  maximumIterations: number;
}

export interface RobustSolution {
  x: number[];
  /** Standard deviations after the fit: near the prior's where the rows say nothing. */
  sigma: number[];
  cost: number;
  residuals: readonly number[];
  iterations: number;
}

/** A smaller relative gain ends the search. */
const leastGain = 1e-3;
/** Accepted steps between derivatives of all parameters; secants stand in for them (Broyden 1965). */
const secantSteps = 2;
const firstDamping = 1e-3;
const leastDamping = 1e-9;
const dampingStep = 8;
const maximumDamping = 1e6;

/** Cost of a point: soft-L1 of the rows and squares of the priors. */
function costOf(problem: RobustProblem, x: readonly number[], residuals: readonly number[]): number {
  let cost = 0;
  for (const [i, residual] of residuals.entries()) {
    const scaled = residual / problem.spread[i]!;
    cost += problem.weights[i]! * 2 * (Math.sqrt(1 + scaled * scaled) - 1);
  }
  for (const [j, value] of x.entries()) cost += ((value - problem.mean[j]!) / problem.sigma[j]!) ** 2;
  return cost;
}

/**
 * Finds the least cost. Every accepted step lowers it, and every point lies inside the box.
 * @returns what was reached after `maximumIterations`, where it has not settled before.
 */
export async function solveRobust(problem: RobustProblem): Promise<RobustSolution> {
  const { mean, sigma, lower, upper, maximumIterations } = problem;
  const size = mean.length;
  const inside = (value: number, j: number) => Math.min(upper[j]!, Math.max(lower[j]!, value));
  let [x, residuals, cost]: [number[], readonly number[], number] = [[], [], Number.POSITIVE_INFINITY];
  for (const start of problem.starts ?? [mean]) {
    const at = start.map(inside);
    const there = await problem.residuals(at);
    const its = costOf(problem, at, there);
    if (its < cost) [x, residuals, cost] = [at, there, its];
  }
  let damping = firstDamping;
  let iterations = 0;
  let columns = await derivatives(problem, x, residuals);
  let secants = 0;
  while (size > 0 && iterations < maximumIterations) {
    iterations++;
    const normal = normalEquations(problem, x, residuals, columns);
    const free = freeDirections(problem, x, normal.gradient);
    let gain = 0;
    while (damping <= maximumDamping) {
      const step = solveDamped(normal, free, damping);
      const next = x.map((value, j) => inside(value + step[j]!, j));
      const nextResiduals = await problem.residuals(next);
      const nextCost = costOf(problem, next, nextResiduals);
      if (nextCost < cost) {
        gain = (cost - nextCost) / cost;
        if (secants < secantSteps) columns = secant(columns, x, next, residuals, nextResiduals);
        [x, residuals, cost] = [next, nextResiduals, nextCost];
        damping = Math.max(leastDamping, damping / dampingStep);
        break;
      }
      damping *= dampingStep;
      // Derivatives that are out of date are as likely to blame as the length of the step.
      if (secants > 0) break;
    }
    if (gain < leastGain && secants === 0) break;
    if (gain >= leastGain && secants < secantSteps) {
      secants++;
      continue;
    }
    columns = await derivatives(problem, x, residuals);
    damping = Math.min(damping, firstDamping);
    secants = 0;
  }
  const normal = normalEquations(problem, x, residuals, columns);
  return { x, sigma: spreads(normal, sigma), cost, residuals, iterations };
}

interface NormalEquations {
  /** Approximate half Hessian of the cost, rows of a square matrix. */
  matrix: number[][];
  /** Half gradient. */
  gradient: number[];
}

/** Of all residuals by each parameter, one column a parameter, by forward differences inside the box. */
async function derivatives(
  problem: RobustProblem,
  x: readonly number[],
  residuals: readonly number[],
): Promise<number[][]> {
  const columns: number[][] = [];
  for (const [j, value] of x.entries()) {
    const step = value + problem.step <= problem.upper[j]! ? problem.step : -problem.step;
    const moved = await problem.residuals(x.with(j, value + step));
    columns.push(moved.map((each, i) => (each - residuals[i]!) / step));
  }
  return columns;
}

/** Broyden's update: the least change that explains the last step. */
function secant(
  columns: readonly number[][],
  from: readonly number[],
  to: readonly number[],
  before: readonly number[],
  after: readonly number[],
): number[][] {
  const step = to.map((value, j) => value - from[j]!);
  const length = step.reduce((sum, each) => sum + each * each, 0);
  if (length === 0) return columns.map((column) => [...column]);
  const missed = after.map(
    (value, i) => value - before[i]! - step.reduce((sum, each, j) => sum + each * columns[j]![i]!, 0),
  );
  return columns.map((column, j) => column.map((each, i) => each + (missed[i]! * step[j]!) / length));
}

function normalEquations(
  { mean, sigma, spread, weights }: RobustProblem,
  x: readonly number[],
  residuals: readonly number[],
  columns: readonly number[][],
): NormalEquations {
  const matrix = columns.map(() => columns.map(() => 0));
  const gradient = columns.map(() => 0);
  for (const [i, residual] of residuals.entries()) {
    const scaled = residual / spread[i]!;
    const weight = weights[i]! / (spread[i]! ** 2 * Math.sqrt(1 + scaled * scaled));
    for (const [j, column] of columns.entries()) {
      gradient[j]! += weight * column[i]! * residual;
      for (let k = 0; k <= j; k++) matrix[j]![k]! += weight * column[i]! * columns[k]![i]!;
    }
  }
  for (const [j, value] of x.entries()) {
    matrix[j]![j]! += 1 / sigma[j]! ** 2;
    gradient[j]! += (value - mean[j]!) / sigma[j]! ** 2;
    for (let k = 0; k < j; k++) matrix[k]![j] = matrix[j]![k]!;
  }
  return { matrix, gradient };
}

/** Directions that do not leave the box at once. */
function freeDirections(
  { lower, upper }: RobustProblem,
  x: readonly number[],
  gradient: readonly number[],
): boolean[] {
  return x.map(
    (value, j) => !((value <= lower[j]! && gradient[j]! > 0) || (value >= upper[j]! && gradient[j]! < 0)),
  );
}

/** Step that Marquardt's damped equations give along the free directions; 0 along the others. */
function solveDamped({ matrix, gradient }: NormalEquations, free: boolean[], damping: number): number[] {
  const at = free.flatMap((is, j) => (is ? [j] : []));
  const damped = at.map((j) => at.map((k) => matrix[j]![k]! * (j === k ? 1 + damping : 1)));
  const step = solveSymmetric(
    damped,
    at.map((j) => -gradient[j]!),
  );
  const result = free.map(() => 0);
  for (const [i, j] of at.entries()) result[j] = step[i]!;
  return result;
}

/** Lower triangle L with L L^T = matrix; the priors on the diagonal keep it positive definite. */
function cholesky(matrix: readonly number[][]): number[][] {
  const lower = matrix.map(() => matrix.map(() => 0));
  for (let i = 0; i < matrix.length; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = matrix[i]![j]!;
      for (let k = 0; k < j; k++) sum -= lower[i]![k]! * lower[j]![k]!;
      lower[i]![j] = i === j ? Math.sqrt(Math.max(sum, Number.MIN_VALUE)) : sum / lower[j]![j]!;
    }
  }
  return lower;
}

function solveSymmetric(matrix: readonly number[][], right: readonly number[]): number[] {
  const lower = cholesky(matrix);
  const x = [...right];
  for (let i = 0; i < x.length; i++) {
    for (let k = 0; k < i; k++) x[i]! -= lower[i]![k]! * x[k]!;
    x[i]! /= lower[i]![i]!;
  }
  for (let i = x.length - 1; i >= 0; i--) {
    for (let k = i + 1; k < x.length; k++) x[i]! -= lower[k]![i]! * x[k]!;
    x[i]! /= lower[i]![i]!;
  }
  return x;
}

/** Square roots of the inverse's diagonal, at most the prior's. */
function spreads({ matrix }: NormalEquations, prior: readonly number[]): number[] {
  return prior.map((most, j) => {
    const unit = prior.map((_, k) => (k === j ? 1 : 0));
    return Math.min(most, Math.sqrt(Math.max(0, solveSymmetric(matrix, unit)[j]!)));
  });
}
