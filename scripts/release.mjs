#!/usr/bin/env node
// Lays out what a release publishes, in build/packages: mpopt itself and the packages of the addon, each as a tarball.
//   node scripts/release.mjs [--zig PROGRAM]
// Only the released package.json names the platforms' packages as optional dependencies: in the repository they would
// make `npm ci` ask for packages that are not published yet. Publish them before mpopt.
import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { findProgram } from "./build-native.mjs";
import { packageManifest, packageNative, platforms } from "./package-native.mjs";

const root = fileURLToPath(new URL("..", import.meta.url));
const packages = join(root, "build", "packages");

/** The package.json that is published: it depends on the addon's packages and has nothing to build. */
export function releasedManifest(manifest) {
  const { scripts: _scripts, devDependencies: _tools, ...rest } = manifest;
  const native = platforms.map((arch) => packageManifest(arch));
  return {
    ...rest,
    optionalDependencies: Object.fromEntries(native.map(({ name, version }) => [name, version])),
  };
}

function call(program, args, cwd) {
  const done = spawnSync(program, args, { cwd, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] });
  if (done.error) throw new Error(`Expected to start ${program} but ${done.error.message}.`);
  if (done.status !== 0)
    throw new Error(`Expected ${program} ${args[0]} to succeed but found ${done.status}.`);
  return done.stdout;
}

/** The tarball of a folder, in build/packages. `npm pack` of the repository builds everything first. */
function pack(folder) {
  const [made] = JSON.parse(call("npm", ["pack", "--json", "--pack-destination", packages], folder));
  return join(packages, made.filename);
}

/**
 * The tarball of mpopt with the released package.json.
 * @returns {string} its path in build/packages
 */
export function packRelease() {
  mkdirSync(packages, { recursive: true });
  const plain = pack(root);
  const folder = join(packages, "mpopt");
  const part = `${folder}.${process.pid}.tmp`;
  try {
    mkdirSync(part);
    call("tar", ["-xzf", plain, "-C", part, "--strip-components=1"], root);
    const file = join(part, "package.json");
    const manifest = releasedManifest(JSON.parse(readFileSync(file, "utf8")));
    writeFileSync(file, `${JSON.stringify(manifest, null, 2)}\n`);
    rmSync(folder, { recursive: true, force: true });
    renameSync(part, folder);
  } finally {
    rmSync(part, { recursive: true, force: true });
  }
  return pack(folder);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  try {
    const { values } = parseArgs({ options: { zig: { type: "string" } } });
    const zig = findProgram(values.zig ?? "zig");
    for (const arch of platforms) console.log(pack(await packageNative(arch, { zig })));
    console.log(packRelease());
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  }
}
