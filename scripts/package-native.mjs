#!/usr/bin/env node
// Builds the addon for other machines and lays it out as the package @mpopt/native-linux-x64 or -arm64:
//   node scripts/package-native.mjs --arch x64|arm64 [--zig PROGRAM] [--output FOLDER]
// A package must load under glibc 2.28 without any library that such a system lacks. Zig brings the symbols of
// every glibc and both processors, so it is taken where it is found; otherwise the compiler's own C library has to
// be old enough, as in the manylinux_2_28 images. What was linked is checked, whoever linked it.
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { copyFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { compileAddon, findProgram } from "./build-native.mjs";
import { packageProblems, readLinkage } from "./linkage.mjs";

const root = fileURLToPath(new URL("..", import.meta.url));

/** The platforms with a package: how Zig, GNU and CMake call the processor. */
const processors = { x64: "x86_64", arm64: "aarch64" };
export const platforms = Object.keys(processors);

const nameOf = (arch) => `@mpopt/native-linux-${arch}`;

/** The package.json of a platform's package. */
export function packageManifest(arch) {
  const { version, license, engines } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  return {
    name: nameOf(arch),
    version,
    description: `The profiler of mpopt for Linux on ${arch}, glibc 2.28 or newer.`,
    license,
    engines,
    os: ["linux"],
    cpu: [arch],
    libc: ["glibc"],
    main: "mpopt_native.node",
    files: ["mpopt_native.node"],
    binary: { napi_versions: [8] },
  };
}

/** CMake's variables for a compiler that builds for the platform; a sentence where there is none. */
function toolchain(arch, zig, folder) {
  const processor = processors[arch];
  const common = {
    CMAKE_SYSTEM_NAME: "Linux",
    CMAKE_SYSTEM_PROCESSOR: processor,
    CMAKE_SHARED_LINKER_FLAGS: "-static-libstdc++ -static-libgcc -Wl,--as-needed -s",
  };
  if (zig) {
    const wrap = (name, ...words) => {
      const file = join(folder, `zig-${name}`);
      const quoted = [zig, ...words].map((word) => `'${word.replaceAll("'", `'\\''`)}'`).join(" ");
      writeFileSync(file, `#!/bin/sh\nexec ${quoted} "$@"\n`, { mode: 0o755 });
      return file;
    };
    return {
      ...common,
      CMAKE_CXX_COMPILER: wrap("c++", "c++", "-target", `${processor}-linux-gnu.2.28`),
      CMAKE_AR: wrap("ar", "ar"),
      CMAKE_RANLIB: wrap("ranlib", "ranlib"),
      // Zig compiles its C++ library once for each level of optimisation that something is linked at, for minutes:
      // the trials of the compiler are to take this one, or not to link.
      CMAKE_CXX_FLAGS: "-O3",
      CMAKE_TRY_COMPILE_TARGET_TYPE: "STATIC_LIBRARY",
      // Libraries of this machine are none of the target's.
      CMAKE_FIND_ROOT_PATH_MODE_LIBRARY: "ONLY",
    };
  }
  const native = process.platform === "linux" && process.arch === arch;
  const compiler = native
    ? findProgram(process.env.CXX, "g++", "c++")
    : findProgram(process.env.CXX, `${processor}-linux-gnu-g++`);
  if (compiler) return { ...common, CMAKE_CXX_COMPILER: compiler };
  return native
    ? "Expected zig or g++ on PATH but found neither."
    : `Expected zig or ${processor}-linux-gnu-g++ on PATH to build for ${arch} but found neither: install zig, or apt-get install g++-${processor.replace("_", "-")}-linux-gnu.`;
}

/**
 * Builds, checks and writes one platform's package; the folder appears whole or not at all.
 * @throws Error with one sentence where a tool is missing, the build fails, or the result would not load elsewhere.
 * @returns {Promise<string>} the package's folder
 */
export async function packageNative(arch, { output, zig = findProgram("zig"), verbose = false } = {}) {
  if (!platforms.includes(arch)) {
    throw new Error(`Expected --arch to be one of ${platforms.join(", ")} but found ${arch ?? "nothing"}.`);
  }
  if (!findProgram("cmake")) throw new Error("Expected cmake on PATH but did not find it.");
  const build = join(root, "build", `native-linux-${arch}${zig ? "-zig" : ""}`);
  mkdirSync(build, { recursive: true });
  const definitions = toolchain(arch, zig, build);
  if (typeof definitions === "string") throw new Error(definitions);
  const { addon, text } = await compileAddon(build, { definitions, verbose });
  if (!addon)
    throw new Error(`The build for ${arch} failed.\n${text.trim().split("\n").slice(-20).join("\n")}`);
  const problems = packageProblems(readLinkage(addon), arch);
  if (problems.length > 0) {
    const remedy = "Build it with zig, or on a system with glibc 2.28 (the manylinux_2_28 images).";
    throw new Error([`${nameOf(arch)} would not load where it should.`, ...problems, remedy].join("\n"));
  }
  const folder = resolve(output ?? join(root, "build", "packages", `native-linux-${arch}`));
  const part = `${folder}.${process.pid}.tmp`;
  try {
    mkdirSync(part, { recursive: true });
    await copyFile(addon, join(part, "mpopt_native.node"));
    await copyFile(join(root, "LICENSE"), join(part, "LICENSE"));
    const manifest = packageManifest(arch);
    writeFileSync(join(part, "package.json"), `${JSON.stringify(manifest, null, 2)}\n`);
    writeFileSync(
      join(part, "README.md"),
      `# ${manifest.name}\n\n${manifest.description} Installed with \`mpopt\`; nothing to call by itself.\n`,
    );
    rmSync(folder, { recursive: true, force: true });
    renameSync(part, folder);
  } finally {
    rmSync(part, { recursive: true, force: true });
  }
  return folder;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  try {
    const { values } = parseArgs({
      options: {
        arch: { type: "string" },
        zig: { type: "string" },
        output: { type: "string" },
        verbose: { type: "boolean" },
      },
    });
    const { arch, output, verbose } = values;
    const zig = values.zig ? findProgram(values.zig) : findProgram("zig");
    if (values.zig && !zig) throw new Error(`Expected the program zig at ${values.zig} but did not find it.`);
    console.log(await packageNative(arch, { output, verbose, zig }));
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  }
}
