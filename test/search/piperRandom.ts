/** Reproducible numbers (splitmix32): whole ones below a bound, real ones below 1. */
export function randomOf(seed: number): { whole(below: number): number; real(): number } {
  let state = (seed * 0x632be5ab) | 0;
  const word = () => {
    state = (state + 0x9e3779b9) | 0;
    let z = state ^ (state >>> 16);
    z = Math.imul(z, 0x21f0aaad);
    z ^= z >>> 15;
    z = Math.imul(z, 0x735a2d97);
    return (z ^ (z >>> 15)) >>> 0;
  };
  return { whole: (below) => word() % below, real: () => word() / 2 ** 32 };
}
