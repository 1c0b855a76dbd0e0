import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { checkAddon, findAddon, listDevices, runProbes } from "../../src/cluster/native.js";
import { profileCluster } from "../../src/cluster/profile.js";
import { deviceCount } from "../../src/cluster/topology.js";
import { checkDocument } from "../../src/contracts/index.js";

const built = fileURLToPath(new URL("../../build/native/Release/mpopt_native.node", import.meta.url));
let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "mpopt-native-"));
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true, force: true });
});

/** Makes a file and names it as the addon. */
function addon(name: string, content: string): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  vi.stubEnv("MPOPT_NATIVE_PATH", path);
  return path;
}

const works = `exports.list = async () => JSON.stringify({ devices: [] }); exports.profile = exports.list;`;

describe("an addon that does not work cannot take this process with it", () => {
  test("missing", async () => {
    vi.stubEnv("MPOPT_NATIVE_PATH", join(folder, "nothing.node"));
    await expect(checkAddon()).rejects.toMatchObject({
      code: "E_NATIVE",
      message: expect.stringContaining("found no file"),
    });
  });

  test("broken file", async () => {
    addon("broken.node", "this is no shared object");
    await expect(checkAddon()).rejects.toMatchObject({
      code: "E_NATIVE",
      message: expect.stringMatching(/to load but/),
      notes: [expect.stringContaining("npx mpopt build-native")],
    });
  });

  test("another module", async () => {
    addon("other.cjs", "exports.something = 1;");
    await expect(checkAddon()).rejects.toMatchObject({
      code: "E_NATIVE",
      message: expect.stringMatching(/not the addon of mpopt/),
    });
  });

  test("killed while loading", async () => {
    addon("killed.cjs", `process.kill(process.pid, "SIGSEGV");`);
    await expect(checkAddon()).rejects.toMatchObject({
      code: "E_NATIVE",
      message: expect.stringContaining("was ended by SIGSEGV"),
    });
  });

  test("killed while profiling, after some progress", async () => {
    addon(
      "killed.cjs",
      `${works} exports.profile = async (_request, progress) => {
        progress(0.5, "half");
        await new Promise((done) => setTimeout(done, 100));
        process.kill(process.pid, "SIGKILL");
      };`,
    );
    const seen: string[] = [];
    const run = runProbes(
      { backend: "cpu" },
      { deadlineSeconds: 20, onProgress: ({ message }) => seen.push(message) },
    );
    await expect(run).rejects.toMatchObject({ code: "E_NATIVE", message: expect.stringMatching(/SIGKILL/) });
    expect(seen).toEqual(["half"]);
  });

  test("hanging", async () => {
    addon("hanging.cjs", `${works} exports.list = () => { for (;;); };`);
    await expect(listDevices("cpu", { deadlineSeconds: 1 })).rejects.toMatchObject({
      code: "E_NATIVE",
      message: expect.stringContaining("not done after 1 s"),
    });
  });

  test("refusing with a sentence of its own", async () => {
    addon("refusing.cjs", `${works} exports.list = async () => { throw new Error("No GPU here."); };`);
    await expect(listDevices("cuda")).rejects.toMatchObject({
      code: "E_MISSING_TOOL",
      message: "No GPU here.",
    });
  });

  test("stopped by the user", async () => {
    addon("slow.cjs", `${works} exports.list = () => new Promise(() => setInterval(() => {}, 1000));`);
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 300);
    await expect(listDevices("cpu", { signal: controller.signal })).rejects.toMatchObject({
      code: "E_CANCELLED",
    });
  });
});

describe("scripts/build-native.mjs", () => {
  const script = fileURLToPath(new URL("../../scripts/build-native.mjs", import.meta.url));
  const run = (...args: string[]) =>
    spawnSync(process.execPath, [script, ...args], {
      encoding: "utf8",
      env: { PATH: folder, HOME: folder },
    });

  test("without a compiler says how to get one, and succeeds", () => {
    const { status, stdout } = run();
    expect(status).toBe(0);
    expect(stdout.trim().split("\n")).toHaveLength(1);
    expect(stdout).toMatch(/^Profiling is unavailable, everything else works\. .*a C\+\+ compiler and cmake/);
  });

  test("fails when the build is required", () => {
    // A compiler alone is not enough either.
    symlinkSync(process.execPath, join(folder, "c++"));
    const { status, stdout } = run("--required");
    expect(status).toBe(1);
    expect(stdout).toMatch(/needs cmake and make or ninja/);
  });
});

describe.skipIf(!existsSync(built))("the built addon", () => {
  test("is found and loads", async () => {
    vi.stubEnv("MPOPT_NATIVE_PATH", "");
    expect(findAddon()).toBe(built);
    await expect(checkAddon()).resolves.toBe(built);
  });

  test("measures this machine", { timeout: 90_000 }, async () => {
    vi.stubEnv("MPOPT_NATIVE_PATH", "");
    const fractions: number[] = [];
    const cluster = await profileCluster({
      backend: "cpu",
      quick: true,
      devices: 2,
      onProgress: ({ fraction }) => fractions.push(fraction!),
    });
    expect(checkDocument("cluster", cluster, "profile")).toEqual(cluster);
    expect(deviceCount(cluster)).toBe(2);
    const device = cluster.devices[0]!;
    const operators = device.compute.map(({ operator }) => operator);
    expect(operators).toEqual(expect.arrayContaining(["gemm", "elementwise", "reduction", "copy"]));
    for (const table of device.compute) {
      const work = table.points.map((point) => point.work);
      expect(work).toEqual([...new Set(work)].sort((a, b) => a - b));
    }
    expect(device.compute.find(({ operator }) => operator === "gemm")!.points.length).toBeGreaterThanOrEqual(
      8,
    );
    // Any processor multiplies faster than it reaches one GFLOP/s, and slower than 10 TFLOP/s on a core.
    expect(device.peakFlopsPerSecond.f32!.value).toBeGreaterThan(1e8);
    expect(device.peakFlopsPerSecond.f32!.value).toBeLessThan(1e13);
    expect(cluster.topology.levels[0]!.link!.points.length).toBeGreaterThan(3);
    expect(fractions.length).toBeGreaterThan(10);
    expect([...fractions].sort((a, b) => a - b)).toEqual(fractions);
  });

  test("says in one sentence that there is no driver", async () => {
    vi.stubEnv("MPOPT_NATIVE_PATH", "");
    // An empty file in place of the driver: found first, and it does not open.
    writeFileSync(join(folder, "libcuda.so.1"), "");
    const attempt = listDevices("cuda", { environment: { MPOPT_CUDA_LIB_DIR: folder } });
    const answer = await attempt.then(
      () => "a driver",
      (error: Error) => error.message,
    );
    expect(answer).toMatch(
      /^(a driver$|No NVIDIA driver was found|The NVIDIA driver is installed but sees no GPU)/,
    );
  });
});
