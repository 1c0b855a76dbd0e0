import { availableParallelism, cpus, totalmem } from "node:os";
import type { Command } from "commander";
import { checkAddon, listDevices, type NativeReport } from "../cluster/native.js";
import { MpoptError, version } from "../contracts/index.js";
import { defineCommand } from "./context.js";
import { type PythonFacts, pythonFacts } from "./python.js";

/** One thing that mpopt uses. */
export interface Check {
  name: string;
  found: boolean;
  /** What was found, or why nothing was. */
  detail: string;
  /** How to get it, and what it is for; only where it was not found. */
  remedy?: string;
}

interface BuildTools {
  findProgram(...names: string[]): string | undefined;
  findCompiler(): string | undefined;
}

/** The command `mpopt doctor`. */
export function doctorCommand(): Command {
  return defineCommand(
    "doctor",
    "Report what was found on this machine, what is missing and how to get it.",
    "mpopt doctor",
    async (context) => {
      const checks = await examine(context.signal);
      context.print(doctorText(checks));
      context.result({ mpopt: version, node: process.versions.node, checks });
    },
  );
}

/** Looks at the machine; a missing part is an answer, not an error. */
export async function examine(signal?: AbortSignal): Promise<Check[]> {
  const tools = (await import(new URL("../../scripts/build-native.mjs", import.meta.url).href)) as BuildTools;
  const python = await pythonFacts(signal);
  const addon = await addonCheck(signal);
  return [
    present("processor", cpus()[0]?.model.trim() || process.arch),
    present("cores", String(availableParallelism())),
    present("memory", `${(usableMemory() / 1e9).toFixed(1)} GB`),
    program("C++ compiler", tools.findCompiler(), "apt-get install g++; builds the native addon"),
    program("cmake", tools.findProgram("cmake"), "apt-get install cmake; builds the native addon"),
    addon,
    ...(await gpuChecks(addon, python, signal)),
    ...pythonChecks(python),
    program("Slurm (srun)", tools.findProgram("srun"), "only on a Slurm cluster"),
    program("Kubernetes (kubectl)", tools.findProgram("kubectl"), "only for Kubernetes clusters"),
  ];
}

function present(name: string, detail: string): Check {
  return { name, found: true, detail };
}

function absent(name: string, detail: string, remedy: string): Check {
  return { name, found: false, detail, remedy };
}

function program(name: string, path: string | undefined, remedy: string): Check {
  return path ? present(name, path) : absent(name, "not on PATH", remedy);
}

/** The host's memory, cut to the control group's limit where Node knows one. */
function usableMemory(): number {
  const limit = process.constrainedMemory?.();
  return limit ? Math.min(totalmem(), limit) : totalmem();
}

async function addonCheck(signal?: AbortSignal): Promise<Check> {
  const name = "native addon";
  try {
    return present(name, `loads: ${await checkAddon({ signal })}`);
  } catch (error) {
    if (!(error instanceof MpoptError) || error.code === "E_CANCELLED") throw error;
    return absent(name, error.message, error.notes[0] ?? "npx mpopt build-native");
  }
}

async function gpuChecks(
  addon: Check,
  python: PythonFacts | undefined,
  signal?: AbortSignal,
): Promise<Check[]> {
  const names = ["GPU driver", "cuBLASLt", "NCCL"] as const;
  const unknown = (detail: string, remedy: string) => names.map((name) => absent(name, detail, remedy));
  if (!addon.found)
    return unknown("not looked for: the native addon does not load", "npx mpopt build-native");
  let report: NativeReport;
  try {
    const environment: Record<string, string> = {};
    if (python?.sites.length) environment.MPOPT_PYTHON_SITE = python.sites.join(":");
    report = await listDevices("cuda", { environment, signal });
  } catch (error) {
    if (!(error instanceof MpoptError) || error.code === "E_CANCELLED") throw error;
    const [driver, ...others] = unknown("not looked for: no GPU", "only needed on a machine with a GPU");
    return [{ ...driver!, detail: error.message }, ...others];
  }
  const { environment, devices, failedProbes } = report;
  const library = (name: string, key: string, remedy: string): Check => {
    const found = environment.libraries[key];
    const reason = failedProbes.find(({ probe }) => probe === key)?.reason;
    return found ? present(name, found) : absent(name, reason ?? "not found", remedy);
  };
  return [
    present(
      names[0],
      `${environment.driver || "version unknown"}, CUDA ${environment.libraries.cuda}, ${devices.length} x ${devices[0]!.name}`,
    ),
    library(
      names[1],
      "cublasLt",
      "pip install torch, or set MPOPT_CUDA_LIB_DIR; GEMM on the GPU is measured with it",
    ),
    library(names[2], "nccl", "pip install torch; training on several GPUs communicates with it"),
  ];
}

function pythonChecks(python: PythonFacts | undefined): Check[] {
  if (!python) {
    return [
      absent("Python", "not found", "install python3, or set MPOPT_PYTHON; plans are launched with it"),
      absent("PyTorch", "not looked for: no Python", "pip install torch"),
    ];
  }
  const cuda = python.torchCuda ? `CUDA ${python.torchCuda}` : "without CUDA";
  const packages: [string, string][] = [
    ["torch.distributed.run", "pip install torch; `mpopt launch` starts ranks with torchrun"],
    ["megatron.core", "pip install megatron-core; for `mpopt export --to megatron`"],
    ["deepspeed", "pip install deepspeed"],
    ["torchtitan", "pip install torchtitan"],
    ["accelerate", "pip install accelerate"],
  ];
  return [
    present("Python", `${python.version} at ${python.executable}`),
    python.torch
      ? present("PyTorch", `${python.torch}, ${cuda}`)
      : absent("PyTorch", "cannot be imported", `${python.executable} -m pip install torch`),
    ...packages.map(([name, remedy]) => {
      const title = name === "torch.distributed.run" ? "torchrun" : name;
      return python.launchers[name]
        ? present(title, `importable as ${name}`)
        : absent(title, "not installed", remedy);
    }),
  ];
}

/** One line a check; the remedy under what is missing. */
export function doctorText(checks: readonly Check[]): string {
  const width = Math.max(...checks.map(({ name }) => name.length));
  return checks
    .flatMap(({ name, found, detail, remedy }) => [
      `${found ? "found  " : "missing"}  ${name.padEnd(width)}  ${detail}`,
      ...(remedy ? [`         ${"".padEnd(width)}  ${remedy}`] : []),
    ])
    .join("\n");
}
