// Reads from an ELF shared object what it needs of the system that loads it, with readelf of binutils, which reads
// the files of every processor.
import { spawnSync } from "node:child_process";

/** What System V and glibc 2.28 promise; everything else must be linked in. */
const allowedLibraries = new Set([
  ...["libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1"],
  ...["ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"],
]);
const newestGlibc = "2.28";
const machines = { x64: "Advanced Micro Devices X86-64", arm64: "AArch64" };

/**
 * @typedef {{machine: string, type: string, libraries: string[], symbols: {name: string, version: string, weak: boolean}[]}}
 *   Linkage `symbols`: what it takes from elsewhere, `version` empty for the ones without
 */

/**
 * @param {string} file
 * @returns {Linkage}
 * @throws Error with one sentence without readelf or for a file that is no ELF object
 */
export function readLinkage(file) {
  const done = spawnSync("readelf", ["-W", "-h", "-d", "--dyn-syms", file], {
    encoding: "utf8",
    maxBuffer: 256e6,
    env: { ...process.env, LC_ALL: "C" },
  });
  if (done.error)
    throw new Error(`Expected readelf (binutils) to look at ${file} but ${done.error.message}.`);
  const field = (name) => new RegExp(`^\\s*${name}:\\s+(.*?)\\s*$`, "m").exec(done.stdout)?.[1];
  const machine = field("Machine");
  if (done.status !== 0 || !machine) {
    throw new Error(`Expected ${file} to be an ELF object but readelf said: ${done.stderr.trim()}`);
  }
  // Number, value, size, type, binding, visibility, section, name and its version.
  const undefinedSymbol = /^ *\d+: \S+ +\d+ \S+ +(\S+) +\S+ +UND ([^\s@]+)(?:@+(\S+))?/gm;
  return {
    machine,
    type: (field("Type") ?? "").split(" ")[0],
    libraries: [...done.stdout.matchAll(/\(NEEDED\).*\[(.*)\]/g)].map((match) => match[1]),
    symbols: [...done.stdout.matchAll(undefinedSymbol)].map(([, binding, name, version = ""]) => ({
      name,
      version,
      weak: binding === "WEAK",
    })),
  };
}

/** -1, 0 or 1 as version a is older than, equal to or newer than b. */
function compareVersions(a, b) {
  const [left, right] = [a, b].map((text) => text.split(".").map(Number));
  for (let i = 0; i < Math.max(left.length, right.length); i++) {
    const difference = (left[i] ?? 0) - (right[i] ?? 0);
    if (difference !== 0) return Math.sign(difference);
  }
  return 0;
}

/**
 * Why an object would not load as the addon of a platform's package; a sentence each, none where it would.
 * @param {Linkage} linkage
 * @param {"x64" | "arm64"} arch
 */
export function packageProblems({ machine, type, libraries, symbols }, arch) {
  const problems = [];
  if (machine !== machines[arch]) problems.push(`Expected code for ${machines[arch]} but found ${machine}.`);
  if (type !== "DYN") problems.push(`Expected a shared object but found the type ${type}.`);
  const foreign = libraries.filter((name) => !allowedLibraries.has(name));
  if (foreign.length > 0) problems.push(`Expected only libraries of glibc but found ${foreign.join(", ")}.`);
  const tooNew = symbols.filter(({ version }) => {
    const glibc = /^GLIBC_([\d.]+)$/.exec(version);
    return glibc !== null && compareVersions(glibc[1], newestGlibc) > 0;
  });
  const other = symbols.filter(({ version }) => version !== "" && !/^GLIBC_[\d.]+$/.test(version));
  const list = (found) => {
    const first = found.slice(0, 6).map(({ name, version }) => (version ? `${name} (${version})` : name));
    return first.join(", ") + (found.length > first.length ? ` and ${found.length - first.length} more` : "");
  };
  if (tooNew.length > 0) {
    problems.push(`Expected no symbol newer than GLIBC_${newestGlibc} but found ${list(tooNew)}.`);
  }
  if (other.length > 0) problems.push(`Expected only symbols of glibc but found ${list(other)}.`);
  // Node gives its own symbols to the addon without a version; any other one would be left dangling.
  const dangling = symbols.filter(
    ({ name, version, weak }) => version === "" && !weak && !/^(napi|node_api)_/.test(name),
  );
  if (dangling.length > 0) {
    problems.push(`Expected only Node-API to be unresolved but found ${list(dangling)}.`);
  }
  return problems;
}
