import type { Configuration } from "./configuration.js";

/** Divisors of n, ascending. */
export function divisors(n: number): number[] {
  const small: number[] = [];
  const large: number[] = [];
  for (let d = 1; d * d <= n; d++) {
    if (n % d !== 0) continue;
    small.push(d);
    if (d * d !== n) large.unshift(n / d);
  }
  return [...small, ...large];
}

/** One line that names a configuration. */
export function describeConfiguration(configuration: Configuration): string {
  const { tensor, context, pipeline, data, expert, expertTensor, microBatch } = configuration;
  const { sequenceParallel, contextExchange, recompute, recomputeLayers, zero, shards, offload } =
    configuration;
  const parts = [`tensor ${tensor}`];
  if (context > 1) parts.push(`context ${context} (${contextExchange})`);
  parts.push(`pipeline ${pipeline}`, `data ${data}`);
  if (expert > 1) parts.push(`expert ${expert}`);
  if (expert > 1 && expertTensor !== tensor) parts.push(`expert tensor ${expertTensor}`);
  parts.push(`micro-batch ${microBatch}`);
  if (sequenceParallel) parts.push("sequence parallel");
  if (zero > 0)
    parts.push(shards === data * context ? `ZeRO-${zero}` : `ZeRO-${zero} in groups of ${shards}`);
  parts.push(`recompute ${recompute}`);
  if (recomputeLayers > 0) parts.push(`${recomputeLayers} layers of each stage whole`);
  if (offload !== "none") parts.push(offload === "both" ? "offload all" : `offload ${offload}`);
  return parts.join(", ");
}
