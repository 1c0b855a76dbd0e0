#!/usr/bin/env node
// Builds the native addon into build/native, or to the file after --output. Without the tools for it, says so in
// one sentence and exits 0; with --required it exits 1 then. Nothing is downloaded: the headers of Node-API come
// from npm packages.
import { spawn } from "node:child_process";
import {
  accessSync,
  constants,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
} from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism, tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const root = fileURLToPath(new URL("..", import.meta.url));
const addonName = "mpopt_native.node";

/** Full path of the first of these programs that is on PATH, or undefined. */
export function findProgram(...names) {
  for (const name of names) {
    if (!name) continue;
    for (const folder of name.includes("/") ? [""] : (process.env.PATH ?? "").split(delimiter)) {
      const file = folder ? join(folder, name) : name;
      try {
        accessSync(file, constants.X_OK);
        return file;
      } catch {
        // Not here.
      }
    }
  }
  return undefined;
}

/** The C++ compiler that CMake will take, or undefined. */
export function findCompiler() {
  return findProgram(process.env.CXX, "c++", "g++", "clang++");
}

/** One sentence on what the build lacks, with the remedy; undefined where it lacks nothing. */
export function missingTools() {
  const install =
    process.platform === "darwin"
      ? "xcode-select --install && brew install cmake"
      : "apt-get install g++ cmake make, or your system's counterpart";
  const missing = [];
  if (process.platform === "win32")
    return "The native addon is built on Linux and macOS; use WSL on Windows.";
  if (!findCompiler()) missing.push("a C++ compiler");
  if (!findProgram("cmake")) missing.push("cmake");
  if (!findProgram("make", "ninja")) missing.push("make or ninja");
  if (missing.length) return `The build needs ${missing.join(" and ")}: ${install}.`;
  for (const name of headerPackages) {
    if (!packageFolder(name)) return `The build needs the npm package ${name}: npm install ${name}.`;
  }
  return undefined;
}

const headerPackages = ["node-api-headers", "node-addon-api"];

function packageFolder(name) {
  try {
    return dirname(createRequire(import.meta.url).resolve(`${name}/package.json`));
  } catch {
    return undefined;
  }
}

/** Arguments of cmake that configure the addon's build in a folder. */
function configureArguments(folder, definitions) {
  const includes = [join(packageFolder("node-api-headers"), "include"), packageFolder("node-addon-api")];
  const all = { CMAKE_BUILD_TYPE: "Release", MPOPT_NODE_INCLUDES: includes.join(";"), ...definitions };
  const args = ["-S", join(root, "bindings", "node"), "-B", folder];
  if (findProgram("ninja")) args.push("-G", "Ninja");
  return [...args, ...Object.entries(all).map(([name, value]) => `-D${name}=${value}`)];
}

/**
 * Configures and builds the addon in a folder, which later builds go on in.
 * @param {string} folder
 * @param {{definitions?: Record<string, string>, verbose?: boolean}} options CMake variables
 * @returns {Promise<{addon?: string, text: string, stopped: boolean}>} the addon's path, or what the tools said and
 *   whether a signal or the clock stopped them
 */
export async function compileAddon(folder, { definitions = {}, verbose = false } = {}) {
  const addon = join(folder, "Release", addonName);
  const output = { CMAKE_LIBRARY_OUTPUT_DIRECTORY: dirname(addon) };
  const cmake = findProgram("cmake") ?? "cmake";
  const configured = await run(
    cmake,
    configureArguments(folder, { ...output, ...definitions }),
    verbose,
    600,
  );
  if (configured.code !== 0) return configured;
  const args = ["--build", folder, "--parallel", String(Math.min(4, availableParallelism()))];
  const built = await run(cmake, args, verbose, 1800);
  return { ...built, addon: built.code === 0 && existsSync(addon) ? addon : undefined };
}

function killGroup(group, signal) {
  try {
    process.kill(-group, signal);
  } catch {
    // It has ended.
  }
}

/** Runs a program; its output goes to stderr at once (verbose) or is returned. */
function run(program, args, verbose, seconds) {
  return new Promise((resolve) => {
    // A process group of its own: what is stopped is stopped with its compilers.
    const child = spawn(program, args, { cwd: root, stdio: ["ignore", "pipe", "pipe"], detached: true });
    let text = "";
    let stopped = "";
    const stop = (reason) => {
      stopped = `\nStopped ${reason}.`;
      // Ninja ends its compilers when it is asked to, not when it is killed.
      for (const [signal, delay] of [
        ["SIGTERM", 0],
        ["SIGKILL", 5000],
      ]) {
        setTimeout(() => killGroup(child.pid, signal), delay).unref();
      }
    };
    const timer = setTimeout(() => stop(`after ${seconds} s`), seconds * 1000);
    const interrupt = (signal) => stop(`by ${signal}`);
    for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, interrupt);
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (chunk) => {
        text += chunk;
        if (verbose) process.stderr.write(chunk);
      });
    }
    child.on("error", (error) => {
      text += String(error);
    });
    child.on("close", (code) => {
      clearTimeout(timer);
      for (const signal of ["SIGINT", "SIGTERM"]) process.off(signal, interrupt);
      resolve({ code: code ?? 1, text: text + stopped, stopped: stopped !== "" });
    });
  });
}

/**
 * Builds the addon: in build/native of a checkout, which keeps its objects, or elsewhere and then to a file.
 * @param {{verbose?: boolean, output?: string}} options `output`: the file
 * @returns {Promise<{built: boolean, sentence: string}>}
 */
export async function buildNative({ verbose = false, output } = {}) {
  const missing = missingTools();
  if (missing) return notBuilt(`. ${missing} Then: npx mpopt build-native.`);
  const folder = output ? mkdtempSync(join(tmpdir(), "mpopt-native-")) : join(root, "build", "native");
  try {
    let { addon, text, stopped } = await compileAddon(folder, { verbose });
    if (!addon && !stopped) {
      // A cache of another machine, compiler or generator breaks the build: try once from nothing.
      rmSync(folder, { recursive: true, force: true });
      ({ addon, text } = await compileAddon(folder, { verbose }));
    }
    if (!addon) {
      const end = text.trim().split("\n").slice(-20).join("\n");
      return notBuilt(`: the build of the native addon failed.\n${end}`);
    }
    if (output) install(addon, output);
    return { built: true, sentence: `Built the native addon: ${output ?? addon}` };
  } catch (error) {
    return notBuilt(`: expected to write ${output ?? folder} but ${error.message}.`);
  } finally {
    if (output) rmSync(folder, { recursive: true, force: true });
  }
}

function notBuilt(reason) {
  return { built: false, sentence: `Profiling is unavailable, everything else works${reason}` };
}

/** Copies beside the target first: a process that loads the addon meanwhile finds the old one or the new one. */
function install(addon, output) {
  mkdirSync(dirname(output), { recursive: true });
  const part = `${output}.${process.pid}.tmp`;
  try {
    copyFileSync(addon, part);
    renameSync(part, output);
  } finally {
    rmSync(part, { force: true });
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const { values } = parseArgs({
    options: {
      verbose: { type: "boolean" },
      required: { type: "boolean" },
      output: { type: "string" },
    },
  });
  const { built, sentence } = await buildNative(values);
  console.log(sentence);
  process.exitCode = built || !values.required ? 0 : 1;
}
