import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { axisSize, type Plan } from "../../src/contracts/index.js";
import { deepspeed } from "../../src/launch/deepspeed.js";
import { exportPlan } from "../../src/launch/index.js";
import { makePlan } from "./planFactory.js";

const folder = mkdtempSync(join(tmpdir(), "mpopt-deepspeed-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** The value that a module gives a name, read as Python writes literals, which are JSON's here. */
function constant(module: string, name: string): unknown {
  return JSON.parse(new RegExp(`^${name} = (.*)$`, "m").exec(module)![1]!);
}

const degrees = fc.constantFrom(1, 2, 4);
const plans = fc
  .record({
    pipeline: fc.constantFrom(1, 2, 3, 4),
    data: degrees,
    tensor: fc.constantFrom(1, 2),
    microBatches: fc.integer({ min: 1, max: 8 }),
    micro: fc.integer({ min: 1, max: 4 }),
    zero: fc.constantFrom(0, 1, 2, 3),
    recompute: fc.constantFrom("none" as const, "selective" as const, "full" as const),
    parameters: fc.constantFrom("f32" as const, "bf16" as const, "f16" as const),
    family: fc.constantFrom("gpt2" as const, "llama" as const),
    sequenceParallel: fc.boolean(),
    schedule: fc.constantFrom("1f1b", "gpipe"),
    extra: fc.array(fc.integer({ min: 0, max: 3 }), { minLength: 4, maxLength: 4 }),
  })
  .map(({ extra, ...wishes }) =>
    makePlan({
      ...wishes,
      deviceType: "cuda",
      sequenceParallel: wishes.sequenceParallel && wishes.tensor > 1,
      layersPerStage: Array.from({ length: wishes.pipeline }, (_, i) => 1 + extra[i]!),
    }),
  );

/** What a plan says, read from the files alone. */
function readBack(plan: Plan) {
  const files = deepspeed.files(plan);
  const config = JSON.parse(files["ds_config.json"]!);
  const module = files["plan_deepspeed.py"]!;
  return { config, module, world: constant(module, "WORLD_SIZE") as number };
}

describe("DeepSpeed's files", () => {
  it("say what the plan says, over 3,000 random plans, or refuse it", () => {
    let expressed = 0;
    fc.assert(
      fc.property(plans, (plan) => {
        if (deepspeed.lossy(plan).length > 0) return;
        expressed++;
        const { config, module, world } = readBack(plan);
        const pipeline = axisSize(plan, "pipeline");
        const tensor = config.tensor_parallel?.autotp_size ?? 1;
        expect(tensor).toBe(axisSize(plan, "tensor"));
        const replicas = world / tensor / pipeline;
        expect(replicas).toBe(axisSize(plan, "data"));
        const { train_micro_batch_size_per_gpu: micro, gradient_accumulation_steps: steps } = config;
        expect(micro * steps * replicas).toBe(plan.batch.global);
        expect(micro).toBe(plan.batch.micro);
        // With tensor ranks DeepSpeed would multiply by all of them.
        expect(config.train_batch_size).toBe(tensor === 1 ? plan.batch.global : undefined);
        const { stage } = config.zero_optimization;
        const { zero } = plan.optimizer;
        // One replica shares its state with nobody, which ZeRO-1 says as well.
        if (zero === 0 && replicas === 1 && pipeline === 1) expect(stage).toBeLessThanOrEqual(1);
        else expect(stage).toBe(zero);
        expect(config.bf16?.enabled ?? false).toBe(plan.job.dtypes.parameters === "bf16");
        expect(config.fp16?.enabled ?? false).toBe(plan.job.dtypes.parameters === "f16");
        const full = plan.stages[0]!.recompute === "full";
        if (pipeline > 1) {
          const parts = constant(module, "PARTS") as number[];
          expect(constant(module, "LAYERS")).toBe(plan.model.blockLayers + 2);
          expect(parts).toHaveLength(pipeline + 1);
          expect([parts[0], parts.at(-1)]).toEqual([0, plan.model.blockLayers + 2]);
          // Spec 0 is the embedding, spec i + 1 block i, the last one the head.
          plan.stages.forEach(({ layers, embedding, head }, i) => {
            const held = Array.from({ length: parts[i + 1]! - parts[i]! }, (_, k) => parts[i]! + k);
            const blocks = held
              .filter((spec) => spec > 0 && spec < plan.model.blockLayers + 1)
              .map((spec) => spec - 1);
            const wanted = Array.from({ length: layers.end - layers.start }, (_, k) => layers.start + k);
            expect(blocks).toEqual(wanted);
            expect(held.includes(0)).toBe(embedding);
            expect(held.includes(plan.model.blockLayers + 1)).toBe(head);
          });
          expect(constant(module, "CHECKPOINT_INTERVAL")).toBe(full ? 1 : 0);
        } else {
          const recomputed = constant(module, "RECOMPUTED") as string[];
          expect(recomputed).toHaveLength(full ? plan.model.blockLayers : 0);
          for (const name of recomputed) expect(plan.stages[0]!.modules).toContain(name);
        }
      }),
      { numRuns: 3000, seed: 11 },
    );
    expect(expressed).toBeGreaterThan(300);
  });

  const refused: [string, Parameters<typeof makePlan>[0], RegExp][] = [
    ["ZeRO-2 under a pipeline", { pipeline: 2, data: 2, zero: 2 }, /ZeRO-2 .*under a pipeline/],
    ["tensor ranks under a pipeline", { pipeline: 2, tensor: 2 }, /tensor 2, pipeline 2/],
    ["other schedules", { pipeline: 2, schedule: "gpipe" }, /schedule is gpipe/],
    ["sequence parallelism", { tensor: 2, sequenceParallel: true }, /split along the sequence/],
    ["context parallelism", { context: 2 }, /context-parallel/],
    ["selective recomputation", { recompute: "selective" }, /Recomputation is selective/],
    ["sums of gradients that no optimizer keeps", { data: 2, parameters: "bf16" }, /ZeRO-0/],
  ];
  for (const [what, wishes, message] of refused) {
    it(`refuse ${what}`, () => {
      const lost = deepspeed.lossy(makePlan({ deviceType: "cuda", ...wishes }));
      expect(lost.join("\n")).toMatch(message);
    });
  }

  it("refuse ranks in another order than the launcher's", () => {
    const plan = makePlan({ data: 2, tensor: 2, zero: 3, deviceType: "cuda" });
    expect(deepspeed.lossy(plan)).toEqual([]);
    const axes: Plan["mesh"]["axes"] = ["pipeline", "tensor", "data"];
    expect(deepspeed.lossy({ ...plan, mesh: { ...plan.mesh, axes } }).join()).toMatch(/DeepSpeed's order/);
    const rankTable = [...plan.rankTable].reverse();
    expect(deepspeed.lossy({ ...plan, rankTable }).join()).toMatch(/row by row/);
  });

  it("start the plan's ranks whatever the plan is called", () => {
    const name = `it's "a" $(touch ${folder}/oops)\n; \`touch ${folder}/oops\` plan`;
    const plan = makePlan({
      name,
      data: 4,
      zero: 1,
      parameters: "bf16",
      deviceType: "cuda",
      devicesPerNode: 2,
    });
    const out = join(folder, "out");
    exportPlan(plan, "deepspeed", out);
    const bin = join(folder, "bin");
    mkdirSync(bin);
    writeFileSync(join(bin, "deepspeed"), `#!/bin/sh\nprintf '%s\\n' "$@" > ${folder}/argv\n`);
    chmodSync(join(bin, "deepspeed"), 0o755);
    const done = spawnSync(join(out, "run.sh"), ["train.py", "a b"], {
      env: { PATH: `${bin}:${process.env.PATH}`, HOSTFILE: "hosts of mine" },
      encoding: "utf8",
    });
    expect(done.status, done.stderr).toBe(0);
    expect(readFileSync(join(folder, "argv"), "utf8").trim().split("\n")).toEqual([
      "--hostfile",
      "hosts of mine",
      "--num_nodes",
      "2",
      "--num_gpus",
      "2",
      "train.py",
      "a b",
    ]);
    expect(spawnSync("ls", [folder], { encoding: "utf8" }).stdout).not.toContain("oops");
    // The module is Python, and holds the name as it is.
    const check = `import ast, sys; tree = ast.parse(open(sys.argv[1]).read()); print([n.value.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "PLAN"][0], end="")`;
    const parsed = spawnSync("python3", ["-c", check, join(out, "plan_deepspeed.py")], { encoding: "utf8" });
    expect(parsed.stdout, parsed.stderr).toBe(name);
  });
});

it("the example is Python and reads what the export holds", () => {
  const example = new URL("../../examples/deepspeed/train.py", import.meta.url);
  const text = readFileSync(example, "utf8");
  const check = "import ast, sys; ast.parse(sys.stdin.read())";
  const parsed = spawnSync("python3", ["-c", check], { input: text, encoding: "utf8" });
  expect(parsed.status, parsed.stderr).toBe(0);
  const environment = [...text.matchAll(/environ\["(MPOPT_\w+)"\]/g)].map((match) => match[1]!);
  expect(environment.length).toBeGreaterThan(0);
  for (const pipeline of [1, 2]) {
    const files = deepspeed.files(makePlan({ pipeline, deviceType: "cuda" }));
    for (const name of environment) expect(files["run.sh"]).toContain(`export ${name}=`);
    const used = pipeline > 1 ? "PlannedPipeline" : "prepare";
    expect(text).toContain(`from plan_deepspeed import ${used}`);
    expect(files["plan_deepspeed.py"]).toMatch(new RegExp(`^(class|def) ${used}\\(`, "m"));
  }
});
