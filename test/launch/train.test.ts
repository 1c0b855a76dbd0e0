import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { findPython, launch } from "../../src/launch/index.js";
import { type Comparison, compare, examples, expectSameCurve, writePlan } from "./compare.js";
import { makePlan, type PlanWishes } from "./planFactory.js";

const python = await findPython();
const withTorch = describe.skipIf(!python?.torch);
if (!python?.torch) console.warn("Skipped the training tests: no Python with PyTorch (see MPOPT_PYTHON).");

const folder = mkdtempSync(join(tmpdir(), "mpopt train "));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function compareAll(cases: Record<string, PlanWishes>): Promise<Map<string, Comparison>> {
  const files = Object.entries(cases).map(([name, wishes]) => writePlan(folder, name, makePlan(wishes)));
  const found = await compare(files, { steps: 10, learningRate: 1e-2 });
  return new Map(Object.keys(cases).map((name, i) => [name, found[i]!]));
}

const twoRanks: Record<string, PlanWishes> = {
  "llama, data 2": { data: 2 },
  "llama, data 2, ZeRO-1": { data: 2, zero: 1 },
  "llama, tensor 2": { tensor: 2, microBatches: 2 },
  "llama, tensor 2, sequence parallel, odd vocabulary": {
    tensor: 2,
    sequenceParallel: true,
    vocabulary: 97,
    microBatches: 2,
  },
  "llama, pipeline 2, 3 layers unevenly": { pipeline: 2, layersPerStage: [1, 2] },
  "gpt2 tied, tensor 2, sequence parallel, full recompute": {
    family: "gpt2",
    tensor: 2,
    sequenceParallel: true,
    recompute: "full",
    microBatches: 2,
  },
  "gpt2 tied, pipeline 2": { family: "gpt2", pipeline: 2 },
  "llama, pipeline 2, GPipe, full recompute": { pipeline: 2, schedule: "gpipe", recompute: "full" },
  "llama, data 2, bf16": { data: 2, zero: 1, parameters: "bf16" },
};

const fourRanks: Record<string, PlanWishes> = {
  "llama tied, pipeline 2, data 2, ZeRO-1": { pipeline: 2, data: 2, zero: 1, tied: true },
  "llama, data 2, tensor 2, ZeRO-1, selective recompute": {
    data: 2,
    tensor: 2,
    zero: 1,
    sequenceParallel: true,
    recompute: "selective",
    layers: 1,
    microBatches: 2,
  },
  "gpt2 tied, pipeline 2, tensor 2": {
    family: "gpt2",
    pipeline: 2,
    tensor: 2,
    sequenceParallel: true,
    microBatches: 3,
  },
};

for (const [title, cases] of [
  ["two ranks", twoRanks],
  ["four ranks", fourRanks],
] as const) {
  withTorch(`the loss under a plan equals the unsharded model's: ${title}`, () => {
    let results: Map<string, Comparison>;
    beforeAll(async () => {
      results = await compareAll(cases);
    }, 180_000);

    test.each(Object.entries(cases))("%s", (name, wishes) => {
      const result = results.get(name)!;
      expect(result.reference).toHaveLength(10);
      expectSameCurve(result, wishes.parameters === "bf16" ? 0.02 : 1e-4);
    });

    test("each rank holds its part only", () => {
      for (const [name, { ranks }] of results) {
        const { pipeline = 1, data = 1, tensor = 1, zero = 0 } = cases[name]!;
        const { parameterCount } = makePlan(cases[name]).model;
        for (const rank of ranks) {
          if (tensor * pipeline > 1) expect(rank.parameters, name).toBeLessThan(0.8 * parameterCount);
          // Padding to a whole number a rank adds less than one element each.
          const share = zero ? rank.parameters / data : rank.parameters;
          expect(Math.abs(rank.optimizer - share), name).toBeLessThanOrEqual(data);
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
      expect(Math.abs(loss - record.steps[i]!.loss)).toBeLessThan(1e-4);
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
