import { spawnSync } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), "mpopt-package-"));
const project = join(scratch, "an empty project");
const home = join(scratch, "home");
const addon = join(root, "build/native/Release/mpopt_native.node");
const platformPackage = `@mpopt/native-${process.platform}-${process.arch}`;

afterAll(() => rmSync(scratch, { recursive: true, force: true }));

/** The script behind a program of npm, so that it runs under this Node.js whatever PATH holds. */
function scriptOf(name: "npm" | "npx"): string {
  const folders = [dirname(process.execPath), ...(process.env.PATH ?? "").split(delimiter)];
  const found = folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
  if (!found) throw new Error(`Expected ${name} on PATH: it packs and installs what is tested here.`);
  return realpathSync(found);
}

/** A PATH of what a bare system has: Node.js and a shell, no compiler, no cmake, no Python. */
function barePath(): string {
  const folder = join(scratch, "bin");
  mkdirSync(folder, { recursive: true });
  symlinkSync(process.execPath, join(folder, "node"));
  symlinkSync("/bin/sh", join(folder, "sh"));
  return folder;
}

const environment: NodeJS.ProcessEnv = Object.fromEntries(
  // `npm test` hands its own project down in these.
  Object.entries(process.env).filter(
    ([name]) => !/^(npm_(package|lifecycle)_|npm_config_local_prefix|MPOPT_)/.test(name),
  ),
);
const bare = { ...environment, PATH: barePath() };

interface Done {
  status: number | null;
  stdout: string;
  stderr: string;
}

function run(script: string, args: string[], cwd: string, env: NodeJS.ProcessEnv = bare): Done {
  return spawnSync(process.execPath, [script, ...args], { cwd, env, encoding: "utf8", maxBuffer: 64e6 });
}

/** `npx mpopt ...` in the project, as its user types it. */
function mpopt(args: string[], env: NodeJS.ProcessEnv = {}): Done {
  const own = { ...bare, HOME: home, XDG_CACHE_HOME: "", ...env };
  return run(scriptOf("npx"), ["--no-install", "mpopt", ...args], project, own);
}

function pack(): { path: string; files: string[] } {
  if (!existsSync(join(root, "dist/solver/kernel.wasm"))) {
    throw new Error("Run `npm run build` first: the tarball holds what it makes.");
  }
  const args = ["pack", "--ignore-scripts", "--json", "--pack-destination", scratch];
  const { status, stdout, stderr } = run(scriptOf("npm"), args, root, environment);
  if (status !== 0) throw new Error(`npm pack failed: ${stderr}`);
  const [made] = JSON.parse(stdout);
  return { path: join(scratch, made.filename), files: made.files.map((file: { path: string }) => file.path) };
}

/** Installs the tarball in an empty folder; why the registry could not be reached, if it could not. */
function install(tarball: string): string | undefined {
  mkdirSync(project);
  mkdirSync(home);
  writeFileSync(join(project, "package.json"), JSON.stringify({ name: "consumer", version: "1.0.0" }));
  const args = ["install", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund"];
  const done = run(scriptOf("npm"), [...args, "--fetch-retries=1", tarball], project);
  if (done.status === 0) return undefined;
  const unreachable = /\b(ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH)\b/.exec(
    done.stderr,
  );
  if (unreachable) return unreachable[1];
  throw new Error(`npm install failed: ${done.stderr}`);
}

const tarball = pack();

describe("the packed tarball", () => {
  it("is small, and holds what was built and nothing of the workshop", () => {
    expect(statSync(tarball.path).size).toBeLessThan(10e6);
    expect(tarball.files).toEqual(
      expect.arrayContaining([
        ...["dist/index.js", "dist/index.d.ts", "dist/cli/main.js", "dist/plan/threadEntry.js"],
        ...["dist/solver/kernel.wasm", "dist/solver/worker.mjs", "schema/mpopt.plan-1.json"],
        ...["bindings/node/run.cjs", "bindings/node/CMakeLists.txt", "bindings/python/apply_plan.py"],
        ...[
          "native/CMakeLists.txt",
          "scripts/build-native.mjs",
          "examples/train_gpt.py",
          "README.md",
          "LICENSE",
        ],
      ]),
    );
    const workshop = /\.map$|^(src|test|build|bench)\/|^native\/(test|solver)\/|__pycache__|\.node$/;
    expect(tarball.files.filter((path) => workshop.test(path))).toEqual([]);
  });

  it("runs nothing when it is installed", () => {
    const { scripts } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
    for (const name of ["preinstall", "install", "postinstall"]) expect(scripts).not.toHaveProperty(name);
    // npm would run node-gyp for this file.
    expect(tarball.files).not.toContain("binding.gyp");
  });

  it("holds its promises to bundlers and type checkers, by publint and attw", () => {
    const modules = join(root, "node_modules");
    const publint = run(
      join(modules, "publint/src/cli.js"),
      [tarball.path, "--strict"],
      scratch,
      environment,
    );
    expect(publint.status, publint.stdout + publint.stderr).toBe(0);
    const attw = run(
      join(modules, "@arethetypeswrong/cli/dist/index.js"),
      [tarball.path, "--profile", "esm-only", "--no-emoji", "--no-color"],
      scratch,
      environment,
    );
    expect(attw.status, attw.stdout + attw.stderr).toBe(0);
  });
});

const unreachable = install(tarball.path);
const without = unreachable ? ` (skipped: the npm registry cannot be reached, ${unreachable})` : "";

describe.skipIf(unreachable)(`installed in an empty project, without scripts and compilers${without}`, () => {
  const installed = join(project, "node_modules/mpopt");

  it("has built nothing", () => {
    expect(existsSync(join(installed, "build"))).toBe(false);
    expect(readdirSync(project).sort()).toEqual(["node_modules", "package-lock.json", "package.json"]);
  });

  it("plans, checks, exports and reports", () => {
    const job = [
      "--model",
      "llama-3.1-8b",
      "--cluster",
      "h100-sxm:8x1",
      "--global-batch",
      "64",
      "--seq",
      "4096",
    ];
    const planned = mpopt(["plan", ...job, "--json", "--quiet", "-o", "plan.json"]);
    expect(planned.status, planned.stderr).toBe(0);
    const plan = JSON.parse(planned.stdout);
    expect(plan.certificate).toMatchObject({ status: "optimal", gap: 0 });
    expect(JSON.parse(mpopt(["check", "plan.json", "--json"]).stdout)).toMatchObject({ valid: true });
    for (const target of ["megatron", "torch"]) {
      const exported = mpopt(["export", "plan.json", "--to", target, "-o", `run ${target}`, "--json"]);
      expect(exported.status, exported.stderr).toBe(0);
      for (const file of JSON.parse(exported.stdout).files) {
        expect(statSync(resolve(project, file)).size).toBeGreaterThan(0);
      }
    }
    const reported = mpopt(["report", "plan.json", "-o", "report.html"]);
    expect(reported.status, reported.stderr).toBe(0);
    expect(readFileSync(join(project, "report.html"), "utf8")).toContain("</html>");
  });

  it("solves with the kernel that was compiled before", () => {
    copyFileSync(join(root, "test/solver/data/iopddl-example.json"), join(project, "example.json"));
    const solved = mpopt(["solve", "example.json", "--json", "--quiet"]);
    expect(solved.status, solved.stderr).toBe(0);
    expect(JSON.parse(solved.stdout)).toMatchObject({
      status: "optimal",
      engine: expect.stringContaining("kernel"),
    });
  });

  it("is imported as a library", () => {
    writeFileSync(
      join(project, "use.mjs"),
      `import { clusterPreset, exportPlan, loadModel, plan } from "mpopt";
       import schema from "mpopt/schema/mpopt.plan-1.json" with { type: "json" };
       const best = await plan({
         model: loadModel("gpt2"),
         cluster: clusterPreset("a100-40:2x1"),
         job: { globalBatch: 8, sequence: 1024 },
       });
       const { files } = exportPlan(best, "torch", "library");
       console.log(JSON.stringify({ title: schema.title, mpopt: best.provenance.mpopt, files: files.length }));`,
    );
    const done = run(join(project, "use.mjs"), [], project);
    expect(done.status, done.stderr).toBe(0);
    const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
    expect(JSON.parse(done.stdout)).toMatchObject({ title: "mpopt.plan/1", mpopt: version });
  });

  it.each([
    ["node16", "node16"],
    ["esnext", "bundler"],
  ])("is type-checked by a consumer with --module %s --moduleResolution %s", (module, moduleResolution) => {
    writeFileSync(
      join(project, "consumer.mts"),
      `import { MpoptError, plan, profile, exportPlan, launch, type Plan, type ProgressEvent } from "mpopt";
       import { clusterPreset, loadModel } from "mpopt";
       const events: ProgressEvent[] = [];
       const best: Plan = await plan({
         model: loadModel("gpt2"),
         cluster: clusterPreset("a100-40:2x1"),
         job: { globalBatch: 8, sequence: 1024 },
         signal: AbortSignal.timeout(1000),
         onProgress: (event) => events.push(event),
       });
       const seconds: number = best.estimate.stepSeconds;
       const files: string[] = exportPlan(best, "torch", "out").files;
       const code: string = new MpoptError("E_USAGE", "").code;
       // @ts-expect-error: a plan needs a job
       void plan({ model: loadModel("gpt2"), cluster: clusterPreset("a100-40:2x1") });
       export { code, files, launch, profile, seconds };`,
    );
    const options = {
      ...{ module, moduleResolution, target: "es2022", lib: ["es2023"], strict: true, noEmit: true },
      ...{ types: ["node"], typeRoots: [join(root, "node_modules/@types")] },
    };
    writeFileSync(
      join(project, "tsconfig.json"),
      JSON.stringify({ compilerOptions: options, files: ["consumer.mts"] }),
    );
    const done = run(join(root, "node_modules/typescript/bin/tsc"), ["-p", "tsconfig.json"], project);
    expect(done.status, done.stdout).toBe(0);
  });

  it("says in one sentence what profiling lacks, and where the addon would be", () => {
    const done = mpopt(["profile", "--backend", "cpu", "--json", "--quiet"]);
    expect(done.status).toBe(1);
    const { error } = JSON.parse(done.stdout);
    expect(error.code).toBe("E_NATIVE");
    expect(error.message).toContain(join(home, ".cache", "mpopt"));
    expect(error.message).toContain(`${platformPackage} is not installed`);
    expect(error.notes[0]).toContain("npx mpopt build-native");
    const built = mpopt(["build-native", "--quiet"]);
    expect(built.status).toBe(1);
    expect(built.stderr).toMatch(/needs a C\+\+ compiler and cmake/);
    expect(readdirSync(home)).not.toContain(".cache");
  });

  describe.skipIf(!existsSync(addon))("with an addon", () => {
    const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
    const folder = join(project, "node_modules", platformPackage);
    const writePackage = (of: string) => {
      mkdirSync(folder, { recursive: true });
      copyFileSync(addon, join(folder, "mpopt_native.node"));
      writeFileSync(join(folder, "package.json"), JSON.stringify({ name: platformPackage, version: of }));
    };
    const found = (env: NodeJS.ProcessEnv = {}) =>
      JSON.parse(mpopt(["doctor", "--json", "--quiet"], env).stdout).checks.find(
        ({ name }: { name: string }) => name === "native addon",
      );

    it("takes it from the platform's package, if that is of the same version", () => {
      writePackage("0.0.1");
      expect(found()).toMatchObject({ found: false, detail: expect.stringContaining("is of version 0.0.1") });
      writePackage(version);
      expect(found()).toMatchObject({ found: true, detail: `loads: ${join(folder, "mpopt_native.node")}` });
    });

    it("prefers the one that the user built into the cache folder", () => {
      writePackage(version);
      const caches = join(scratch, "caches");
      const own = join(caches, "mpopt", `native-${version}-${process.platform}-${process.arch}`);
      mkdirSync(own, { recursive: true });
      copyFileSync(addon, join(own, "mpopt_native.node"));
      expect(found({ XDG_CACHE_HOME: caches })).toMatchObject({
        found: true,
        detail: `loads: ${join(own, "mpopt_native.node")}`,
      });
    });
  });
});
