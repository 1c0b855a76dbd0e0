/** The same unsigned 32-bit numbers for a seed everywhere: splitmix32. */
export function splitmix32(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x9e3779b9) | 0;
    let z = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return (z ^ (z >>> 15)) >>> 0;
  };
}

/** Reproducible whole numbers below a bound. */
export function randomOf(seed: number): (below: number) => number {
  const next = splitmix32(seed);
  return (below) => next() % below;
}
