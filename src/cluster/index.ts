import { existsSync } from "node:fs";
import { type Cluster, readDocument } from "../contracts/index.js";
import { clusterPreset } from "./presets.js";

export { clusterPreset, clusterPresetNames } from "./presets.js";
export * from "./topology.js";
export {
  withDeviceSpeed,
  withDevices,
  withHash,
  withHostSpeed,
  withLinkSpeed,
  withPart,
} from "./variants.js";

/**
 * Loads a cluster: a `mpopt.cluster/1` file, or a preset such as `h100-sxm:8x16` or `h100-sxm:8x2+a100-80:4x3`.
 * @throws MpoptError E_USAGE, E_FILE, E_PARSE, E_FIELD or E_VERSION.
 */
export function loadCluster(reference: string): Cluster {
  const looksLikeFile = /[/\\]|\.json$/.test(reference);
  if (!looksLikeFile && !existsSync(reference)) return clusterPreset(reference);
  return { ...readDocument("cluster", reference), source: reference };
}
