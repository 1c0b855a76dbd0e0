import { execFile } from "node:child_process";
import { accessSync, constants } from "node:fs";
import { delimiter, join, resolve } from "node:path";

export interface Python {
  /** Absolute path, or what was given in MPOPT_PYTHON. */
  executable: string;
  /** Such as `3.11.7`. */
  version: string;
  /** PyTorch's version; undefined where it cannot be imported. */
  torch?: string;
}

/** Loading PyTorch from a cold disk takes tens of seconds. */
const deadlineMilliseconds = 60_000;

// The version of the interpreter comes first, so that a broken PyTorch does not hide it.
const question = `import json, platform
print(json.dumps(platform.python_version()), flush=True)
try:
    import torch
    print(json.dumps(torch.__version__), flush=True)
except Exception:
    pass
`;

/**
 * Finds a Python: MPOPT_PYTHON, then .venv in `folder`, then VIRTUAL_ENV, then python3 on the PATH. The first that has
 * PyTorch wins; without one, the first that runs. Undefined where there is none.
 */
export async function findPython(
  environment: NodeJS.ProcessEnv = process.env,
  signal?: AbortSignal,
  folder = ".",
): Promise<Python | undefined> {
  let first: Python | undefined;
  for (const executable of candidates(environment, folder)) {
    const found = await askPython(executable, environment, signal);
    if (found?.torch) return found;
    first ??= found;
  }
  return first;
}

/** Asks an interpreter for its version and PyTorch's; undefined where it does not run. */
export function askPython(
  executable: string,
  environment: NodeJS.ProcessEnv = process.env,
  signal?: AbortSignal,
): Promise<Python | undefined> {
  return new Promise((resolvePython) => {
    const options = { env: environment, timeout: deadlineMilliseconds, signal, windowsHide: true };
    execFile(executable, ["-c", question], options, (_error, stdout) => {
      const lines = stdout.split("\n").filter((line) => /^"[^"]+"$/.test(line.trim()));
      const [version, torch] = lines.map((line) => JSON.parse(line) as string);
      if (version === undefined) resolvePython(undefined);
      else resolvePython({ executable, version, ...(torch === undefined ? {} : { torch }) });
    });
  });
}

function candidates(environment: NodeJS.ProcessEnv, folder: string): string[] {
  const { MPOPT_PYTHON, VIRTUAL_ENV, PATH } = environment;
  const found = [
    MPOPT_PYTHON,
    resolve(folder, ".venv", "bin", "python"),
    VIRTUAL_ENV && join(VIRTUAL_ENV, "bin", "python"),
    onPath("python3", PATH),
    onPath("python", PATH),
  ];
  return [...new Set(found.filter((path): path is string => Boolean(path)))];
}

/** The program of that name; undefined where no folder of the path has one. */
export function onPath(name: string, path = ""): string | undefined {
  for (const folder of path.split(delimiter)) {
    const file = join(folder || ".", name);
    try {
      accessSync(file, constants.X_OK);
      return resolve(file);
    } catch {
      // Not in this folder.
    }
  }
  return undefined;
}
