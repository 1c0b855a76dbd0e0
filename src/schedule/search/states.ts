import { type FlatSchedule, jobOrder, weightKind } from "./problem.js";

/**
 * All ways in which one rank's work can stand between two operations: how many each of its chains has done,
 * no more than precedence allows, and within the rank's memory. States come in an order in which work only
 * grows, from nothing to all.
 */
export interface RankStates {
  readonly chains: Int32Array;
  readonly count: number;
  /** State * chains + i: the state after one more operation of chain i, or -1. */
  readonly next: Int32Array;
  /** State * chains + i: operations that chain i has done. */
  readonly done: Uint16Array;
}

/** The rank's chains in the order of the job, each with the place of the chain that bounds its count. */
function orderOf(flat: FlatSchedule, rank: number): { chain: number; bounded: number }[] {
  const chains = jobOrder(flat).filter((chain) => flat.rankOf[chain] === rank);
  return Array.from(chains, (chain, i) => {
    const weight = chain % flat.kinds === weightKind;
    return { chain, bounded: weight ? chains.indexOf(flat.before[chain]!) : i - 1 };
  });
}

/** The states of a rank, or undefined where there are more than `most`. */
export function statesOfRank(flat: FlatSchedule, rank: number, most: number): RankStates | undefined {
  const order = orderOf(flat, rank);
  const width = order.length;
  const m = flat.microBatches;
  const bytes = order.map(({ chain }) => flat.bytes[chain]!);
  const limit = flat.limit[rank]!;
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
    const top = order[i]!.bounded === -1 ? m : now[order[i]!.bounded]!;
    for (let done = 0; done <= top; done++) {
      now[i] = done;
      if (!fill(i + 1, held + done * bytes[i]!)) return false;
    }
    return true;
  };
  if (!fill(0, 0)) return undefined;

  const done = Uint16Array.from(found);
  const next = new Int32Array(count * width).fill(-1);
  // By the counts as one number in base m + 1; dense where that is small enough, which it mostly is.
  const span = (m + 1) ** width;
  const dense = span <= 4e6 ? new Int32Array(span).fill(-1) : undefined;
  const sparse = dense ? undefined : new Map<number, number>();
  const weights = Array.from({ length: width }, (_, i) => (m + 1) ** (width - 1 - i));
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
      if (done[state * width + i] === m) continue;
      const code = codes[state]! + weights[i]!;
      next[state * width + i] = dense ? dense[code]! : (sparse!.get(code) ?? -1);
    }
  }
  return { chains: Int32Array.from(order, ({ chain }) => chain), count, next, done };
}
