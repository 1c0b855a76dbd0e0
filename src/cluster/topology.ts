import { type Cluster, type Device, type Level, type Link, MpoptError } from "../contracts/index.js";

/** Devices of the cluster, all kinds together. */
export function deviceCount(cluster: Cluster): number {
  return cluster.devices.reduce((sum, device) => sum + device.count, 0);
}

/** The kind of the first devices: the one that other kinds are compared with where a cluster has several. */
export function referenceDevice(cluster: Cluster): Device {
  return cluster.devices[0]!;
}

/** The device kind that all ranks have; undefined where there are several. */
export function uniformDevice(cluster: Cluster): Device | undefined {
  return cluster.devices.length === 1 ? cluster.devices[0] : undefined;
}

/** A level whose groups are all alike. */
export type EvenLevel = Level & { groupSize: number; link: Link };

const same = (a: unknown, b: unknown) => a === b || JSON.stringify(a) === JSON.stringify(b);
const alike = (list: readonly unknown[]) => list.every((each) => same(each, list[0]));

/** What keeps a cluster from being equal groups with equal links, in words; undefined where nothing does. */
function unevenness({ topology }: Cluster): string | undefined {
  for (const { name, groupSizes, links, memberLinks } of topology.levels) {
    if (groupSizes && !alike(groupSizes)) {
      const sizes = [...new Set(groupSizes)].sort((a, b) => b - a);
      return `groups of ${listed(sizes)} at level ${name}`;
    }
    if (!alike(links ?? memberLinks ?? [])) return `links that differ at level ${name}`;
  }
  return undefined;
}

/**
 * What keeps a cluster from being equal hosts of one device kind, in words: "devices of h100-sxm and a100-80";
 * undefined where nothing does.
 */
export function mixture(cluster: Cluster): string | undefined {
  const kinds = [...new Set(cluster.devices.map((device) => device.kind))];
  if (kinds.length > 1) return `devices of ${listed(kinds)}`;
  if (!uniformDevice(cluster)) return `${cluster.devices.length} entries of ${kinds[0]}`;
  return unevenness(cluster);
}

function listed(words: readonly (string | number)[]): string {
  return words.length === 1 ? `${words[0]}` : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
}

/**
 * The levels of a cluster whose groups are all alike.
 * @throws MpoptError E_INFEASIBLE for any other cluster: what asks can only answer for equal groups.
 */
export function evenLevels(cluster: Cluster): EvenLevel[] {
  const found = unevenness(cluster);
  if (found) {
    throw new MpoptError(
      "E_INFEASIBLE",
      `Expected equal groups at every level of ${cluster.name} but found ${found}.`,
    );
  }
  return cluster.topology.levels.map((level) => ({
    ...level,
    groupSize: level.groupSize ?? level.groupSizes![0]!,
    link: level.link ?? (level.links ?? level.memberLinks)![0]!,
  }));
}

/** Devices in one group of the innermost level. @throws MpoptError as `evenLevels`. */
export function devicesPerNode(cluster: Cluster): number {
  return evenLevels(cluster)[0]!.groupSize;
}

/** Devices from `start` up to, not including, `end`. */
export interface DeviceRange {
  start: number;
  end: number;
}

/** One group of a level with what it joins. */
export interface LevelGroup extends DeviceRange {
  /** Each member with its link into the group. */
  members: (DeviceRange & { link: Link })[];
}

/** Groups of every level, innermost first, in the order of their devices; hosts may differ in all. */
export function levelGroups(cluster: Cluster): LevelGroup[][] {
  let members: DeviceRange[] = Array.from({ length: deviceCount(cluster) }, (_, device) => ({
    start: device,
    end: device + 1,
  }));
  return cluster.topology.levels.map(({ groupSize, groupSizes, link, links, memberLinks }) => {
    const sizes = groupSizes ?? new Array<number>(members.length / groupSize!).fill(groupSize!);
    let at = 0;
    const groups = sizes.map((size, group): LevelGroup => {
      const inside = members.slice(at, at + size).map((member, i) => ({
        ...member,
        link: memberLinks?.[at + i] ?? links?.[group] ?? link!,
      }));
      at += size;
      return { start: inside[0]!.start, end: inside.at(-1)!.end, members: inside };
    });
    members = groups;
    return groups;
  });
}

/** The pace of links that work together: the lowest bandwidth and the longest latency of them. */
export function slowestOf(links: readonly Link[]): Link {
  if (alike(links)) return links[0]!;
  const bytesPerSecond = links.map((link) => link.bytesPerSecond);
  const latencySeconds = links.map((link) => link.latencySeconds);
  return {
    bytesPerSecond: bytesPerSecond.reduce((a, b) => (b.value < a.value ? b : a)),
    latencySeconds: latencySeconds.reduce((a, b) => (b.value > a.value ? b : a)),
    points: [],
  };
}

/** Devices that fast links join, and the slowest of those links. */
export interface FastDomain extends DeviceRange {
  link: Link;
}

/**
 * The devices by the fast links that join them: groups of the innermost level, merged where a level above has
 * at least half their bandwidth.
 */
export function fastDomains(cluster: Cluster): FastDomain[] {
  const [innermost, ...outer] = levelGroups(cluster);
  let domains: (FastDomain & { fastest: number })[] = innermost!.map(({ start, end, members }) => {
    const link = slowestOf(members.map((member) => member.link));
    return { start, end, link, fastest: link.bytesPerSecond.value };
  });
  for (const groups of outer) {
    domains = groups.flatMap(({ start, end, members }) => {
      const inside = domains.filter((domain) => domain.start >= start && domain.end <= end);
      const link = slowestOf(members.map((member) => member.link));
      const fastest = Math.max(...inside.map((domain) => domain.fastest));
      // A domain that fills a member's whole range may grow; a member that fell apart stays so.
      if (inside.length > members.length || link.bytesPerSecond.value < fastest / 2) return inside;
      return { start, end, link: slowestOf([link, ...inside.map((domain) => domain.link)]), fastest };
    });
  }
  return domains.map(({ start, end, link }) => ({ start, end, link }));
}

/** Devices in each of the equal domains that fast links join. @throws MpoptError as `evenLevels`. */
export function fastDomain(cluster: Cluster): number {
  evenLevels(cluster);
  const [first] = fastDomains(cluster);
  return first!.end - first!.start;
}

/** Ranks of one communicator: `size` of them, `stride` apart, in a cluster whose ranks fill level by level. */
export interface Group {
  size: number;
  stride: number;
}

/** One level that a group's traffic passes, with how many of the group's ranks sit in one unit below it. */
export interface Crossing {
  level: EvenLevel;
  /** Units of the level below that the group touches inside one group of this level. */
  units: number;
  /** Ranks of the group that share one such unit, and so its links upward. */
  ranksPerUnit: number;
}

/**
 * The levels that a group crosses, innermost first. A group of 16 with stride 1 on nodes of 8 crosses the
 * node (8 units of one rank) and the network (2 units of 8 ranks).
 */
export function crossings(levels: readonly EvenLevel[], group: Group): Crossing[] {
  const result: Crossing[] = [];
  const span = group.size * group.stride;
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
