import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { readDocument } from "../../src/contracts/index.js";
import { exportPlan, findPython } from "../../src/launch/index.js";
import { torchtitan } from "../../src/launch/torchtitan.js";
import { makePlan, type PlanWishes } from "./planFactory.js";
import { readModules } from "./torchtitanReader.js";

let python: string | undefined;
beforeAll(async () => {
  python = (await findPython())?.executable;
});
let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "mpopt titan "));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const gpu: PlanWishes = { deviceType: "cuda", parameters: "bf16", layers: 8, microBatches: 8, zero: 0 };

describe("what torchtitan loses", () => {
  test.each<[PlanWishes, RegExp]>([
    [{ family: "gpt2" }, /RMSNorm/],
    [{ architecture: { positions: "alibi" } }, /Positions are alibi/],
    [{ architecture: { rotaryFraction: 0.5 } }, /rotary over 0.5 of a head/],
    [{ architecture: { activation: "gelu" } }, /SwiGLU/],
    [{ architecture: { mlpBias: true } }, /MLPs have biases/],
    [{ architecture: { attentionBias: true } }, /output has a bias/],
    [{ architecture: { family: "gpt_oss" } }, /attention sinks/],
    [{ architecture: { family: "llama4_text" } }, /Llama 4/],
    [{ sequence: 64, architecture: { slidingWindow: 32 } }, /masks these models causally/],
    [{ architecture: { parallelResidual: true } }, /side by side/],
    [{ architecture: { nextTokenPredictions: 1 } }, /Further tokens/],
    [{ tied: true, pipeline: 2 }, /does not do for this model/],
    [{ deviceType: "cpu" }, /processors/],
    [{ parameters: "f16" }, /Parameters are f16/],
    [{ dtypes: { gradients: "bf16" } }, /reduces them in f32/],
    [{ dtypes: { optimizer: "bf16" } }, /The optimizer's state is bf16/],
    [{ dtypes: { linear: "fp8" } }, /Linear layers compute in fp8/],
    [{ recompute: "selective" }, /Recomputation is selective/],
    [{ recomputeLayers: 1 }, /recomputed whole and others not/],
    [{ offload: "optimizer" }, /leaves it on the device/],
    [{ context: 2, sequence: 64 }, /keeps them whole/],
    [{ pipeline: 2, data: 2, zero: 2 }, /ZeRO-2 .* under a pipeline/],
    [{ data: 2, zero: 1 }, /ZeRO-1 .* without a pipeline/],
    [{ data: 4, zero: 3, shards: 2 }, /ZeRO-3 over 2 ranks/],
    [{ pipeline: 2, schedule: "zbv", recompute: "full" }, /once for every weight/],
    [{ pipeline: 2, schedule: "interleaved", chunks: 4 }, /3 stages a rank/],
    [{ pipeline: 2, schedule: "dualpipe" }, /The schedule is dualpipe/],
    [{ pipeline: 2, layersPerStage: [8, 0] }, /^$/],
    [{ pipeline: 4, layersPerStage: [4, 0, 2, 2] }, /Stage 1 has no parameters/],
    [{ tensor: 4 }, /must divide n_kv_heads \(2\)/],
    [{ tensor: 2, vocabulary: 97 }, /vocabulary of 97/],
  ])("%j", (wishes, reason) => {
    const lost = torchtitan.lossy(makePlan({ ...gpu, ...wishes }));
    expect(lost.join("\n")).toMatch(reason);
  });

  test("stages on other ranks than by turns or in a V", () => {
    const plan = makePlan({ ...gpu, pipeline: 2 });
    for (const stage of plan.stages) stage.rank = 1 - stage.rank;
    expect(torchtitan.lossy(plan).join("\n")).toMatch(/Expected stage 0 on pipeline rank 0/);
  });

  test("a rank table in another order", () => {
    const plan = makePlan({ ...gpu, data: 2, tensor: 2 });
    plan.rankTable.reverse();
    expect(torchtitan.lossy(plan)).toContain(
      "The rank table does not number the mesh row by row, as torchtitan does.",
    );
  });

  test("moments in bf16 beside f32 parameters are torchtitan's own", () => {
    const plan = makePlan({ ...gpu, parameters: "f32", dtypes: { optimizer: "bf16" } });
    expect(torchtitan.lossy(plan)).toEqual([]);
    expect(torchtitan.files(plan)["mpopt_plan.py"]).toContain('implementation = "fused_opt_states_bf16"');
  });

  test("an order of its own goes into a file", () => {
    const plan = makePlan({ ...gpu, pipeline: 2, schedule: "zb-h1" });
    expect(torchtitan.lossy(plan)).toEqual([]);
    const files = torchtitan.files(plan);
    expect(files["schedule.csv"]).toMatch(/^0F0,0F1/);
    expect(files["mpopt_plan.py"]).toContain('pipeline_parallel_schedule="Interleaved1F1B"');
  });
});

test("a refusal names the runtime that avoids it", () => {
  const plan = makePlan({ ...gpu, data: 2, zero: 1 });
  expect(() => exportPlan(plan, "torchtitan", folder)).toThrow(/torchtitan can express/);
  try {
    exportPlan(plan, "torchtitan", folder);
  } catch (error) {
    expect((error as { notes: string[] }).notes.join()).toContain("--runtime torchtitan");
  }
});

const names = [
  "$(touch pwned)",
  "`touch pwned`",
  'a"""; import os; os.system("touch pwned"); """',
  "a'; touch pwned; '",
  "line\nimport os\ntouch pwned\n",
  '\\"; touch pwned; "',
  "{world} Größe 🚀 \u2028 \r\0",
];

/** Runs run.sh with a torchrun that prints its arguments and where modules come from. */
function runScript(out: string, environment: Record<string, string> = {}) {
  const tools = join(folder, "tools");
  mkdirSync(tools, { recursive: true });
  writeFileSync(join(tools, "torchrun"), '#!/bin/sh\nprintf "%s\\n" "path=$PYTHONPATH" "$@"\n', {
    mode: 0o755,
  });
  const env = { PATH: `${tools}:${process.env.PATH}`, ...environment };
  return spawnSync("bash", [join(out, "run.sh")], { cwd: folder, env, encoding: "utf8" });
}

test.each(names)("the name %j is only a name", (name) => {
  const plan = makePlan({ ...gpu, name, pipeline: 2 });
  plan.model.name = name;
  plan.cluster.name = name;
  const out = join(folder, "it's $(touch pwned) out");
  exportPlan(plan, "torchtitan", out);
  expect(readDocument("plan", join(out, "plan.json"))).toEqual(plan);
  const { status, stdout } = runScript(out);
  expect(status).toBe(0);
  expect(stdout.split("\n")[0]).toBe(`path=${out}`);
  expect(stdout).toContain("--module\nmpopt_plan\n--config\nplan\n");
  expect(existsSync(join(folder, "pwned"))).toBe(false);
  if (!python) return;
  const module = join(out, "mpopt_plan.py");
  execFileSync(python, ["-m", "py_compile", module], { cwd: folder });
  const [read] = readModules([readFileSync(module, "utf8")], python);
  expect(read!.calls.ModelSpec![0]!.flavor).toBe(name);
  expect(read!.functions).toEqual(["norm", "attention", "feed_forward", "layer", "model", "plan"]);
});

test("run.sh starts the plan's ranks and no others", () => {
  const plan = makePlan({ ...gpu, pipeline: 2, data: 4, zero: 1, devicesPerNode: 4 });
  exportPlan(plan, "torchtitan", folder);
  const { stdout } = runScript(folder, { NODE_RANK: "1", MASTER_ADDR: "first", CONFIG: "mine" });
  const words = stdout.trimEnd().split("\n");
  expect(words.slice(1, 7)).toEqual(["--nnodes", "2", "--nproc-per-node", "4", "--node-rank", "1"]);
  expect(words.slice(-6)).toEqual(["-m", "torchtitan.train", "--module", "mpopt_plan", "--config", "mine"]);
  const refused = runScript(folder, { NNODES: "1" });
  expect(refused.status).toBe(2);
  expect(refused.stderr).toContain("Expected 2 nodes of 4 devices for this plan but found NNODES=1.");
});
