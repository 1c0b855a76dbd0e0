import { execFileSync, spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";
import { applyPlanPath, findPython } from "../../src/launch/index.js";
import { exportedPlan, writePlan } from "./compare.js";
import { makePlan, type PlanWishes } from "./planFactory.js";

const python = await findPython();
const sources = dirname(applyPlanPath);
const root = fileURLToPath(new URL("../..", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "mpopt package "));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const withPython = describe.skipIf(!python);
if (!python) console.warn("Skipped the Python package: no Python (see MPOPT_PYTHON).");

/** setuptools reads the licence as this package writes it from 77 on. */
const setuptools = python
  ? spawnSync(python.executable, ["-c", "import setuptools, pip; print(setuptools.__version__)"], {
      encoding: "utf8",
    }).stdout.trim()
  : "";
const builds = Number.parseInt(setuptools, 10) >= 77;
if (python && !builds) {
  console.warn(
    `Skipped the wheel: expected pip and setuptools 77 or newer but found ${setuptools || "none"}.`,
  );
}

/** Runs Python on the sources, or on another copy of the package. */
function run(args: string[], env: NodeJS.ProcessEnv = {}, cwd = folder) {
  const environment = { ...process.env, PYTHONPATH: sources, PYTHONDONTWRITEBYTECODE: "1", ...env };
  return spawnSync(python!.executable, args, { cwd, env: environment, encoding: "utf8", timeout: 100_000 });
}

withPython("the Python package", () => {
  test.skipIf(!builds)(
    "builds a pure wheel that installs and reads plans in an empty folder",
    () => {
      const copy = join(folder, "sources");
      cpSync(sources, copy, { recursive: true, filter: (path) => !path.endsWith("__pycache__") });
      const [wheels, target, empty] = ["wheels", "target", "empty"].map((name) => join(folder, name));
      mkdirSync(empty!);
      const pip = ["-m", "pip", "--disable-pip-version-check", "-q"];
      const build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", wheels!, "./sources"];
      const { status, stderr } = run([...pip, ...build]);
      expect(status, stderr).toBe(0);
      const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string };
      expect(readdirSync(wheels!)).toEqual([`mpopt-${version}-py3-none-any.whl`]);
      const wheel = join(wheels!, readdirSync(wheels!)[0]!);
      execFileSync(python!.executable, [
        ...pip,
        ...["install", "--no-deps", "--no-index", "--target", target!, wheel],
      ]);
      const modules = (path: string) => readdirSync(path, { recursive: true }).map(String);
      const kept = (name: string) => !name.includes("__pycache__");
      expect(modules(join(target!, "mpopt")).filter(kept).sort()).toEqual(
        modules(join(sources, "mpopt")).filter(kept).sort(),
      );
      const { path } = writePlan(folder, "installed", makePlan({ data: 2 }));
      const script = `import mpopt; print(mpopt.__version__, mpopt.load(${JSON.stringify(path)}).world_size, mpopt.__file__)`;
      const found = run(["-c", script], { PYTHONPATH: target! }, empty!);
      expect(found.stdout.trim(), found.stderr).toBe(`${version} 2 ${join(target!, "mpopt", "__init__.py")}`);
    },
    110_000,
  );

  test("reads and checks plans without PyTorch, and says what applying one needs", () => {
    const { path } = writePlan(folder, "alone", makePlan({ data: 2 }));
    const script = [
      "import sys",
      "sys.modules['torch'] = None",
      "import mpopt",
      "plan = mpopt.load(sys.argv[1])",
      "def said(work):",
      "    try: work()",
      "    except (ImportError, mpopt.PlanError) as error: print(f'{type(error).__name__}: {error}')",
      "said(lambda: mpopt.check_world(plan))",
      "said(lambda: plan.apply(None, loss_fn=None, optimizer=None))",
      "said(lambda: mpopt.Planned)",
    ].join("\n");
    const { stdout, stderr } = run(["-c", script, path], { WORLD_SIZE: "3" });
    const lines = stdout.trimEnd().split("\n");
    expect(lines[0], stderr).toMatch(/^PlanError: Expected 2 ranks .* found WORLD_SIZE=3/);
    expect(lines[1]).toMatch(/^ImportError: Expected PyTorch 2.4 or newer .* pip install torch$/);
    expect(lines[2]).toBe(lines[1]);
  });

  test("reports steps on rank 0 alone, in lines that mpopt launch reads", () => {
    const script = [
      "import mpopt",
      "mpopt.report_step(seconds=2, loss=3.5)",
      "mpopt.report_step(seconds=1, loss=float('inf'), step=7)",
      "for _ in range(3):",
      "    with mpopt.timed_step() as step: step.loss = 1",
      "try:",
      "    with mpopt.timed_step(): raise KeyError",
      "except KeyError: pass",
      "mpopt.report_done()",
    ].join("\n");
    const { stdout, stderr } = run(["-c", script], { RANK: "0" });
    const lines = stdout.trimEnd().split("\n");
    expect(lines.slice(0, 2), stderr).toEqual([
      'MPOPT_STEP {"step": 0, "seconds": 2.0, "loss": 3.5}',
      'MPOPT_STEP {"step": 7, "seconds": 1.0, "loss": null}',
    ]);
    expect(lines).toHaveLength(6);
    const done = JSON.parse(lines[5]!.replace("MPOPT_DONE ", "")) as Record<string, unknown>;
    expect(done.steps).toBe(5);
    expect(done.medianStepSeconds).toBeLessThan(0.5);
    expect((done.peakMemoryBytes as number[])[0]).toBeGreaterThan(1e6);
    expect(run(["-c", script], { RANK: "1" }).stdout).toBe("");
  });

  const broken: [string, PlanWishes, (plan: ReturnType<typeof makePlan>) => unknown, RegExp][] = [
    ["ranks", { data: 2 }, (plan) => plan.rankTable.reverse(), /number the mesh row by row/],
    ["degrees", { data: 2 }, (plan) => plan.mesh.sizes.fill(2), /8|number the mesh/],
    ["layers", { pipeline: 2 }, (plan) => plan.stages[1]!.layers.start++, /stage 1 to go on at layer 1/],
    ["end", {}, (plan) => plan.model.blockLayers++, /Expected 3 layers in the stages but found 2/],
    ["heads", { pipeline: 2 }, ({ stages }) => Object.assign(stages[0]!, { head: true }), /head on stage 1/],
    [
      "modules",
      { pipeline: 2 },
      ({ stages: [a, b] }) => b!.modules.push(a!.modules[0]!),
      /embed_tokens on several/,
    ],
    ["stages", { pipeline: 2 }, (plan) => Object.assign(plan.stages[1]!, { rank: 0 }), /equally many stages/],
    ["devices", { pipeline: 2 }, (plan) => plan.stages[1]!.devices.push(0), /stage 1 on the ranks \[1\]/],
    ["batch", { data: 2 }, (plan) => plan.batch.global++, /global batch 17 but found 16/],
    ["groups", { data: 4, zero: 1, shards: 3 }, () => 0, /groups that divide 4 data ranks but found 3/],
    [
      "field",
      {},
      (plan) => Object.assign(plan, { batch: { micro: 1 } }),
      /Expected batch.global in the plan/,
    ],
    ["context", { context: 2 }, () => 0, /whole sequences on every rank/],
    ["interleaved ZeRO-3", { pipeline: 2, schedule: "zbv", layers: 4, zero: 3 }, () => 0, /ZeRO-3/],
    [
      "table",
      { pipeline: 2, schedule: "searched", actions: ["0F0,0B0", "1F0"] },
      () => 0,
      /one forward and one backward/,
    ],
  ];

  test("python -m mpopt check names what is wrong with plans", () => {
    const { path: good } = exportedPlan(
      folder,
      "a good plan",
      makePlan({ pipeline: 2, schedule: "zbv", layers: 4 }),
    );
    const paths = broken.map(([name, wishes, change]) => {
      const plan = makePlan(wishes);
      change(plan);
      return writePlan(folder, name, plan).path;
    });
    const { status, stdout, stderr } = run(["-m", "mpopt", "check", good, ...paths, "absent.json"]);
    expect(status).toBe(1);
    expect(stdout).toMatch(
      /a good plan\/plan.json: 2 ranks \(pipeline 2 x data 1 x tensor 1\), 4 stages, zbv, 4 micro-batches/,
    );
    for (const [i, [name, , , message]] of broken.entries()) {
      const said = stderr.split("\n").filter((line) => line.startsWith(`${paths[i]}: `));
      expect(said.length, name).toBeGreaterThan(0);
      expect(said.join("\n"), name).toMatch(message);
    }
    expect(stderr).toContain("absent.json: Expected a plan at absent.json but found none");
    expect(run(["-m", "mpopt", "check", good]).status).toBe(0);
    expect(run(["-m", "mpopt"]).status).toBe(2);
  });
});
