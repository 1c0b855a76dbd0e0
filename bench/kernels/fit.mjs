/** Quantile with linear interpolation. */
export function quantile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  const at = share * (sorted.length - 1);
  const low = Math.floor(at);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low] + (at - low) * (sorted[high] - sorted[low]);
}

/** Errors of predicted over measured seconds, as one line of a table. */
export function summary(rows, predict) {
  const errors = rows.map((row) => predict(row) / row.seconds - 1);
  const sizes = errors.map(Math.abs);
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const rounded = (value) => Math.round(value * 1e4) / 1e4;
  return {
    rows: rows.length,
    median: rounded(quantile(sizes, 0.5)),
    p90: rounded(quantile(sizes, 0.9)),
    mean: rounded(mean(sizes)),
    bias: rounded(mean(errors)),
  };
}

/** Uniform numbers in [0, 1) from a seed (Marsaglia's xorshift). */
function generator(seed) {
  let state = seed;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

/**
 * Parameters with the smallest mean plus half the root mean square of the relative errors, by random steps that shrink.
 * @param ranges name to [least, most]; the start is `start[name]`.
 */
export function fitParameters(rows, start, ranges, predictWith, steps = 1500) {
  const names = Object.keys(ranges);
  const score = (parameters) => {
    const predict = predictWith(parameters);
    let sum = 0;
    let squares = 0;
    for (const row of rows) {
      const error = predict(row) / row.seconds - 1;
      sum += Math.abs(error);
      squares += error * error;
    }
    return sum / rows.length + Math.sqrt(squares / rows.length) / 2;
  };
  const random = generator(12345);
  let best = { ...start };
  let least = score(best);
  for (let step = 0; step < steps; step++) {
    const width = 0.2 * 0.05 ** (step / steps);
    const tried = { ...best };
    for (const name of names) {
      if (random() < 0.5) continue;
      const [low, high] = ranges[name];
      const moved = tried[name] + (random() + random() + random() - 1.5) * width * (high - low);
      tried[name] = Math.min(high, Math.max(low, moved));
    }
    const found = score(tried);
    if (found < least) {
      least = found;
      best = tried;
    }
  }
  return best;
}
