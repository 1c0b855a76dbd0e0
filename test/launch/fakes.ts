import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";
import { onPath } from "../../src/launch/python.js";

/** The Python that runs what these tests start; it needs no PyTorch. */
export const realPython = executable();

/** What `python3` stands for: stand-ins for it that choose a version cost a second each time. */
function executable(): string | undefined {
  const found = onPath("python3", process.env.PATH);
  if (!found) return undefined;
  const say = "import sys; print(sys.executable)";
  return execFileSync(found, ["-c", say], { encoding: "utf8" }).trim();
}

/** A Python that has PyTorch by its own account. */
export function pretendingPython(folder: string): string {
  const path = join(folder, "python3");
  const answer = `if [ "$1" = -c ]; then printf '"3.11.0"\\n"2.13.0"\\n'; exit 0; fi`;
  writeFileSync(path, `#!/bin/sh\n${answer}\nexec "${realPython}" "$@"\n`, { mode: 0o755 });
  return path;
}

/** A PATH on which the starters are stand-ins: see `fakeStarter.py`. */
export function pathWithStarters(folder: string, names: readonly string[]): string {
  const bin = join(folder, "bin");
  mkdirSync(bin, { recursive: true });
  const script = readFileSync(fileURLToPath(new URL("fakeStarter.py", import.meta.url)), "utf8");
  for (const name of names) writeFileSync(join(bin, name), `#!${realPython}\n${script}`, { mode: 0o755 });
  return [bin, process.env.PATH].join(delimiter);
}
