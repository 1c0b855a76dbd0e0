#!/usr/bin/env node
// Compiles native/solver and bindings/wasm/kernel.cpp with @yowasp/clang (Clang and LLD as WASM: no system
// toolchain) to build/wasm/kernel.wasm, and copies that beside dist/solver. It compiles only what changed.
import { existsSync } from "node:fs";
import { copyFile, mkdir, readdir, readFile, rename, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import v8 from "node:v8";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const output = join(root, "build", "wasm", "kernel.wasm");

async function sources() {
  const solver = (await readdir(join(root, "native/solver"))).filter((name) => /\.[ch]pp$/.test(name)).sort();
  return [
    "native/include/mpopt/solver.h",
    ...solver.map((name) => `native/solver/${name}`),
    "bindings/wasm/kernel.cpp",
    "scripts/build-wasm.mjs",
  ];
}

async function upToDate(paths) {
  try {
    const built = (await stat(output)).mtimeMs;
    const times = await Promise.all(paths.map(async (path) => (await stat(join(root, path))).mtimeMs));
    return times.every((time) => time <= built);
  } catch {
    return false;
  }
}

/** Returns the module's path, or undefined with the reason printed where there is no compiler. */
export async function buildWasm() {
  const paths = await sources();
  if (await upToDate(paths)) return output;
  // V8 would spend as long on optimising the compiler's 75 MB as the compiler on this source.
  v8.setFlagsFromString("--liftoff-only");
  let runClang;
  try {
    ({ runClang } = await import("@yowasp/clang"));
  } catch (error) {
    if (error.code !== "ERR_MODULE_NOT_FOUND") throw error;
    console.error("The solver kernel is not built: @yowasp/clang is not installed. HiGHS solves instead.");
    return undefined;
  }
  const files = {};
  for (const path of paths) {
    const parts = path.split("/");
    let folder = files;
    for (const part of parts.slice(0, -1)) folder = folder[part] ??= {};
    folder[parts.at(-1)] = await readFile(join(root, path), "utf8");
  }
  // One translation unit: each compiler start costs seconds.
  const units = paths.filter((path) => path.endsWith(".cpp"));
  files["unity.cpp"] = units.map((path) => `#include "${path}"\n`).join("");
  const flags = "-std=c++20 -O3 -msimd128 -fno-exceptions -fno-rtti -mexec-model=reactor".split(" ");
  const includes = ["-Inative/include", "-Inative/solver"];
  const link = ["-Wl,--strip-all", "-Wl,-z,stack-size=1048576", "-Wl,--max-memory=4294967296"];
  const args = [...flags, ...includes, ...link, "unity.cpp", "-o", "kernel.wasm"];
  const made = await runClang(["clang++", ...args], files, { fetchProgress: () => {} });
  await mkdir(dirname(output), { recursive: true });
  const part = `${output}.${process.pid}.tmp`;
  await writeFile(part, made["kernel.wasm"]);
  await rename(part, output);
  return output;
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const start = performance.now();
  const path = await buildWasm();
  // A built package carries the kernel beside the solver.
  const built = join(root, "dist", "solver");
  if (path && existsSync(built)) await copyFile(path, join(built, "kernel.wasm"));
  if (path)
    console.log(`${path}: ${(await stat(path)).size} bytes, ${Math.round(performance.now() - start)} ms`);
}
