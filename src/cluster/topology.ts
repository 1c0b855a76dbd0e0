import type { Cluster, Device, Level } from "../contracts/index.js";

/** Devices of the cluster, all kinds together. */
export function deviceCount(cluster: Cluster): number {
  return cluster.devices.reduce((sum, device) => sum + device.count, 0);
}

/** Devices in one group of the innermost level. */
export function devicesPerNode(cluster: Cluster): number {
  return cluster.topology.levels[0]!.groupSize;
}

/** The device kind that all ranks have. Clusters of several kinds come with heterogeneous planning. */
export function uniformDevice(cluster: Cluster): Device | undefined {
  return cluster.devices.length === 1 ? cluster.devices[0] : undefined;
}

/** Devices that the fast links join: the innermost level, and those above with at least half its bandwidth. */
export function fastDomain(cluster: Cluster): number {
  const [first, ...others] = cluster.topology.levels;
  let size = first!.groupSize;
  for (const level of others) {
    if (level.link.bytesPerSecond.value < first!.link.bytesPerSecond.value / 2) break;
    size *= level.groupSize;
  }
  return size;
}

/** Ranks of one communicator: `size` of them, `stride` apart, in a cluster whose ranks fill level by level. */
export interface Group {
  size: number;
  stride: number;
}

/** One level that a group's traffic passes, with how many of the group's ranks sit in one unit below it. */
export interface Crossing {
  level: Level;
  /** Units of the level below that the group touches inside one group of this level. */
  units: number;
  /** Ranks of the group that share one such unit, and so its links upward. */
  ranksPerUnit: number;
}

/**
 * The levels that a group crosses, innermost first. A group of 16 with stride 1 on nodes of 8 crosses the
 * node (8 units of one rank) and the network (2 units of 8 ranks).
 */
export function crossings(cluster: Cluster, group: Group): Crossing[] {
  const result: Crossing[] = [];
  const span = group.size * group.stride;
  const { levels } = cluster.topology;
  let unitDevices = 1;
  let ranksPerUnit = 1;
  for (const [i, level] of levels.entries()) {
    const groupDevices = unitDevices * level.groupSize;
    const fits = Math.min(group.size, Math.max(1, Math.floor(groupDevices / group.stride)));
    // Groups that do not divide the level's group straddle its border somewhere: half on each side.
    const straddles = fits === group.size && groupDevices % span !== 0 && i < levels.length - 1;
    const ranksPerGroup = straddles ? Math.max(1, Math.floor(group.size / 2)) : fits;
    const units = Math.ceil(ranksPerGroup / ranksPerUnit);
    if (units > 1) result.push({ level, units, ranksPerUnit });
    unitDevices = groupDevices;
    ranksPerUnit = ranksPerGroup;
    if (ranksPerGroup === group.size) break;
  }
  return result;
}
