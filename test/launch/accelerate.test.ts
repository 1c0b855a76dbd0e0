import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { axisSize, type Plan } from "../../src/contracts/index.js";
import { accelerate } from "../../src/launch/accelerate.js";
import { exportPlan } from "../../src/launch/index.js";
import { makePlan } from "./planFactory.js";

const folder = mkdtempSync(join(tmpdir(), "mpopt-accelerate-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

type Flat = Record<string, string | number | boolean>;

/** Two levels of keys and JSON's scalars: all that the file uses of YAML. */
function readYaml(text: string): Record<string, Flat> & { top: Flat } {
  const sections: Record<string, Flat> & { top: Flat } = { top: {} };
  let section = "top";
  for (const line of text.trim().split("\n")) {
    const [, indent, key, value] = /^( *)([a-z_0-9]+):(?: (.*))?$/.exec(line)!;
    if (value === undefined) {
      section = key!;
      sections[section] = {};
    } else {
      sections[indent === "" ? "top" : section]![key!] = JSON.parse(value);
    }
  }
  return sections;
}

function constant(module: string, name: string): string {
  return new RegExp(`^${name} = (.*)$`, "m").exec(module)![1]!;
}

const plans = fc
  .record({
    data: fc.constantFrom(1, 2, 4, 8),
    tensor: fc.constantFrom(1, 2),
    pipeline: fc.constantFrom(1, 1, 1, 2),
    microBatches: fc.integer({ min: 1, max: 8 }),
    micro: fc.integer({ min: 1, max: 4 }),
    zero: fc.constantFrom(0, 2, 3),
    shards: fc.constantFrom(undefined, 2, 4),
    recompute: fc.constantFrom("none" as const, "selective" as const, "full" as const),
    parameters: fc.constantFrom("f32" as const, "bf16" as const, "f16" as const),
    devicesPerNode: fc.constantFrom(1, 2, 4, 8),
  })
  .filter(({ data, shards, zero }) => shards === undefined || (zero > 0 && shards < data))
  .map((wishes) => makePlan({ ...wishes, deviceType: "cuda" }));

describe("Accelerate's files", () => {
  it("say what the plan says, over 3,000 random plans, or refuse it", () => {
    let expressed = 0;
    fc.assert(
      fc.property(plans, (plan) => {
        if (accelerate.lossy(plan).length > 0) return;
        expressed++;
        const files = accelerate.files(plan);
        const { top, fsdp_config: fsdp, parallelism_config: degrees } = readYaml(files["accelerate.yaml"]!);
        const module = files["plan_accelerate.py"]!;
        const { zero, shards } = plan.optimizer;
        const data = axisSize(plan, "data");
        const world = data * axisSize(plan, "tensor");
        expect(top.num_processes).toBe(world);
        expect(Number(constant(module, "WORLD_SIZE"))).toBe(world);
        expect(world % (top.num_machines as number)).toBe(0);
        expect(top.mixed_precision).toBe(
          { f32: "no", bf16: "bf16", f16: "fp16" }[plan.job.dtypes.parameters as "f32"],
        );
        const steps = Number(constant(module, "MICRO_BATCHES"));
        expect(Number(constant(module, "MICRO_BATCH")) * steps * data).toBe(plan.batch.global);
        const full = plan.stages[0]!.recompute === "full";
        if (zero === 0) {
          expect([fsdp, degrees]).toEqual([undefined, undefined]);
          expect(top.distributed_type).toBe(world > 1 ? "MULTI_GPU" : "NO");
          expect(constant(module, "RECOMPUTE_IN_MODEL")).toBe(full ? "True" : "False");
          return;
        }
        const { parallelism_config_dp_replicate_size: replicas, parallelism_config_dp_shard_size: shard } =
          degrees!;
        expect(shard).toBe(shards ?? data);
        expect((replicas as number) * (shard as number)).toBe(data);
        expect(degrees!.parallelism_config_tp_size).toBe(axisSize(plan, "tensor"));
        expect(fsdp!.fsdp_reshard_after_forward).toBe(zero === 3);
        expect(fsdp!.fsdp_activation_checkpointing).toBe(full);
        expect(module).toContain("sync_each_batch=True");
      }),
      { numRuns: 3000, seed: 12 },
    );
    expect(expressed).toBeGreaterThan(500);
  });

  const refused: [string, Parameters<typeof makePlan>[0], RegExp][] = [
    ["a pipeline", { pipeline: 2 }, /has no pipeline/],
    ["tensor ranks without replicas that share the state", { tensor: 2 }, /tensor 2, pipeline 1 and data 1/],
    ["tensor ranks beside whole replicas", { tensor: 2, data: 2, zero: 0 }, /ZeRO-0/],
    ["ZeRO-1", { data: 2, zero: 1 }, /ZeRO-1/],
    ["sequence parallelism", { tensor: 2, data: 2, zero: 3, sequenceParallel: true }, /along the sequence/],
    ["selective recomputation", { data: 2, zero: 3, recompute: "selective" }, /Recomputation is selective/],
    ["offload", { data: 2, zero: 3, offload: "optimizer" }, /offload optimizer/],
  ];
  for (const [what, wishes, message] of refused) {
    it(`refuse ${what}`, () => {
      const lost = accelerate.lossy(makePlan({ deviceType: "cuda", ...wishes }));
      expect(lost.join("\n")).toMatch(message);
    });
  }

  it("refuse ranks in another order than the launcher's", () => {
    const plan = makePlan({ data: 2, tensor: 2, zero: 3, deviceType: "cuda" });
    expect(accelerate.lossy(plan)).toEqual([]);
    const axes: Plan["mesh"]["axes"] = ["pipeline", "tensor", "data"];
    expect(accelerate.lossy({ ...plan, mesh: { ...plan.mesh, axes } }).join()).toMatch(/Accelerate's order/);
    const rankTable = [...plan.rankTable].reverse();
    expect(accelerate.lossy({ ...plan, rankTable }).join()).toMatch(/row by row/);
  });

  it("start the plan's ranks whatever the plan is called", () => {
    const name = `it's "a" $(touch ${folder}/oops)\n; \`touch ${folder}/oops\` plan`;
    const plan = makePlan({
      name,
      data: 4,
      zero: 3,
      parameters: "bf16",
      deviceType: "cuda",
      devicesPerNode: 2,
    });
    const out = join(folder, "out");
    exportPlan(plan, "accelerate", out);
    const bin = join(folder, "bin");
    mkdirSync(bin);
    writeFileSync(join(bin, "accelerate"), `#!/bin/sh\nprintf '%s\\n' "$@" > ${folder}/argv\n`);
    chmodSync(join(bin, "accelerate"), 0o755);
    const done = spawnSync(join(out, "run.sh"), ["train.py", "a b"], {
      env: { PATH: `${bin}:${process.env.PATH}`, NODE_RANK: "1", MASTER_ADDR: "first node" },
      encoding: "utf8",
    });
    expect(done.status, done.stderr).toBe(0);
    const argv = readFileSync(join(folder, "argv"), "utf8").trim().split("\n");
    expect(argv).toEqual([
      "launch",
      "--config_file",
      join(out, "accelerate.yaml"),
      ...["--machine_rank", "1", "--main_process_ip", "first node", "--main_process_port", "29500"],
      ...["train.py", "a b"],
    ]);
    expect(spawnSync("ls", [folder], { encoding: "utf8" }).stdout).not.toContain("oops");
    const check = `import ast, sys; tree = ast.parse(open(sys.argv[1]).read()); print([n.value.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "PLAN"][0], end="")`;
    const parsed = spawnSync("python3", ["-c", check, join(out, "plan_accelerate.py")], { encoding: "utf8" });
    expect(parsed.stdout, parsed.stderr).toBe(name);
  });
});
