import { readdirSync } from "node:fs";
import { join } from "node:path";
import { evenLevels } from "../cluster/index.js";
import { type Cluster, MpoptError, readDocument, serialize, writeFileAtomic } from "../contracts/index.js";
import { sizedCluster } from "./clusters.js";
import { quantile } from "./statistics.js";
import type { CalibratedKind, Calibration, RunInputs } from "./types.js";

/** Agreement of a kind's runs with the fit, as a cluster document carries it. */
function agreement({ residuals }: CalibratedKind, source: string): Cluster["calibration"] {
  if (residuals.length === 0) return undefined;
  const sizes = residuals.map(({ error }) => Math.abs(error));
  return {
    rows: residuals.length,
    bias: residuals.reduce((sum, { error }) => sum + error, 0) / residuals.length,
    p50: quantile(sizes, 0.5)!,
    p90: quantile(sizes, 0.9)!,
    source,
    date: new Date().toISOString().slice(0, 10),
  };
}

/**
 * The document of a calibrated kind: as large as its largest run, and at least so large that every level is there.
 * Its name is the kind.
 */
export function kindDocument(
  kind: string,
  calibrated: CalibratedKind,
  runs: readonly RunInputs[],
  source: string,
): Cluster {
  const own = runs.filter((run) => run.kind === kind);
  const devicesPerNode = Math.max(
    evenLevels(calibrated.cluster)[0]!.groupSize,
    ...own.map((run) => run.devicesPerNode),
  );
  const levels = evenLevels(calibrated.cluster).slice(1);
  // Two groups of the outermost level.
  const least = levels
    .slice(0, -1)
    .reduce((nodes, level) => nodes * level.groupSize, levels.length > 0 ? 2 : 1);
  const nodes = Math.max(least, ...own.map((run) => run.nodes));
  const cluster = sizedCluster(calibrated.cluster, devicesPerNode, nodes) ?? calibrated.cluster;
  return {
    ...cluster,
    name: kind,
    source: `${cluster.source}, fitted to runs of ${source}`,
    calibration: agreement(calibrated, source),
  };
}

/**
 * Writes one `mpopt.cluster/1` file for each kind into a folder.
 * @param runs of the calibration.
 * @returns the paths.
 * @throws MpoptError E_FILE.
 */
export function writeClusters(
  folder: string,
  calibration: Calibration,
  runs: readonly RunInputs[],
  source: string,
): string[] {
  return Object.entries(calibration.kinds).map(([kind, calibrated]) => {
    const path = join(folder, `${kind.replace(/[^\w.-]+/g, "-")}.json`);
    writeFileAtomic(path, serialize(kindDocument(kind, calibrated, runs, source)));
    return path;
  });
}

/**
 * Reads the clusters of a folder that `writeClusters` wrote, by kind.
 * @throws MpoptError E_FILE for a folder that cannot be read or holds no cluster, and what `readDocument` throws.
 */
export function readClusters(folder: string): Map<string, Cluster> {
  let names: string[];
  try {
    names = readdirSync(folder).filter((name) => name.endsWith(".json"));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const found =
      code === "ENOENT" ? "it does not exist" : code === "ENOTDIR" ? "it is a file" : String(code);
    throw new MpoptError("E_FILE", `Expected a folder of cluster files at ${folder} but ${found}.`);
  }
  if (names.length === 0) {
    throw new MpoptError("E_FILE", `Expected cluster files in ${folder} but found none.`, [
      "`mpopt validate RUNS.csv --calibrate RUNS.csv -o DIR` writes them.",
    ]);
  }
  return new Map(
    names.sort().map((name) => {
      const cluster = readDocument("cluster", join(folder, name));
      return [cluster.name, cluster];
    }),
  );
}
