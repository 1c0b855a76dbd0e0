import {
  type Cluster,
  documentHash,
  type Level,
  type Link,
  MpoptError,
  type Quantity,
} from "../contracts/index.js";
import { clusterPreset } from "./presets.js";
import { deviceCount, devicesPerNode, evenLevels, uniformDevice } from "./topology.js";

/** Clusters that differ from a given one in one thing, for questions of the kind "what if". */

/** Whether a cluster is one of ours as it stands, so that another size of it is known. */
function presetPart(cluster: Cluster): string | undefined {
  const match = /^([a-z0-9-]+)(:\d+x\d+)?$/.exec(cluster.source);
  if (!match) return undefined;
  try {
    return documentHash(clusterPreset(cluster.source)) === documentHash(cluster) ? match[1] : undefined;
  } catch (error) {
    if (error instanceof MpoptError) return undefined;
    throw error;
  }
}

/**
 * The cluster with another number of devices in nodes of the same size: groups of the outermost level are added or
 * taken away, then those further in.
 * @throws MpoptError E_USAGE where nodes of that size do not make so many devices, or nothing is known of the links
 *   between them; E_INFEASIBLE as `evenLevels`.
 */
export function withDevices(cluster: Cluster, devices: number): Cluster {
  if (devices === deviceCount(cluster)) return cluster;
  const perNode = devicesPerNode(cluster);
  const device = uniformDevice(cluster);
  const size = Math.min(perNode, devices);
  if (devices % size !== 0 || !device) {
    throw new MpoptError(
      "E_USAGE",
      `Expected whole nodes of ${perNode} devices of one kind, as ${cluster.name} has, but found ${devices} devices.`,
    );
  }
  const part = presetPart(cluster);
  if (part) return clusterPreset(`${part}:${size}x${devices / size}`);
  const levels: Level[] = [];
  let left = devices;
  const all = evenLevels(cluster);
  for (const [i, level] of all.entries()) {
    const last = i === all.length - 1;
    const groupSize = Math.min(level.groupSize, left);
    if (left % groupSize !== 0 || (last && i === 0 && left > level.groupSize)) {
      throw new MpoptError(
        "E_USAGE",
        last && i === 0
          ? `Expected at most ${level.groupSize} devices, because ${cluster.name} says nothing of links between nodes, but found ${devices}.`
          : `Expected whole groups of ${groupSize} at level ${level.name} of ${cluster.name} but found ${devices} devices.`,
      );
    }
    const members = last ? left : groupSize;
    left /= members;
    const { groupSizes: _sizes, links: _links, memberLinks: _memberLinks, ...even } = level;
    levels.push({ ...even, groupSize: members });
    if (left === 1) break;
  }
  return {
    ...cluster,
    name: `${cluster.name.replace(/ with \d+ devices$/, "")} with ${devices} devices`,
    devices: [{ ...device, count: devices }],
    topology: { levels },
  };
}

/**
 * The cluster of which a plan took so many devices; undefined where neither it nor so many of its devices have the
 * hash that the plan notes.
 */
export function withHash(
  cluster: Cluster,
  { devices, sha256 }: { devices: number; sha256: string },
): Cluster | undefined {
  if (documentHash(cluster) === sha256) return cluster;
  try {
    const part = withDevices(cluster, devices);
    return documentHash(part) === sha256 ? part : undefined;
  } catch (error) {
    if (error instanceof MpoptError) return undefined;
    throw error;
  }
}

/**
 * The cluster with links of one level so many times as fast; latencies stay. Of measured collectives the time of the
 * smallest one counts as latency.
 * @param level name of the level; the outermost one by default.
 * @throws MpoptError E_USAGE for a level that the cluster lacks.
 */
export function withLinkSpeed(cluster: Cluster, factor: number, level?: string): Cluster {
  const { levels } = cluster.topology;
  const name = level ?? levels.at(-1)!.name;
  if (!levels.some((each) => each.name === name)) {
    throw new MpoptError(
      "E_USAGE",
      `Expected one of the levels ${levels.map((each) => each.name).join(", ")} of ${cluster.name} but found "${name}".`,
    );
  }
  const changed = levels.map((each): Level => {
    if (each.name !== name) return each;
    const { link, links, memberLinks, collectives } = each;
    return {
      ...each,
      ...(link && { link: fasterLink(link, factor) }),
      ...(links && { links: links.map((one) => fasterLink(one, factor)) }),
      ...(memberLinks && { memberLinks: memberLinks.map((one) => fasterLink(one, factor)) }),
      ...(collectives && {
        collectives: collectives.map((curve) => ({
          ...curve,
          points: faster(curve.points, factor),
          ...(curve.link && {
            link: { ...curve.link, bytesPerSecond: scaled(curve.link.bytesPerSecond, factor) },
          }),
          provenance: "assumed" as const,
          source: `${curve.source}, ${factor} times as fast`,
        })),
      }),
    };
  });
  return {
    ...uncalibrated(cluster),
    name: `${cluster.name} with ${name} links x${factor}`,
    topology: { levels: changed },
  };
}

/** No run was made on hardware that does not exist. */
function uncalibrated({ calibration: _runs, ...cluster }: Cluster): Cluster {
  return cluster;
}

function fasterLink(link: Link, factor: number): Link {
  return {
    ...link,
    bytesPerSecond: scaled(link.bytesPerSecond, factor),
    points: faster(link.points, factor),
  };
}

/** Measured times with the part beyond the smallest one's divided. */
function faster(points: Link["points"], factor: number): Link["points"] {
  const floor = points.reduce((least, { seconds }) => Math.min(least, seconds), Number.POSITIVE_INFINITY);
  return points.map(({ bytes, seconds }) => ({ bytes, seconds: floor + (seconds - floor) / factor }));
}

function scaled(quantity: Quantity, factor: number): Quantity {
  return {
    value: quantity.value * factor,
    provenance: "assumed",
    source: `${quantity.source}, ${factor} times as much`,
  };
}

/**
 * As many devices of another part: a preset in place of the cluster, with nodes of the same size.
 * @param reference `PART`, or `PART:GPUS` where its nodes hold another number of devices.
 * @throws MpoptError E_USAGE for an unknown part, or nodes that do not make as many devices.
 */
export function withPart(cluster: Cluster, reference: string): Cluster {
  const [part, given] = reference.split(":");
  const devices = deviceCount(cluster);
  const perNode = given === undefined ? Math.min(devicesPerNode(cluster), devices) : Number(given);
  if (!Number.isInteger(perNode) || perNode < 1 || devices % perNode !== 0) {
    throw new MpoptError(
      "E_USAGE",
      `Expected PART or PART:GPUS with GPUS a node that divide the ${devices} devices of ${cluster.name} but found "${reference}".`,
    );
  }
  return clusterPreset(`${part}:${perNode}x${devices / perNode}`);
}

/**
 * The cluster with devices that do their matrix products, or move their memory, so many times as fast.
 * @param what `gemm` and `attention` for products, `memory` for all that is bound by bandwidth.
 */
export function withDeviceSpeed(
  cluster: Cluster,
  factor: number,
  what: readonly ("gemm" | "attention" | "memory")[],
): Cluster {
  return {
    ...uncalibrated(cluster),
    name: `${cluster.name} with ${what.join(" and ")} x${factor}`,
    devices: cluster.devices.map((device) => {
      const efficiency = { ...device.efficiency };
      for (const kind of what) {
        const before = efficiency[kind] ?? { value: 1, provenance: "assumed", source: "as the curves say" };
        efficiency[kind] = scaled(before, factor);
      }
      return { ...device, efficiency };
    }),
  };
}

/** The cluster with links between devices and host memory, or the framework's calls, so many times as fast. */
export function withHostSpeed(cluster: Cluster, factor: number, what: "links" | "calls"): Cluster {
  return {
    ...uncalibrated(cluster),
    name: `${cluster.name} with host ${what} x${factor}`,
    devices: cluster.devices.map((device) => {
      const { hostBytesPerSecond, callSeconds } = device;
      if (what === "links") {
        return hostBytesPerSecond
          ? { ...device, hostBytesPerSecond: scaled(hostBytesPerSecond, factor) }
          : device;
      }
      if (!callSeconds) return device;
      const forward = scaled(callSeconds.forward, 1 / factor);
      const backward = scaled(callSeconds.backward, 1 / factor);
      return { ...device, callSeconds: { ...callSeconds, forward, backward } };
    }),
  };
}
