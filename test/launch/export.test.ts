import { execFileSync, spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { checkDocument, type MpoptError, readDocument, type Stage } from "../../src/contracts/index.js";
import { type Exporter, writeExport } from "../../src/launch/exporter.js";
import { exporters, exportPlan, findPython, lossyFor } from "../../src/launch/index.js";
import { makePlan, type PlanWishes } from "./planFactory.js";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "mpopt export "));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

function failure(work: () => unknown): MpoptError {
  try {
    work();
  } catch (error) {
    return error as MpoptError;
  }
  throw new Error("Expected an error but there was none.");
}

test("every plan that the factory makes is a valid document", () => {
  for (const tensor of [1, 2]) {
    for (const family of ["gpt2", "llama"] as const) {
      const plan = makePlan({ family, tensor, data: 2, pipeline: 2, sequenceParallel: tensor > 1 });
      expect(() => checkDocument("plan", plan, "plan")).not.toThrow();
      expect(plan.rankTable).toHaveLength(4 * tensor);
    }
  }
});

test("torch: writes a plan that reads back, a module that compiles and a script that a shell accepts", async () => {
  const plan = makePlan({ pipeline: 2, tensor: 2, sequenceParallel: true });
  const out = join(folder, "out");
  const { files, lost } = exportPlan(plan, "torch", out);
  expect(lost).toEqual([]);
  const parts = ["common", "data", "recompute", "schedule", "sharded", "tensor", "ties"].map(
    (name) => `plan_${name}.py`,
  );
  const written = ["README.md", "apply_plan.py", "plan.json", ...parts, "run.sh"];
  expect(files.map((file) => file.slice(out.length + 1)).sort()).toEqual(written);
  expect(readdirSync(out).sort()).toEqual(written);
  expect(readDocument("plan", join(out, "plan.json"))).toEqual(plan);
  execFileSync("sh", ["-n", join(out, "run.sh")]);
  const python = await findPython();
  if (!python) return;
  const check = "import ast, sys; ast.parse(open(sys.argv[1], encoding='utf-8').read())";
  for (const name of ["apply_plan.py", ...parts]) {
    execFileSync(python.executable, ["-c", check, join(out, name)]);
    execFileSync(python.executable, ["-m", "py_compile", join(out, name)]);
  }
});

/** Runs run.sh with a Python that prints its arguments and what it finds in its environment. */
function runScript(out: string, args: string[], env: Record<string, string> = {}) {
  const fake = join(folder, "fake python");
  writeFileSync(fake, '#!/bin/sh\nprintf "%s\\n" "plan=$MPOPT_PLAN" "path=$PYTHONPATH" "$@"\n', {
    mode: 0o755,
  });
  const environment = { PATH: process.env.PATH!, MPOPT_PYTHON: fake, ...env };
  return spawnSync(join(out, "run.sh"), args, { cwd: folder, env: environment, encoding: "utf8" });
}

test.each([
  "$(touch pwned)",
  "`touch pwned`",
  "a'; touch pwned; '",
  "line\ntouch pwned\n",
  '"; touch pwned; "',
])("torch: run.sh reads the name %j literally", (name) => {
  const out = join(folder, "it's $(touch pwned) out");
  exportPlan(makePlan({ name, data: 2 }), "torch", out);
  const { status, stdout, stderr } = runScript(out, ["my train.py", "--note", "$(touch pwned); 'x'"]);
  expect(status).toBe(0);
  expect(stderr).toBe(`Plan ${name}: 2 ranks\n`);
  expect(stdout.split("\n").slice(0, 2)).toEqual([`plan=${out}/plan.json`, `path=${out}`]);
  const [, , ...argv] = stdout.trimEnd().split("\n");
  expect(argv).toEqual([
    ...["-m", "torch.distributed.run", "--standalone", "--nnodes", "1", "--nproc-per-node", "2"],
    ...["my train.py", "--note", "$(touch pwned); 'x'"],
  ]);
  expect(existsSync(join(folder, "pwned"))).toBe(false);
});

test("torch: run.sh on several nodes wants the node's rank, and starts equal nodes", () => {
  exportPlan(makePlan({ data: 12, devicesPerNode: 8 }), "torch", folder);
  const missing = runScript(folder, ["train.py"], { MASTER_ADDR: "first" });
  expect(missing.status).not.toBe(0);
  expect(missing.stderr).toContain("NODE_RANK");
  const { stdout } = runScript(folder, ["train.py"], { MASTER_ADDR: "first", NODE_RANK: "1" });
  expect(stdout).toContain("--nnodes\n2\n--node-rank\n1\n");
  expect(stdout).toContain("--rdzv-endpoint\nfirst:29500\n");
  expect(stdout).toContain("--nproc-per-node\n6\ntrain.py\n");
  expect(runScript(folder, []).status).toBe(2);
});

const lossyCases: [string, PlanWishes, RegExp][] = [
  ["two directions at once", { pipeline: 2, schedule: "dualpipe" }, /schedule dualpipe: .* one route/],
  ["Chimera", { pipeline: 2, schedule: "chimera" }, /schedule chimera: .* one route/],
  ["old weights", { pipeline: 2, schedule: "1f1b-async" }, /schedule 1f1b-async: .* one version/],
  ["two versions of the weights", { pipeline: 2, schedule: "2bw" }, /schedule 2bw: .* one version/],
  [
    "ZeRO-3 with several stages a rank",
    { data: 2, zero: 3, pipeline: 2, schedule: "interleaved", layers: 4 },
    /ZeRO-3\) under the schedule interleaved/,
  ],
  [
    "ZeRO-2 with split backwards",
    { data: 2, zero: 2, pipeline: 2, schedule: "zb-h1" },
    /ZeRO-2\) under .* zb-h1/,
  ],
  ["groups that do not divide", { data: 6, zero: 1, shards: 4 }, /groups of 4 ranks do not divide the 6/],
  ["divided sequences", { context: 2 }, /Sequences are divided/],
  ["divided experts", { data: 2, experts: { expert: 2, tensor: 1 } }, /Experts are divided/],
  ["an offloaded optimizer", { offload: "optimizer" }, /offload optimizer/],
  ["fp8 products", { dtypes: { linear: "fp8" } }, /Linear layers compute in fp8/],
  ["unsummed gradients", { dtypes: { microBatchGradients: "bf16" } }, /beside their sums/],
  ["further predictions", { architecture: { nextTokenPredictions: 1 } }, /predicts further tokens/],
  ["heads that do not divide", { tensor: 3 }, /4 attention heads do not divide over 3/],
  ["key-value heads that do not divide", { tensor: 4 }, /2 key-value heads do not divide over 4/],
  ["a sequence that does not divide", { tensor: 2, sequence: 15, sequenceParallel: true }, /15 tokens/],
];

test.each(lossyCases)("torch: refuses %s unless losses are allowed", (_title, wishes, reason) => {
  const plan = makePlan(wishes);
  const error = failure(() => exportPlan(plan, "torch", join(folder, "out")));
  expect(error.code).toBe("E_LOSSY");
  expect(error.message).toMatch(reason);
  expect(existsSync(join(folder, "out"))).toBe(false);
  const { lost } = exportPlan(plan, "torch", join(folder, "out"), { allowLossy: true });
  expect(lost.join("\n")).toMatch(reason);
  expect(lossyFor(plan).torch).toEqual(lost);
});

test("torch: refuses stages on other ranks than the schedule's, a shuffled rank table and a split batch", () => {
  const plan = makePlan({ pipeline: 2, tensor: 2 });
  const lost = (change: Partial<typeof plan>) => exporters.torch!.lossy({ ...plan, ...change }).join("\n");
  expect(lost({})).toBe("");
  expect(lost({ stages: [...plan.stages, plan.stages[1]!] })).toMatch(/hold 1, 2 stages/);
  const [left, right] = plan.stages as [Stage, Stage];
  const swapped = [
    { ...left, rank: 1 },
    { ...right, rank: 0 },
  ];
  expect(lost({ stages: swapped })).toMatch(
    /1f1b: Expected stage 0 on pipeline rank 0 .* but found it on rank 1/,
  );
  const rows = { name: "searched", microBatches: 1, actions: ["1F0,1B0", "0F0,0B0"] };
  expect(lost({ stages: swapped, schedule: rows })).toBe("");
  expect(lost({ schedule: rows })).toMatch(/searched: Expected stage 0 on pipeline rank 1/);
  expect(lost({ schedule: { ...rows, microBatches: 2 } })).toMatch(
    /searched: Expected actions for 2 stages and 2/,
  );
  expect(lost({ rankTable: [...plan.rankTable].reverse() })).toMatch(/rank table/);
  const [first, ...rest] = plan.operators;
  const sharding = { tensor: { inputs: ["Shard(0)"], outputs: ["Shard(0)"] } };
  expect(lost({ operators: [{ ...first!, sharding }, ...rest] })).toMatch(/splits the batch/);
  expect(lost({ job: { ...plan.job, dtypes: { ...plan.job.dtypes, parameters: "fp8" } } })).toMatch(/fp8/);
});

test("an unknown launcher is a usage error that names the known ones", () => {
  for (const target of ["slurmm", "constructor", "__proto__"]) {
    const error = failure(() => exportPlan(makePlan(), target, folder));
    expect(error.code).toBe("E_USAGE");
    expect(error.message).toContain("torch");
  }
});

test("no file is written outside the folder, nor through a link out of it", () => {
  const root = join(folder, "root");
  const outside = join(folder, "outside");
  mkdirSync(root);
  mkdirSync(outside);
  symlinkSync(outside, join(root, "link"));
  for (const path of [
    "../outside/x",
    "a/../../outside/x",
    join(outside, "x"),
    "link/x",
    "link/deep/x",
    "",
    ".",
  ]) {
    const exporter: Exporter = {
      name: "bad",
      runtime: "any",
      lossy: () => [],
      files: () => ({ first: "1", [path]: "2" }),
    };
    expect(failure(() => writeExport(exporter, makePlan(), root)).code).toBe("E_USAGE");
  }
  expect(readdirSync(outside)).toEqual([]);
  expect(readdirSync(root)).toEqual(["link"]);
  const good: Exporter = {
    name: "good",
    runtime: "any",
    lossy: () => [],
    files: () => ({ "..a/b": "1", "c.sh": "2" }),
  };
  expect(writeExport(good, makePlan(), root).files).toEqual([join(root, "..a/b"), join(root, "c.sh")]);
  expect(readFileSync(join(root, "..a/b"), "utf8")).toBe("1");
});
