import { deviceCount, fastDomain } from "../cluster/index.js";
import { type Cluster, type Job, MpoptError, type Recompute } from "../contracts/index.js";
import { type Configuration, singleDevice } from "./configuration.js";

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

/** Micro-batches larger than this many sequences are not searched: no kernel gains from them. */
export const largestMicroBatch = 64;

const recomputes: readonly Recompute[] = ["none", "selective", "full"];

/** Degrees of one way to use all devices. */
export interface Degrees {
  tensor: number;
  pipeline: number;
  data: number;
}

/**
 * All ways to divide the devices: degrees multiply to the device count, tensor parallelism stays inside the
 * fast links, the pipeline has at most one stage more than block layers at each end, the batch divides.
 * @throws MpoptError E_INFEASIBLE, with the rule that excludes everything.
 */
export function enumerateDegrees(cluster: Cluster, job: Job, blockLayers: number): Degrees[] {
  const devices = deviceCount(cluster);
  const domain = fastDomain(cluster);
  const { pins, globalBatch } = job;
  const result: Degrees[] = [];
  let fitsModel = false;
  for (const tensor of divisors(devices)) {
    if (tensor > domain || domain % tensor !== 0 || !pinned(pins.tensor, tensor)) continue;
    for (const pipeline of divisors(devices / tensor)) {
      if (pipeline > blockLayers + 2 || !pinned(pins.pipeline, pipeline)) continue;
      const data = devices / tensor / pipeline;
      if (!pinned(pins.data, data)) continue;
      fitsModel = true;
      if (globalBatch % data === 0) result.push({ tensor, pipeline, data });
    }
  }
  if (result.length > 0) return result;
  const named = Object.entries(pins)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name} ${value}`);
  if (!fitsModel) {
    const which = named.length > 0 ? ` with ${named.join(", ")} pinned` : "";
    throw new MpoptError(
      "E_INFEASIBLE",
      `Expected degrees that multiply to ${devices} devices${which} but found none with tensor parallelism inside ${domain} devices and at most ${blockLayers + 2} stages.`,
      ["Remove a pin, or change the number of devices."],
    );
  }
  throw new MpoptError(
    "E_INFEASIBLE",
    `Expected a global batch that some data-parallel degree divides but found ${globalBatch} for ${devices} devices.`,
    [`Use a multiple of ${smallestBatch(devices, domain, blockLayers)}, or fewer devices.`],
  );
}

/** The smallest data-parallel degree that the devices allow: every batch must be a multiple of some degree. */
function smallestBatch(devices: number, domain: number, blockLayers: number): number {
  let smallest = devices;
  for (const tensor of divisors(devices)) {
    if (tensor > domain || domain % tensor !== 0) continue;
    for (const pipeline of divisors(devices / tensor)) {
      if (pipeline <= blockLayers + 2) smallest = Math.min(smallest, devices / tensor / pipeline);
    }
  }
  return smallest;
}

function pinned<T>(pin: T | undefined, value: T): boolean {
  return pin === undefined || pin === value;
}

/** All configurations of one division of the devices. */
export function enumerateConfigurations(job: Job, degrees: Degrees): Configuration[] {
  const { pins, globalBatch } = job;
  const perReplica = globalBatch / degrees.data;
  const result: Configuration[] = [];
  for (const microBatch of divisors(perReplica)) {
    if (microBatch > largestMicroBatch && microBatch !== pins.microBatch) continue;
    if (!pinned(pins.microBatch, microBatch)) continue;
    for (const sequenceParallel of degrees.tensor > 1 ? [true, false] : [false]) {
      if (pins.sequenceParallel !== undefined && degrees.tensor > 1) {
        if (pins.sequenceParallel !== sequenceParallel) continue;
      }
      if (sequenceParallel && job.sequence % degrees.tensor !== 0) continue;
      for (const recompute of recomputes) {
        if (!pinned(pins.recompute, recompute)) continue;
        for (const zero of degrees.data > 1 ? ([1, 0] as const) : ([0] as const)) {
          if (pins.zero !== undefined && degrees.data > 1 && pins.zero !== zero) continue;
          const microBatches = perReplica / microBatch;
          result.push({
            ...singleDevice,
            ...degrees,
            expertTensor: degrees.tensor,
            microBatch,
            microBatches,
            sequenceParallel,
            recompute,
            zero,
            shards: zero > 0 ? degrees.data : 1,
          });
        }
      }
    }
  }
  return result;
}

/** One line that names a configuration. */
export function describeConfiguration(configuration: Configuration): string {
  const { tensor, pipeline, data, microBatch, sequenceParallel, recompute, zero } = configuration;
  const parts = [`tensor ${tensor}`, `pipeline ${pipeline}`, `data ${data}`, `micro-batch ${microBatch}`];
  if (sequenceParallel) parts.push("sequence parallel");
  if (zero > 0) parts.push(`ZeRO-${zero}`);
  parts.push(`recompute ${recompute}`);
  return parts.join(", ");
}
