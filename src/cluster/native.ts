import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { homedir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { cancelled, MpoptError, type RunOptions, version } from "../contracts/index.js";

/** What the addon returns, see native/include/mpopt/profiler.h. */
export interface NativeReport {
  backend: string;
  environment: {
    processor: string;
    driver: string;
    libraries: Record<string, string>;
    /** Hertz, and watts where the name says so. */
    clocks: Record<string, number>;
  };
  devices: NativeDevice[];
  measurements: NativeMeasurement[];
  failedProbes: { probe: string; reason: string }[];
}

export interface NativeDevice {
  index: number;
  name: string;
  type: "cuda" | "cpu";
  memoryBytes: number;
  attributes: Record<string, number>;
}

export interface NativeMeasurement {
  operation: "gemm" | "elementwise" | "reduction" | "copy" | "launch" | "link";
  dtype: string;
  work: number;
  unit: "flop" | "byte" | "call";
  shape?: Record<string, number>;
  /** Whether the other devices ran the same probe at the same time. */
  load: "alone" | "together";
  secondsMedian: number;
  p05: number;
  p95: number;
  samples: number;
  confidence95: number;
  converged: boolean;
  method: string;
}

export interface NativeRequest {
  backend: "cpu" | "cuda";
  quick?: boolean;
  /** Devices to occupy at once; all of them without it. */
  devices?: number;
  /** Limit of all probes together; the mode's own without it. */
  budgetSeconds?: number;
}

export interface NativeOptions extends RunOptions {
  /** After this the child is ended. */
  deadlineSeconds: number;
  /** Variables for the child beside the ones of this process. */
  environment?: Record<string, string>;
}

const runner = fileURLToPath(new URL("../../bindings/node/run.cjs", import.meta.url));
const root = fileURLToPath(new URL("../..", import.meta.url));
const addonName = "mpopt_native.node";
const stopped = "Profiling was stopped.";

const buildRemedy =
  "Run `npx mpopt build-native`; it needs a C++ compiler and cmake. Everything but profiling works without it.";

/** Whether this is a checkout of mpopt, which keeps its build, and not a package that npm installed. */
export const isCheckout = existsSync(join(root, "scripts", "build.mjs"));

/**
 * Where `mpopt build-native` leaves the addon: under build/ in a checkout. For an installed package it is the
 * user's cache folder, one place a version and platform: node_modules may be read-only, and `npm ci` empties it.
 */
export function addonTarget(environment: NodeJS.ProcessEnv = process.env): string {
  if (isCheckout) return join(root, "build", "native", "Release", addonName);
  const caches =
    environment.XDG_CACHE_HOME ||
    (process.platform === "darwin" ? join(homedir(), "Library", "Caches") : join(homedir(), ".cache"));
  return join(caches, "mpopt", `native-${version}-${process.platform}-${process.arch}`, addonName);
}

/** Name of the optional package that holds the addon for this platform, whether or not there is one. */
export const platformPackage = `@mpopt/native-${process.platform}-${process.arch}`;

/** Path of the addon in the platform's package, or why it cannot be used. */
function packagedAddon(): { path: string } | { reason: string } {
  const { resolve } = createRequire(import.meta.url);
  let manifest: string;
  try {
    manifest = resolve(`${platformPackage}/package.json`);
  } catch {
    return { reason: "is not installed" };
  }
  const found: unknown = JSON.parse(readFileSync(manifest, "utf8")).version;
  if (found !== version) return { reason: `is of version ${found}, mpopt of ${version}` };
  return { path: join(manifest, "..", addonName) };
}

/**
 * Path of the addon: MPOPT_NATIVE_PATH where it is set, else what `mpopt build-native` left, else the one in the
 * platform's package. What the user built comes first: it is the remedy where the package does not load. The
 * file is not loaded.
 * @throws MpoptError E_NATIVE when there is none.
 */
export function findAddon(): string {
  const named = process.env.MPOPT_NATIVE_PATH;
  if (named) {
    if (existsSync(named)) return named;
    throw new MpoptError(
      "E_NATIVE",
      `Expected the native addon at MPOPT_NATIVE_PATH=${named} but found no file there.`,
      ["Unset MPOPT_NATIVE_PATH, or point it to mpopt_native.node."],
    );
  }
  const built = addonTarget();
  if (existsSync(built)) return built;
  const packaged = packagedAddon();
  if ("path" in packaged) return packaged.path;
  throw new MpoptError(
    "E_NATIVE",
    `Expected the native addon at ${built} but it was not built, and ${platformPackage} ${packaged.reason}.`,
    [buildRemedy],
  );
}

/**
 * Loads the addon in a child process and returns its path.
 * @throws MpoptError E_NATIVE when it is missing, does not load, or takes the child down.
 */
export async function checkAddon(options: Partial<NativeOptions> = {}): Promise<string> {
  const addon = findAddon();
  await runChild(addon, "load", "", { deadlineSeconds: 20, ...options });
  return addon;
}

/**
 * Lists the devices of a backend in a child process.
 * @throws MpoptError E_NATIVE as `checkAddon`; E_MISSING_TOOL when the backend cannot work, with its reason.
 */
export async function listDevices(
  backend: NativeRequest["backend"],
  options: Partial<NativeOptions> = {},
): Promise<NativeReport> {
  return report(
    await runChild(findAddon(), "list", JSON.stringify({ backend }), { deadlineSeconds: 30, ...options }),
  );
}

/**
 * Runs the probes in a child process.
 * @throws MpoptError as `listDevices`, and E_CANCELLED when the signal stops it.
 */
export async function runProbes(request: NativeRequest, options: NativeOptions): Promise<NativeReport> {
  return report(await runChild(findAddon(), "profile", JSON.stringify(request), options));
}

function report(text: string): NativeReport {
  return JSON.parse(text) as NativeReport;
}

interface Message {
  progress?: { fraction: number; message: string };
  report?: string;
  error?: string;
  /** Whether the addon had loaded when the error came. */
  loaded?: boolean;
}

async function runChild(
  addon: string,
  action: "load" | "list" | "profile",
  request: string,
  options: NativeOptions,
): Promise<string> {
  const { signal, deadlineSeconds } = options;
  if (signal?.aborted) throw cancelled(signal, stopped);
  return await new Promise<string>((resolve, reject) => {
    // stdout belongs to the caller's JSON: a chatty driver may only write to the error text.
    const child = spawn(process.execPath, [runner, addon, action, request], {
      stdio: ["ignore", "pipe", "pipe", "ipc"],
      env: { ...process.env, ...options.environment },
    });
    let answer: Message | undefined;
    let output = "";
    let late = false;
    const collect = (chunk: Buffer) => {
      output = (output + chunk).slice(-2000);
    };
    child.stdout?.on("data", collect);
    child.stderr?.on("data", collect);
    const timer = setTimeout(() => {
      late = true;
      child.kill("SIGKILL");
    }, deadlineSeconds * 1000);
    const stop = () => child.kill("SIGKILL");
    signal?.addEventListener("abort", stop, { once: true });

    child.on("message", (message: Message) => {
      if (message.progress) options.onProgress?.(message.progress);
      else answer = message;
    });
    const settle = (finish: () => void) => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", stop);
      finish();
    };
    child.on("error", (error) => {
      settle(() =>
        reject(
          new MpoptError("E_NATIVE", `Expected to start a process for the addon but ${error.message}.`, [], {
            cause: error,
          }),
        ),
      );
    });
    child.on("close", (code, killedBy) => {
      settle(() => {
        if (answer?.report !== undefined) resolve(answer.report);
        else if (signal?.aborted) reject(cancelled(signal, stopped));
        else reject(failure(addon, answer, late ? deadlineSeconds : undefined, code, killedBy, output));
      });
    });
  });
}

function failure(
  addon: string,
  answer: Message | undefined,
  lateAfter: number | undefined,
  code: number | null,
  killedBy: NodeJS.Signals | null,
  output: string,
): MpoptError {
  const notes = output.trim() ? [output.trim()] : [];
  if (answer?.error !== undefined) {
    // An addon that loaded and then refuses names its own remedy.
    if (answer.loaded) return new MpoptError("E_MISSING_TOOL", answer.error, notes);
    return new MpoptError("E_NATIVE", `Expected the native addon ${addon} to load but ${answer.error}.`, [
      buildRemedy,
      ...notes,
    ]);
  }
  const end =
    lateAfter !== undefined
      ? `was not done after ${lateAfter} s and was ended`
      : killedBy
        ? `was ended by ${killedBy}`
        : `ended with code ${code} and no answer`;
  return new MpoptError("E_NATIVE", `Expected the native addon ${addon} to answer but its process ${end}.`, [
    "A broken driver or a broken build does this; try `npx mpopt build-native`, or `--backend cpu`.",
    ...notes,
  ]);
}
