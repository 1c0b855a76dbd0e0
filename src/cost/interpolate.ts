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
