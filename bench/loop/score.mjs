// Predicted against measured step times of several plans of one job.

/** Middle value. */
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Kendall's tau-b: agreement of two orders, ties counted (Kendall 1945). */
export function kendallTau(a, b) {
  let concordant = 0;
  let [tiesA, tiesB, pairs] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    for (let j = 0; j < i; j++) {
      const [da, db] = [Math.sign(a[i] - a[j]), Math.sign(b[i] - b[j])];
      concordant += da * db;
      pairs++;
      if (da === 0) tiesA++;
      if (db === 0) tiesB++;
    }
  }
  return concordant / Math.sqrt((pairs - tiesA) * (pairs - tiesB));
}

/** Errors in percent of the measured time, the order, and what the choice of the least predicted one costs. */
export function scoreOf(rows) {
  const measured = rows.map((row) => row.measuredSeconds);
  const predicted = rows.map((row) => row.predictedSeconds);
  const errors = rows.map((row) => row.predictedSeconds / row.measuredSeconds - 1);
  const chosen = predicted.indexOf(Math.min(...predicted));
  return {
    plans: rows.length,
    meanAbsoluteError: errors.reduce((sum, error) => sum + Math.abs(error), 0) / rows.length,
    meanError: errors.reduce((sum, error) => sum + error, 0) / rows.length,
    kendallTau: kendallTau(predicted, measured),
    regret: measured[chosen] / Math.min(...measured) - 1,
  };
}
