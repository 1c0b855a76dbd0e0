import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { axisSize, type Plan } from "../../src/contracts/index.js";
import { exporters, exportPlan, findPython } from "../../src/launch/index.js";
import { expectPlanned, findJaxPython, readShardings } from "./jaxShardings.js";
import { makePlan, type PlanWishes } from "./planFactory.js";

let folder: string;
let python: string | undefined;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "mpopt jax "));
  python = (await findPython())?.executable;
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const jaxPython = findJaxPython();
const lossy = (wishes: PlanWishes) => exporters.jax!.lossy(makePlan(wishes)).join("\n");

/** A plan that JAX runs, of small degrees. */
const wishes: fc.Arbitrary<PlanWishes> = fc
  .record({
    name: fc.oneof(fc.string({ minLength: 1 }), fc.constantFrom('"""', "a'\n$(b)", "\\", "\ud800")),
    data: fc.constantFrom(1, 2, 3, 4, 6, 8),
    tensor: fc.constantFrom(1, 2, 4),
    context: fc.constantFrom(1, 1, 2),
    zero: fc.constantFrom(0, 1, 2, 3),
    group: fc.nat(20),
    sequenceParallel: fc.boolean(),
    recompute: fc.constantFrom("none", "selective", "full"),
    recomputeLayers: fc.constantFrom(0, 0, 1),
    micro: fc.constantFrom(1, 2, 3),
    microBatches: fc.constantFrom(1, 2, 5),
    layers: fc.constantFrom(2, 3),
    perNode: fc.constantFrom(1, 2, 4, 8),
  })
  .map(({ group, perNode, recompute, recomputeLayers, sequenceParallel, ...rest }) => {
    const { data, context, tensor } = rest;
    const groups = Array.from({ length: data }, (_, i) => i + 1).filter((n) => data % n === 0);
    return {
      ...rest,
      sequenceParallel: sequenceParallel && tensor > 1,
      contextExchange: "all-to-all" as const,
      recompute: recompute as PlanWishes["recompute"],
      recomputeLayers: recompute === "full" ? 0 : recomputeLayers,
      ...(rest.zero > 0 && data * context > 1 ? { shards: groups[group % groups.length]! * context } : {}),
      devicesPerNode: Math.min(perNode, data * context * tensor),
      architecture: { heads: 8, keyValueHeads: 8 },
    };
  });

describe("plan_sharding.py", () => {
  it("says of 2,000 random plans where every rank's parameters, states and activations lie", (context) => {
    if (!python) return context.skip("Python is missing: python3 on the PATH, or MPOPT_PYTHON");
    const plans = fc
      .sample(wishes, { numRuns: 3000, seed: 6 })
      .map(makePlan)
      .filter((plan) => exporters.jax!.lossy(plan).length === 0)
      .slice(0, 2000);
    expect(plans).toHaveLength(2000);
    const file = (i: number) => join(folder, `${i}.py`);
    plans.forEach((plan, i) => {
      writeFileSync(file(i), exporters.jax!.files(plan)["plan_sharding.py"]!);
    });
    const unknown: [string, number[]][] = [["encoder/kernel", [32, 32]]];
    const answers = readShardings(
      python,
      plans.map((plan, i) => ({ file: file(i), plan, unknown })),
    );
    plans.forEach((plan, i) => {
      expectPlanned(plan, answers[i]!);
      expect(answers[i]!.refused).toHaveLength(axisSize(plan, "tensor") > 1 ? 1 : 0);
    });
  });

  const cases: [string, PlanWishes, RegExp][] = [
    ["a pipeline", { pipeline: 2 }, /divided into 2 stages, but plan_sharding.py has no pipeline/],
    ["a ring", { context: 2 }, /exchange keys by ring, but plan_sharding.py does so by all-to-all/],
    ["divided experts", { data: 2, experts: { expert: 2, tensor: 1 } }, /Experts are divided over ranks/],
    ["offload", { offload: "optimizer" }, /offload optimizer/],
    ["f16", { parameters: "f16" }, /parameters are f16/],
    ["fp8 products", { dtypes: { linear: "fp8" } }, /compute in fp8/],
    ["unsummed gradients", { dtypes: { microBatchGradients: "bf16" } }, /beside their sums/],
    ["further predictions", { architecture: { nextTokenPredictions: 1 } }, /predicts further tokens/],
    ["heads that do not divide", { tensor: 3 }, /4 attention heads do not divide over 3/],
    ["keys that do not divide", { tensor: 4 }, /2 key-value heads do not divide over 4/],
    ["a vocabulary that does not divide", { tensor: 2, vocabulary: 97 }, /vocabulary of 97 does not divide/],
    ["a sequence that does not divide", { tensor: 2, sequence: 15, sequenceParallel: true }, /15 tokens/],
    [
      "groups across context ranks",
      { data: 4, context: 2, contextExchange: "all-to-all", tensor: 1, zero: 1, shards: 1 },
      /over 1 ranks, which plan_sharding.py does not do/,
    ],
  ];
  it.each(cases)("refuses %s", (_title, plan, reason) => {
    expect(lossy(plan)).toMatch(reason);
  });

  it("refuses a shuffled rank table, a split batch and a weight without a rule", () => {
    const plan = makePlan({ data: 2, tensor: 2 });
    const lost = (change: Partial<Plan>) => exporters.jax!.lossy({ ...plan, ...change }).join("\n");
    expect(lost({})).toBe("");
    expect(lost({ rankTable: [...plan.rankTable].reverse() })).toMatch(/rank table/);
    const [first, ...others] = plan.operators;
    const placed = (inputs: string[], outputs: string[]) => ({
      operators: [{ ...first!, sharding: { tensor: { inputs, outputs } } }, ...others],
    });
    expect(lost(placed(["Shard(0)"], ["Shard(0)"]))).toMatch(/splits the batch/);
    expect(lost(placed(["Replicate", "Shard(1)"], ["Shard(2)"]))).toMatch(/has no rule/);
    const again = { ...others[1]!, block: "other", sharding: others[3]!.sharding };
    expect(lost({ operators: [...plan.operators, again] })).toMatch(/differently in different layers/);
  });

  it.each(["$(touch pwned)", "a'; touch pwned; '", "line\ntouch pwned\n", '"; touch pwned; "'])(
    "starts one process a host under the name %j",
    (name) => {
      const out = join(folder, "it's $(touch pwned)");
      exportPlan(makePlan({ name, data: 8, devicesPerNode: 4 }), "jax", out);
      const fake = join(folder, "fake python");
      const variables = '"$JAX_PROCESS_ID" "$JAX_COORDINATOR_ADDRESS" "$MPOPT_PLAN" "$PYTHONPATH"';
      writeFileSync(fake, `#!/bin/sh\nprintf '%s\\n' ${variables} "$@"\n`, { mode: 0o755 });
      const run = (env: Record<string, string>) =>
        spawnSync(join(out, "run.sh"), ["my train.py", "$(touch pwned)"], {
          cwd: folder,
          env: { PATH: process.env.PATH!, MPOPT_PYTHON: fake, ...env },
          encoding: "utf8",
        });
      const { stdout, stderr, status } = run({ NODE_RANK: "1", MASTER_ADDR: "first" });
      expect(status).toBe(0);
      expect(stderr).toBe(`Plan ${name}: 8 devices\n`);
      const expected = ["1", "first:29500", `${out}/plan.json`, out, "my train.py", "$(touch pwned)"];
      expect(stdout.trimEnd().split("\n")).toEqual(expected);
      expect(run({ MASTER_ADDR: "first" }).status).not.toBe(0);
      expect(run({ NODE_RANK: "0", MASTER_ADDR: "first", NNODES: "1" }).stderr).toMatch(/Expected 2 nodes/);
      expect(existsSync(join(folder, "pwned"))).toBe(false);
    },
  );
});

/** Plans of eight devices that cover the parts of the module. */
const small: [string, PlanWishes][] = [
  ["replicas", { data: 8, parameters: "bf16" }],
  ["ZeRO-1, tensor, sequences", { data: 4, tensor: 2, zero: 1, sequenceParallel: true, recompute: "full" }],
  ["ZeRO-2, context, tensor", { data: 2, tensor: 2, context: 2, contextExchange: "all-to-all", zero: 2 }],
  [
    "ZeRO-3 in groups",
    { data: 4, tensor: 2, zero: 3, shards: 2, recompute: "selective", recomputeLayers: 1 },
  ],
];

describe.skipIf(!jaxPython)("JAX itself, on eight devices of the host (MPOPT_JAX_PYTHON)", () => {
  const base = { layers: 2, micro: 2, microBatches: 2, architecture: { keyValueHeads: 4 } };

  it("places arrays as the plan says", () => {
    const plans = small.map(([, each]) => makePlan({ ...base, ...each }));
    const files = plans.map((plan, i) => {
      exportPlan(plan, "jax", join(folder, `real-${i}`));
      return { plan, file: join(folder, `real-${i}`, "plan_sharding.py") };
    });
    const answers = readShardings(jaxPython!, files, { real: true });
    plans.forEach((plan, i) => {
      expectPlanned(plan, answers[i]!);
    });
  });

  it.each(small)("trains as one device does: %s", (title, each) => {
    const out = join(folder, title);
    exportPlan(makePlan({ ...base, ...each }), "jax", out);
    const example = fileURLToPath(new URL("../../examples/train_jax.py", import.meta.url));
    const losses = (...args: string[]) => {
      const { stdout, stderr, status } = spawnSync(join(out, "run.sh"), [example, "--steps", "5", ...args], {
        env: {
          ...process.env,
          MPOPT_PYTHON: jaxPython,
          JAX_PLATFORMS: "cpu",
          XLA_FLAGS: "--xla_force_host_platform_device_count=8",
        },
        encoding: "utf8",
      });
      expect(status, stderr).toBe(0);
      // The compiler says so where it can only replicate what has to change places.
      expect(stderr).not.toMatch(/Involuntary full rematerialization/);
      return [...stdout.matchAll(/MPOPT_STEP (.*)/g)].map(([, json]) => JSON.parse(json!).loss as number);
    };
    const [planned, reference] = [losses(), losses("--reference")];
    expect(planned).toHaveLength(5);
    const tolerance = "parameters" in each ? 1e-3 : 1e-5;
    planned.forEach((loss, i) => {
      expect(Math.abs(loss - reference[i]!)).toBeLessThan(tolerance);
    });
  });
});
