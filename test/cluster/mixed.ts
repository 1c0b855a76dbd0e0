import { clusterPreset } from "../../src/cluster/index.js";
import { type Cluster, checkDocument, type Level, type Link } from "../../src/contracts/index.js";

/** A link of so many bytes per second and seconds of latency. */
export function link(bytesPerSecond: number, latencySeconds = 0): Link {
  const quantity = (value: number) => ({ value, provenance: "measured" as const, source: "test" });
  return { bytesPerSecond: quantity(bytesPerSecond), latencySeconds: quantity(latencySeconds), points: [] };
}

/** A checked cluster of the kinds of a preset over levels of its own. */
export function clusterOf(preset: string, levels: Level[], counts?: number[]): Cluster {
  const cluster = clusterPreset(preset);
  const devices = cluster.devices.map((device, i) => ({ ...device, count: counts?.[i] ?? device.count }));
  return checkDocument("cluster", { ...cluster, devices, topology: { levels } }, "test.json");
}
