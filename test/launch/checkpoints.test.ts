import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";
import { findPython, launch } from "../../src/launch/index.js";
import { examples, expectSameCurve, exportedPlan } from "./compare.js";
import { makePlan, type PlanWishes } from "./planFactory.js";

const python = await findPython();
const withTorch = describe.skipIf(!python?.torch);
if (!python?.torch) console.warn("Skipped the checkpoints: no Python with PyTorch (see MPOPT_PYTHON).");

const folder = mkdtempSync(join(tmpdir(), "mpopt checkpoints "));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const script = (name: string) => fileURLToPath(new URL(name, import.meta.url));

interface Answer {
  losses: number[];
  reference?: number[];
  /** Loss of a batch by the unsharded model that read the checkpoint, and by the one that was trained. */
  next?: [number, number];
  /** Losses that go on from what PyTorch wrote of the unsharded model, and the unsharded model's own. */
  after?: number[];
  afterReference?: number[];
  said: Record<string, string>;
  files: string[];
}

/** Runs a script on the ranks of the first plan: its folder, its own options, the plans. Returns what it found. */
async function run<T>(
  script: string,
  before: string[],
  wishes: PlanWishes[],
  ...options: string[]
): Promise<T> {
  const plans = wishes.map((each, i) =>
    exportedPlan(folder, [basename(script), ...options, i].join(" "), makePlan(each)),
  );
  let answer: T | undefined;
  const record = await launch({
    plan: plans[0]!.plan,
    planPath: plans[0]!.path,
    command: ["python", script, ...before, ...plans.map(({ path }) => path), ...options],
    env: { PYTHONPATH: examples, PYTHONDONTWRITEBYTECODE: "1" },
    timeoutSeconds: 300,
    onLog: (line) => {
      if (line.startsWith("CHECKED ")) answer = JSON.parse(line.slice("CHECKED ".length)) as T;
    },
  });
  expect(record.lastLines.filter(() => record.exitCode !== 0)).toEqual([]);
  return answer!;
}

/** Trains under each plan in turn, from the checkpoint of the one before. */
const train = (checkpoint: string, wishes: PlanWishes[], ...options: string[]) =>
  run<Answer>(script("checkpoints.py"), [checkpoint, "4"], wishes, ...options);

/** Expects one run of all the plans, and PyTorch's own checkpoints to be read and to be readable. */
function expectSameRun({ losses, reference, next, after, afterReference }: Answer, steps: number): void {
  expect(losses).toHaveLength(steps);
  expectSameCurve({ losses, reference: reference!, whole: 0, ranks: [] }, 1e-4);
  expect(Math.abs(next![0] - next![1])).toBeLessThan(1e-4);
  expect(after).toHaveLength(3);
  for (const [i, loss] of after!.entries()) expect(Math.abs(loss - afterReference![i]!)).toBeLessThan(1e-4);
}

function expectRefusals({ said, files }: Answer): void {
  expect(said["other files"]).toMatch(/^Expected a checkpoint or nothing at .* but found other files/);
  expect(files).toEqual(["thesis.tex"]);
  expect(said["no JSON"]).toMatch(/not JSON serializable/);
  expect(said["nothing there"]).toMatch(/^Expected a checkpoint at .*-absent but found none/);
  expect(said["another model"]).toMatch(/of shape \[112, 32\] in the checkpoint .* found shape \[96, 32\]/);
  expect(said["another optimizer"]).toMatch(/^Expected the state of SGD .* found AdamW's/);
  expect(said["cut off"]).toBe("nothing");
}

withTorch("a checkpoint outlives a change of plan", () => {
  // One global batch for all of them, so that the losses are those of one run.
  const gpt2: PlanWishes = { family: "gpt2", layers: 4 };
  const llama: PlanWishes = { family: "llama", tied: true, layers: 4 };

  test("tied GPT-2, from two ranks to four and to one, as if nothing had happened", async () => {
    const checkpoint = join(folder, "it's $(one)");
    const two = await train(checkpoint, [
      { ...gpt2, data: 2, zero: 1, microBatches: 2 },
      { ...gpt2, tensor: 2, microBatches: 4 },
      { ...gpt2, pipeline: 2, microBatches: 4 },
      { ...gpt2, data: 2, zero: 3, microBatches: 2, recompute: "full" },
      { ...gpt2, pipeline: 2, schedule: "zbv", layersPerStage: [2, 0, 1, 1], microBatches: 4 },
    ]);
    expectRefusals(two);
    const four = await train(
      checkpoint,
      [
        { ...gpt2, data: 2, tensor: 2, zero: 1, sequenceParallel: true, microBatches: 2 },
        { ...gpt2, data: 4, zero: 2, shards: 2, microBatches: 1 },
        { ...gpt2, pipeline: 2, tensor: 2, microBatches: 4 },
        { ...gpt2, data: 2, tensor: 2, zero: 3, microBatches: 2 },
      ],
      "--four",
    );
    expect(four.losses.slice(0, 20)).toEqual(two.losses);
    const one = await train(checkpoint, [{ ...gpt2, microBatches: 4 }], "--one", "--reference");
    expectSameRun(one, 40);
    expectRefusals(one);
    expect(readdirSync(folder).filter((name) => /partial|previous/.test(name))).toEqual([]);
    expect(existsSync(join(checkpoint, "mpopt.json"))).toBe(true);
  }, 910_000);

  test("Llama with grouped keys and values, pipelines with ZeRO", async () => {
    const checkpoint = join(folder, "llama");
    const four = await train(
      checkpoint,
      [
        { ...llama, pipeline: 2, data: 2, zero: 3, microBatches: 2 },
        { ...llama, data: 2, tensor: 2, zero: 3, sequenceParallel: true, microBatches: 2 },
        { ...llama, pipeline: 2, data: 2, zero: 1, microBatches: 2, layersPerStage: [1, 3] },
        { ...llama, data: 4, zero: 1, shards: 2, microBatches: 1 },
      ],
      "--reference",
    );
    expectSameRun(four, 16);
  }, 310_000);

  test("weights behind bf16, frozen parameters and buffers, into a model without memory", async () => {
    const plan: PlanWishes = { family: "gpt2", data: 2, parameters: "bf16" };
    const found = await run<Record<string, number[]>>(
      script("checkpointContents.py"),
      [join(folder, "contents")],
      [
        { ...plan, zero: 1 },
        { ...plan, zero: 3 },
      ],
    );
    expect(found.loaded).toHaveLength(3);
    for (const [i, loss] of found.loaded!.entries()) {
      expect(Math.abs(loss - found["went on"]![i]!)).toBeLessThan(1e-4);
    }
    expect(found.calls).toEqual([1, 2, 3]);
    expect(found.frozen).toBe(0);
    expect(found.extra).toEqual({});
  }, 310_000);
});
