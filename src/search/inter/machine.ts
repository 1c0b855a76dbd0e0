import { type Cluster, MpoptError } from "../../contracts/index.js";

/**
 * Devices in a line, as inter-operator planning sees them: neighbours in the line are neighbours on the
 * machine, and a stage takes a run of them.
 */
export interface Machine {
  devices: number;
  /** Bytes that a plan may fill, by device. */
  memoryBytes: Float64Array;
  /** Time of a layer on the device over its time in the graph's tables; 1 is as fast. */
  slowdown: Float64Array;
  /** Innermost first; the last level holds all devices in one group. */
  levels: MachineLevel[];
}

export interface MachineLevel {
  /** Group of each device. */
  groupOf: Int32Array;
  /** By group: the links that join its members. */
  latencySeconds: number[];
  bytesPerSecond: number[];
}

/** The link between two devices: that of the innermost group that holds both. */
export function linkBetween(machine: Machine, a: number, b: number): { latency: number; bandwidth: number } {
  for (const { groupOf, latencySeconds, bytesPerSecond } of machine.levels) {
    const group = groupOf[a]!;
    if (group === groupOf[b]) return { latency: latencySeconds[group]!, bandwidth: bytesPerSecond[group]! };
  }
  throw new MpoptError("E_FIELD", `Expected a level that joins devices ${a} and ${b} but found none.`);
}

/** Seconds to send bytes from one device to another. */
export function sendSeconds(machine: Machine, bytes: number, a: number, b: number): number {
  if (bytes === 0) return 0;
  const { latency, bandwidth } = linkBetween(machine, a, b);
  return latency + bytes / bandwidth;
}

/** The slowest link of a ring over `count` devices, `stride` apart from `first`. */
export function ringLink(
  machine: Machine,
  first: number,
  count: number,
  stride: number,
): { latency: number; bandwidth: number } {
  let latency = 0;
  let bandwidth = Number.POSITIVE_INFINITY;
  if (count === 1) return { latency, bandwidth };
  for (let i = 0; i < count; i++) {
    const link = linkBetween(machine, first + i * stride, first + ((i + 1) % count) * stride);
    latency = Math.max(latency, link.latency);
    bandwidth = Math.min(bandwidth, link.bandwidth);
  }
  return { latency, bandwidth };
}

/**
 * Seconds of a ring all-reduce over `count` devices: 2 (n - 1) hops of a part of the bytes, each at the pace of
 * the slowest link in the ring (nccl-tests, doc/PERFORMANCE.md).
 */
export function ringSeconds(
  bytes: number,
  count: number,
  link: { latency: number; bandwidth: number },
): number {
  if (count === 1 || bytes === 0) return 0;
  return 2 * (count - 1) * (link.latency + bytes / count / link.bandwidth);
}

/** A machine of equal hosts, with the cluster's links between neighbours. */
export function machineOf(cluster: Cluster, memoryFraction: number): Machine {
  const devices = cluster.devices.reduce((sum, each) => sum + each.count, 0);
  const memoryBytes = new Float64Array(devices);
  const slowdown = new Float64Array(devices);
  const rate = (index: number) => {
    const gemm = cluster.devices[index]!.compute.filter((table) => table.operator === "gemm");
    return Math.max(...gemm.flatMap((table) => table.points.map((point) => point.rate)));
  };
  let at = 0;
  cluster.devices.forEach((kind, index) => {
    for (let i = 0; i < kind.count; i++, at++) {
      memoryBytes[at] = kind.memoryBytes.value * memoryFraction;
      slowdown[at] = rate(0) / rate(index);
    }
  });
  let size = 1;
  const levels = cluster.topology.levels.map((level): MachineLevel => {
    size *= level.groupSize;
    const groups = Math.ceil(devices / size);
    return {
      groupOf: Int32Array.from({ length: devices }, (_, device) => Math.floor(device / size)),
      latencySeconds: new Array(groups).fill(level.link.latencySeconds.value),
      bytesPerSecond: new Array(groups).fill(level.link.bytesPerSecond.value),
    };
  });
  return { devices, memoryBytes, slowdown, levels };
}
