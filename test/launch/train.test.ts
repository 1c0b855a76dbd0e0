import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { applyPlanPath, exporters, findPython, launch } from "../../src/launch/index.js";
import { type Comparison, compare, examples, expectSameCurve, exportedPlan, writePlan } from "./compare.js";
import { makePlan, type PlanWishes } from "./planFactory.js";
import { fourRanks, longOnFourRanks, longOnTwoRanks, twoRanks } from "./trainCases.js";

const python = await findPython();
const withTorch = describe.skipIf(!python?.torch);
if (!python?.torch) console.warn("Skipped the training tests: no Python with PyTorch (see MPOPT_PYTHON).");

const folder = mkdtempSync(join(tmpdir(), "mpopt train "));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function compareAll(
  cases: Record<string, PlanWishes>,
  options: { steps: number; learningRate: number },
): Promise<Map<string, Comparison>> {
  const files = Object.entries(cases).map(([name, wishes]) => exportedPlan(folder, name, makePlan(wishes)));
  const found = await compare(files, options);
  return new Map(Object.keys(cases).map((name, i) => [name, found[i]!]));
}

/** A learning rate at which `steps` steps move the loss and rounding stays small. */
const short = { steps: 10, learningRate: 1e-2 };
const long = { steps: 50, learningRate: 2e-3 };

/** Tensor ranks add up their parts in bf16, which one rank does not. */
function tolerance({ parameters, tensor = 1 }: PlanWishes): number {
  return parameters === "bf16" && tensor > 1 ? 0.02 : 1e-4;
}

for (const [title, cases, options] of [
  ["two ranks", twoRanks, short],
  ["four ranks", fourRanks, short],
  ["two ranks over 50 steps", longOnTwoRanks, long],
  ["four ranks over 50 steps", longOnFourRanks, long],
] as const) {
  withTorch(`the loss under a plan equals the unsharded model's: ${title}`, () => {
    let results: Map<string, Comparison>;
    beforeAll(async () => {
      results = await compareAll(cases, options);
    }, 410_000);

    test.each(Object.entries(cases))("%s", (name, wishes) => {
      const result = results.get(name)!;
      expect(result.reference).toHaveLength(options.steps);
      expectSameCurve(result, tolerance(wishes));
    });

    test("each rank holds its part only, and recomputes what the plan says", () => {
      for (const [name, { ranks, whole }] of results) {
        const plan = makePlan(cases[name]);
        const { pipeline = 1, data = 1, tensor = 1, zero = 0, shards = data } = cases[name]!;
        const held = ranks.reduce((sum, { parameters }) => sum + parameters, 0);
        if (tensor * pipeline === 1) expect(held, name).toBe((whole * data) / (zero > 1 ? shards : 1));
        for (const [rank, { parameters, optimizer, forwards }] of ranks.entries()) {
          const part = zero > 1 ? shards : 1;
          if (tensor * pipeline > 1) expect(parameters, name).toBeLessThan((0.8 * whole) / part);
          // Padding to a whole number a rank adds less than one element each; shards hold what they update.
          const share = zero === 1 ? parameters / shards : parameters;
          expect(Math.abs(optimizer - share), name).toBeLessThanOrEqual(zero === 1 ? data : 0);
          let passes = 0;
          for (const { devices, layers, recompute, recomputeLayers = 0 } of plan.stages) {
            const count = layers.end - layers.start;
            if (devices.includes(rank)) passes += count + (recompute === "full" ? count : recomputeLayers);
          }
          expect(forwards, name).toBe(passes * plan.schedule.microBatches);
        }
        if (pipeline === 2) {
          const [first, last] = [ranks[0]!.names, ranks[ranks.length - 1]!.names];
          expect(first.filter((each) => last.includes(each))).toEqual([]);
          expect(first.some((each) => each.startsWith("lm_head"))).toBe(false);
          expect(last).toContain("lm_head.weight");
        }
      }
    });
  });
}

/** What `apply_plan.py` refuses, and what the exporter says of the same plans. */
const refused: [PlanWishes, RegExp, RegExp][] = [
  [{ context: 2 }, /whole sequences on every rank/, /^Sequences are divided/],
  [{ data: 2, experts: { expert: 2, tensor: 1 } }, /experts as the model runs them/, /^Experts are divided/],
  [{ offload: "optimizer" }, /the plan offloads: optimizer/, /offload optimizer/],
  [{ dtypes: { linear: "fp8" } }, /the plan says fp8/, /compute in fp8/],
  [{ dtypes: { optimizer: "fp8" } }, /the optimizer but the plan says fp8/, /The optimizer's states are fp8/],
  [{ dtypes: { microBatchGradients: "bf16" } }, /one sum of gradients/, /beside their sums/],
  [{ architecture: { nextTokenPredictions: 1 } }, /one prediction a token/, /predicts further tokens/],
];

withTorch("apply_plan.py", () => {
  test("refuses at the start what the exporter names", () => {
    const plans = [makePlan({}), ...refused.map(([wishes]) => makePlan(wishes))];
    const paths = plans.map((plan, i) => writePlan(folder, `refused ${i}`, plan).path);
    const script = `
import sys
from apply_plan import PlanError, load_plan
for path in sys.argv[1:]:
    try:
        load_plan(path)
        print("accepted")
    except PlanError as error:
        print(error)
`;
    const env = { ...process.env, PYTHONPATH: dirname(applyPlanPath), PYTHONDONTWRITEBYTECODE: "1" };
    const said = execFileSync(python!.executable, ["-c", script, ...paths], { env, encoding: "utf8" });
    const lines = said.trimEnd().split("\n");
    expect(lines[0]).toBe("accepted");
    for (const [i, [, message, loss]] of refused.entries()) {
      expect(lines[i + 1]).toMatch(message);
      expect(exporters.torch!.lossy(plans[i + 1]!)).toEqual([expect.stringMatching(loss)]);
    }
  }, 100_000);
});

withTorch("examples/train_gpt.py", () => {
  const script = join(examples, "train_gpt.py");
  const env = { PYTHONDONTWRITEBYTECODE: "1" };

  test("prints its steps, its memory and the same losses as --reference", async () => {
    const { plan, path } = writePlan(folder, 'it\'s $(touch pwned); "a plan"', makePlan({ data: 2 }));
    const options = { planPath: path, timeoutSeconds: 100, env };
    const record = await launch({ ...options, plan, command: ["python", script, "--steps", "5"] });
    expect(record.exitCode).toBe(0);
    expect(record.steps.map(({ step }) => step)).toEqual([0, 1, 2, 3, 4]);
    const sorted = record.steps.slice(2).map(({ seconds }) => seconds);
    expect(record.medianStepSeconds).toBe(sorted.sort((a, b) => a - b)[1]);
    expect(record.predictedStepSeconds).toBe(plan.estimate.stepSeconds);
    expect(record.summary?.peakMemoryBytes).toHaveLength(2);
    expect(Math.min(...(record.summary!.peakMemoryBytes as number[]))).toBeGreaterThan(1e7);

    const alone = makePlan({});
    const command = ["python", script, "--steps", "5", "--reference"];
    const reference = await launch({ ...options, plan: alone, command });
    for (const [i, { loss }] of reference.steps.entries()) {
      expect(Math.abs(loss! - record.steps[i]!.loss!)).toBeLessThan(1e-4);
    }
    expect(reference.steps).toHaveLength(5);
  }, 200_000);

  test("refuses a plan for another number of ranks before the first step", async () => {
    const { path } = writePlan(folder, "four", makePlan({ data: 4 }));
    const started = makePlan({});
    const command = ["python", script, "--steps", "1"];
    const record = await launch({ plan: started, planPath: path, command, timeoutSeconds: 100, env });
    expect(record.exitCode).not.toBe(0);
    expect(record.steps).toEqual([]);
    expect(record.lastLines.join("\n")).toContain("Expected 4 ranks for the plan's mesh");
  }, 110_000);
});
