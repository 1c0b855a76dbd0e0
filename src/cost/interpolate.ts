/** A point of a measured or assumed curve, ascending in x. */
export interface CurvePoint {
  x: number;
  y: number;
}

/**
 * Value of a curve at x: linear between the logarithms of neighbouring points, constant beyond the ends.
 * Rates span decades, and both ends of a roofline are power laws, so lines in log space follow them.
 */
export function interpolateLog(points: readonly CurvePoint[], x: number): number {
  const first = points[0]!;
  const last = points[points.length - 1]!;
  if (x <= first.x) return first.y;
  if (x >= last.x) return last.y;
  let low = 0;
  let high = points.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle]!.x <= x) low = middle;
    else high = middle;
  }
  const a = points[low]!;
  const b = points[high]!;
  const share = Math.log(x / a.x) / Math.log(b.x / a.x);
  return a.y * (b.y / a.y) ** share;
}

/** A measured value at a place in several dimensions. */
export interface ScatteredPoint {
  place: readonly number[];
  value: number;
}

/** How many of the nearest points a scattered interpolation looks at. */
const neighbours = 6;

/**
 * Value between scattered points: the mean of the nearest ones, weighted by the inverse square of their distance
 * (Shepard 1968). It passes through its points, stays between their extremes, and tends to a mean far from them.
 */
export function interpolateScattered(
  points: readonly ScatteredPoint[],
  place: readonly number[],
): { value: number; distance: number } {
  const near = points
    .map((point) => ({ value: point.value, square: squaredDistance(point.place, place) }))
    .sort((a, b) => a.square - b.square)
    .slice(0, neighbours);
  const distance = Math.sqrt(near[0]!.square);
  if (distance < 1e-9) return { value: near[0]!.value, distance };
  let sum = 0;
  let weights = 0;
  for (const { value, square } of near) {
    sum += value / square;
    weights += 1 / square;
  }
  return { value: sum / weights, distance };
}

function squaredDistance(a: readonly number[], b: readonly number[]): number {
  return a.reduce((sum, each, i) => sum + (each - b[i]!) ** 2, 0);
}
