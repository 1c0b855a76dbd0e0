/**
 * All ways in which one rank's work can stand between two operations: how many each of its sequences has done,
 * no more than precedence allows, and within the rank's memory. States come in an order in which work only
 * grows, from nothing to all.
 */
export interface RankStates {
  readonly count: number;
  /** State * sequences + i: the state after one more operation of sequence i, or -1. */
  readonly next: Int32Array;
  /** State * sequences + i: operations that sequence i has done. */
  readonly done: Uint16Array;
}

/**
 * @param lengths operations of each sequence.
 * @param bounds the earlier sequence that has always done as many or more; -1 for none.
 * @param bytes what one operation of each sequence adds to what the rank holds.
 * @returns undefined where there are more states than `most`.
 */
export function countStates(
  lengths: readonly number[],
  bounds: readonly number[],
  bytes: readonly number[],
  limit: number,
  most: number,
): RankStates | undefined {
  const width = lengths.length;
  const found: number[] = [];
  const now = new Array<number>(width).fill(0);
  let count = 0;
  let visits = 0;
  const fill = (i: number, held: number): boolean => {
    if (i === width) {
      if (held > limit) return true;
      count++;
      for (const done of now) found.push(done);
      return count <= most;
    }
    if (++visits > 8 * most) return false;
    const top = bounds[i] === -1 ? lengths[i]! : Math.min(lengths[i]!, now[bounds[i]!]!);
    for (let done = 0; done <= top; done++) {
      now[i] = done;
      if (!fill(i + 1, held + done * bytes[i]!)) return false;
    }
    return true;
  };
  if (!fill(0, 0)) return undefined;

  const done = Uint16Array.from(found);
  const next = new Int32Array(count * width).fill(-1);
  // By the counts as digits of one number; an array where that is small, as it mostly is.
  const weights = new Array<number>(width).fill(1);
  for (let i = width - 2; i >= 0; i--) weights[i] = weights[i + 1]! * (lengths[i + 1]! + 1);
  const span = width ? weights[0]! * (lengths[0]! + 1) : 1;
  const dense = span <= 4e6 ? new Int32Array(span).fill(-1) : undefined;
  const sparse = dense ? undefined : new Map<number, number>();
  const codes = new Float64Array(count);
  for (let state = 0; state < count; state++) {
    let code = 0;
    for (let i = 0; i < width; i++) code += weights[i]! * done[state * width + i]!;
    codes[state] = code;
    if (dense) dense[code] = state;
    else sparse!.set(code, state);
  }
  for (let state = 0; state < count; state++) {
    for (let i = 0; i < width; i++) {
      if (done[state * width + i] === lengths[i]) continue;
      const code = codes[state]! + weights[i]!;
      next[state * width + i] = dense ? dense[code]! : (sparse!.get(code) ?? -1);
    }
  }
  return { count, next, done };
}
