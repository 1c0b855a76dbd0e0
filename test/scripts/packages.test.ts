import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";

interface Linkage {
  machine: string;
  type: string;
  libraries: string[];
  symbols: { name: string; version: string; weak: boolean }[];
}
const script = (name: string) => new URL(`../../scripts/${name}`, import.meta.url).href;
const { packageProblems, readLinkage } = (await import(script("linkage.mjs"))) as {
  packageProblems: (linkage: Linkage, arch: "x64" | "arm64") => string[];
  readLinkage: (file: string) => Linkage;
};
const { packageManifest, packageNative } = (await import(script("package-native.mjs"))) as {
  packageManifest: (arch: string) => Record<string, unknown>;
  packageNative: (arch: string) => Promise<string>;
};
const { releasedManifest } = (await import(script("release.mjs"))) as {
  releasedManifest: (manifest: Record<string, unknown>) => Record<string, unknown>;
};

const sound: Linkage = {
  machine: "AArch64",
  type: "DYN",
  libraries: ["libc.so.6", "libm.so.6", "ld-linux-aarch64.so.1"],
  symbols: [
    { name: "memcpy", version: "GLIBC_2.17", weak: false },
    { name: "fcntl64", version: "GLIBC_2.28", weak: false },
    { name: "napi_create_object", version: "", weak: false },
    { name: "__gmon_start__", version: "", weak: true },
  ],
};
const symbol = (name: string, version: string) => ({
  ...sound,
  symbols: [...sound.symbols, { name, version, weak: false }],
});

describe("what the addon's packages may need", () => {
  it("is glibc 2.28 and Node-API", () => {
    expect(packageProblems(sound, "arm64")).toEqual([]);
  });

  it.each([
    [
      "a newer glibc",
      symbol("dlopen", "GLIBC_2.34"),
      /newer than GLIBC_2\.28 but found dlopen \(GLIBC_2\.34\)/,
    ],
    ["the C++ library", symbol("_Znwm", "GLIBCXX_3.4"), /only symbols of glibc but found _Znwm/],
    ["a symbol of nobody", symbol("cblas_sgemm", ""), /only Node-API .* but found cblas_sgemm/],
    [
      "a foreign library",
      { ...sound, libraries: ["libstdc++.so.6"] },
      /only libraries of glibc .*libstdc\+\+/,
    ],
    ["another processor", { ...sound, machine: "Advanced Micro Devices X86-64" }, /for AArch64 but found/],
    ["an executable", { ...sound, type: "EXEC" }, /a shared object but found the type EXEC/],
  ])("is not %s", (_name, linkage, message) => {
    expect(packageProblems(linkage, "arm64")).toEqual([expect.stringMatching(message)]);
  });

  const addon = fileURLToPath(new URL("../../build/native/Release/mpopt_native.node", import.meta.url));
  it.skipIf(process.platform !== "linux" || !existsSync(addon))("is read from a real addon", () => {
    const linkage = readLinkage(addon);
    expect(linkage.type).toBe("DYN");
    expect(linkage.libraries).toContain("libc.so.6");
    const names = linkage.symbols.map(({ name }) => name);
    expect(names).toContain("napi_create_function");
    expect(linkage.symbols.find(({ name }) => name === "memcpy")!.version).toMatch(/^GLIBC_2\./);
    // The checkout's own build takes the system's C++ library: no package.
    expect(packageProblems(linkage, process.arch as "x64").join()).toMatch(/libstdc\+\+/);
  });

  it("is not guessed for other platforms", async () => {
    await expect(packageNative("riscv64")).rejects.toThrow(
      /--arch to be one of x64, arm64 but found riscv64/,
    );
  });
});

describe("a release", () => {
  const own = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8"));

  it("pins the addon's packages to its own version, which install where they load alone", () => {
    expect(packageManifest("arm64")).toMatchObject({
      name: "@mpopt/native-linux-arm64",
      version: own.version,
      os: ["linux"],
      cpu: ["arm64"],
      libc: ["glibc"],
      binary: { napi_versions: [8] },
    });
    expect(releasedManifest(own)).toMatchObject({
      optionalDependencies: {
        "@mpopt/native-linux-x64": own.version,
        "@mpopt/native-linux-arm64": own.version,
      },
      dependencies: own.dependencies,
    });
  });

  it("has nothing to build, and the repository asks for nothing unpublished", () => {
    const released = releasedManifest(own);
    expect(released).not.toHaveProperty("scripts");
    expect(released).not.toHaveProperty("devDependencies");
    expect(own).not.toHaveProperty("optionalDependencies");
  });
});
