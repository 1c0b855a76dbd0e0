/** Numbers in [0, 1). */
export type Random = () => number;

/** The same numbers for a seed everywhere: xorshift32 (Marsaglia, Journal of Statistical Software 8, 2003). */
export function randomOf(seed: number): Random {
  // Mixes near seeds apart; zero is the one state that xorshift cannot leave.
  let state = Math.imul((seed | 0) ^ 0x5bd1e995, 0x9e3779b1) | 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}
