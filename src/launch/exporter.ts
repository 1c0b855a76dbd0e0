import { existsSync, realpathSync } from "node:fs";
import { dirname, isAbsolute, join, relative, resolve, sep } from "node:path";
import { MpoptError, type Plan, type Runtime, writeFileAtomic } from "../contracts/index.js";

/** Turns a plan into the files that one launcher reads. */
export interface Exporter {
  /** What `--to` calls it. */
  name: string;
  /** What plans for it are searched for. */
  runtime: Runtime;
  /** What the launcher cannot express of this plan, one sentence each; empty where nothing is lost. */
  lossy(plan: Plan): string[];
  /** Path below the output folder → content. Paths ending in `.sh` are made executable. */
  files(plan: Plan): Record<string, string>;
}

export interface ExportResult {
  target: string;
  folder: string;
  /** Absolute paths of the files written. */
  files: string[];
  /** What was lost, where the caller allowed it. */
  lost: string[];
}

/**
 * Writes a plan in a launcher's form. All files are made before the first is written, and each appears whole.
 * @throws MpoptError E_LOSSY when the launcher cannot express the plan and `allowLossy` is not set, E_USAGE
 *   for a path outside the folder, E_FILE when a file cannot be written.
 */
export function writeExport(
  exporter: Exporter,
  plan: Plan,
  folder: string,
  options: { allowLossy?: boolean } = {},
): ExportResult {
  const lost = exporter.lossy(plan);
  if (lost.length && !options.allowLossy) {
    const [first, ...others] = lost;
    throw new MpoptError(
      "E_LOSSY",
      `Expected a plan that ${exporter.name} can express but found this: ${first}`,
      [
        ...others,
        "Plan for this launcher with --runtime, or export with --allow-lossy to drop what it cannot express.",
      ],
    );
  }
  const root = resolve(folder);
  const files = Object.entries(exporter.files(plan)).map(([path, content]) => ({
    path: pathInside(root, path),
    content,
  }));
  for (const { path, content } of files) {
    writeFileAtomic(path, content, path.endsWith(".sh") ? 0o755 : 0o644);
  }
  return { target: exporter.name, folder: root, files: files.map(({ path }) => path), lost };
}

/** Absolute path of a file below `root`, whose folders may be links but not out of `root`. */
function pathInside(root: string, path: string): string {
  const full = resolve(root, path);
  const inside = (from: string, to: string) => {
    const step = relative(from, to);
    return step !== ".." && !step.startsWith(`..${sep}`) && !isAbsolute(step);
  };
  let folder = dirname(full);
  while (!existsSync(folder)) folder = dirname(folder);
  const real = existsSync(root) ? realpathSync(root) : undefined;
  const linked = real !== undefined && inside(root, folder) && !inside(real, realpathSync(folder));
  if (path === "" || full === root || isAbsolute(path) || !inside(root, full) || linked) {
    throw new MpoptError("E_USAGE", `Expected a file below ${root} but found ${join(path)}.`);
  }
  return full;
}
