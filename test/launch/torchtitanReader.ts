import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

/** What a module says: arguments of each call by the name that is called, and assignments. */
export interface ReadModule {
  calls: Record<string, Record<string, unknown>[]>;
  constants: Record<string, unknown>;
  assigned: Record<string, unknown>;
  functions: string[];
}

const reader = fileURLToPath(new URL("torchtitanReader.py", import.meta.url));

/** Parses modules with Python's own parser, all in one process. */
export function readModules(sources: readonly string[], python: string): ReadModule[] {
  const input = sources.map((source) => JSON.stringify(source)).join("\n");
  const { status, stdout, stderr } = spawnSync(python, [reader], {
    input,
    encoding: "utf8",
    maxBuffer: 2 ** 30,
  });
  if (status !== 0) throw new Error(stderr);
  return stdout
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as ReadModule);
}
