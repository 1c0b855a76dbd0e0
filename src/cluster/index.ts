import { existsSync } from "node:fs";
import { type Cluster, MpoptError, readDocument } from "../contracts/index.js";
import { clusterPreset } from "./presets.js";
import { deviceCount } from "./topology.js";

export { clusterPreset, clusterPresetNames } from "./presets.js";
export * from "./topology.js";

/**
 * Loads a cluster: a `mpopt.cluster/1` file, or a preset such as `h100-sxm:8x16`.
 * @throws MpoptError E_USAGE, E_FILE, E_PARSE, E_FIELD or E_VERSION.
 */
export function loadCluster(reference: string): Cluster {
  const looksLikeFile = /[/\\]|\.json$/.test(reference);
  if (!looksLikeFile && !existsSync(reference)) return clusterPreset(reference);
  const cluster = readDocument("cluster", reference);
  const inTopology = cluster.topology.levels.reduce((product, level) => product * level.groupSize, 1);
  if (inTopology !== deviceCount(cluster)) {
    throw new MpoptError(
      "E_FIELD",
      `${reference}: expected the group sizes of field topology.levels to multiply to the ${deviceCount(cluster)} devices but found ${inTopology}.`,
    );
  }
  return { ...cluster, source: reference };
}
