#!/usr/bin/env node
// Builds the native addon into build/native. Without the tools for it, says so in one sentence and exits 0;
// with --required it exits 1 then. Nothing is downloaded: the headers of Node-API come from npm packages.
import { spawn } from "node:child_process";
import { accessSync, constants, existsSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { delimiter, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const output = join(root, "build", "native");
/** Where the build leaves the addon. */
export const addonPath = join(output, "Release", "mpopt_native.node");

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
  const require = createRequire(import.meta.url);
  for (const name of ["cmake-js", "node-addon-api"]) {
    try {
      require.resolve(`${name}/package.json`);
    } catch {
      return `The build needs the npm package ${name}: npm install --no-save cmake-js@8 node-addon-api@8.`;
    }
  }
  return undefined;
}

/** Runs a program; its output goes to stderr at once (verbose) or is returned. */
function run(program, args, verbose, seconds) {
  return new Promise((resolve) => {
    const child = spawn(program, args, { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
    let text = "";
    let stopped = "";
    const timer = setTimeout(() => {
      stopped = `\nStopped after ${seconds} s.`;
      child.kill("SIGKILL");
    }, seconds * 1000);
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
      resolve({ code: code ?? 1, text: text + stopped });
    });
  });
}

/**
 * Builds the addon.
 * @returns {Promise<{built: boolean, sentence: string}>}
 */
export async function buildNative({ verbose = false } = {}) {
  const missing = missingTools();
  if (missing) {
    return {
      built: false,
      sentence: `Profiling is unavailable, everything else works. ${missing} Then: npx mpopt build-native.`,
    };
  }
  const require = createRequire(import.meta.url);
  const cmakeJs = join(require.resolve("cmake-js/package.json"), "..", "bin", "cmake-js");
  const args = [cmakeJs, "build", "-d", join(root, "bindings", "node"), "-O", output, "-l", "warn"];
  args.push("--parallel", String(Math.min(4, availableParallelism())));
  let result = await run(process.execPath, args, verbose, 600);
  if (result.code !== 0) {
    // A cache of another machine, compiler or generator breaks the build: try once from nothing.
    rmSync(output, { recursive: true, force: true });
    result = await run(process.execPath, args, verbose, 600);
  }
  if (result.code !== 0 || !existsSync(addonPath)) {
    const end = result.text.trim().split("\n").slice(-20).join("\n");
    return {
      built: false,
      sentence: `Profiling is unavailable, everything else works: the build of the native addon failed.\n${end}`,
    };
  }
  return { built: true, sentence: `Built the native addon: ${addonPath}` };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const { built, sentence } = await buildNative({ verbose: process.argv.includes("--verbose") });
  console.log(sentence);
  process.exitCode = built || !process.argv.includes("--required") ? 0 : 1;
}
