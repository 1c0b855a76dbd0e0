import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { validateCommand } from "../../src/cli/validate.js";
import { clusterPreset, loadCluster } from "../../src/cluster/index.js";
import { type Cluster, type Plan, type Run, serialize } from "../../src/contracts/index.js";
import { AttemptRecord } from "../../src/launch/record.js";
import { loadModel, transformerModel } from "../../src/models/index.js";
import { estimatePlan } from "../../src/plan/estimate.js";
import { createPlan } from "../../src/plan/index.js";
import { recordedRuns } from "../../src/validate/recorded.js";
import { validateRuns } from "../../src/validate/validate.js";
import { captureCommand } from "../cli/captured.js";

const made = transformerModel({
  name: "small",
  layers: 8,
  hidden: 1024,
  ffn: 4096,
  heads: 16,
  keyValueHeads: 16,
  vocabulary: 8192,
  sequence: 512,
  gated: false,
  activation: "gelu",
  norm: "layer_norm",
  positions: "learned",
  biases: true,
  tiedEmbeddings: true,
});

const pins: Plan["job"]["pins"][] = [
  { data: 4, zero: 0, microBatch: 1 },
  { data: 4, zero: 1, microBatch: 4 },
  { data: 2, tensor: 2, zero: 1, microBatch: 2 },
  { tensor: 4, microBatch: 4 },
  { pipeline: 4, microBatch: 1 },
  { pipeline: 2, data: 2, zero: 0, microBatch: 2, recompute: "full" },
];

/** What a launch of the plan would have recorded, had its ranks taken so long. */
function runOf(plan: Plan, stepSeconds: number, peakMemoryBytes: number): Run {
  const record = new AttemptRecord(plan);
  const say = (kind: "rank" | "step", value: object) =>
    record.note({ rank: undefined, text: "", report: { kind, ...value } as never }, "stdout");
  for (const rank of plan.rankTable.keys()) say("rank", { rank, host: "here", pid: 1 });
  for (let step = 0; step < 5; step++) say("step", { step, seconds: stepSeconds, loss: null });
  const peaks = plan.rankTable.map(() => peakMemoryBytes);
  record.note({ rank: 0, text: "", report: { kind: "done", summary: { peakMemoryBytes: peaks } } }, "stdout");
  record.end("done", 0);
  const { startedAt, endedAt, medianStepSeconds, predictedStepSeconds } = record.document;
  return {
    ...{ schema: "mpopt.run/1", name: plan.name, startedAt, endedAt, outcome: "done", exitCode: 0 },
    ...{ medianStepSeconds, predictedStepSeconds },
    environment: {
      ...{
        host: "here",
        os: "linux",
        processor: "a",
        mpopt: "0",
        python: null,
        torch: null,
        starter: "torchrun",
      },
      ...{ command: ["python", "train.py"], variables: {} },
    },
    attempts: [record.document],
  };
}

/** Runs in a folder, measured on a cluster that is slower than the one that the plans were made for. */
async function recordRuns(
  folder: string,
  cluster: Cluster,
  truth: (cluster: Cluster) => Cluster,
): Promise<Plan[]> {
  mkdirSync(folder, { recursive: true });
  const files = { model: join(folder, "model.json"), cluster: join(folder, "cluster.json") };
  writeFileSync(files.model, serialize({ ...made, source: files.model }));
  writeFileSync(files.cluster, serialize(cluster));
  const [model, known] = [loadModel(files.model), loadCluster(files.cluster)];
  const plans: Plan[] = [];
  for (const [i, pinned] of pins.entries()) {
    const dtypes = { parameters: "f32", gradients: "f32", optimizer: "f32" } as const;
    const plan = await createPlan({
      ...{ model, cluster: known, plain: true },
      job: { globalBatch: 32, sequence: 512, dtypes, pins: pinned },
    });
    plans.push(plan);
    const { stepSeconds, memory } = estimatePlan(plan, model, truth(known));
    const bytes = Math.max(...memory.map((entry) => entry.allocatedBytes - entry.terms.context));
    writeFileSync(join(folder, `p${i}.run.json`), serialize(runOf(plan, stepSeconds, bytes)));
    writeFileSync(join(folder, `p${i}.json`), serialize(plan));
  }
  return plans;
}

const quantity = (value: number) => ({ value, provenance: "measured" as const, source: "made up" });

/** Products at 0.7 of the tables' rates and links at 0.6 of their bandwidth. */
function slower(cluster: Cluster): Cluster {
  return {
    ...cluster,
    devices: cluster.devices.map((device) => ({ ...device, efficiency: { gemm: quantity(0.7) } })),
    topology: {
      levels: cluster.topology.levels.map((level) => ({
        ...level,
        link: {
          ...level.link!,
          points: [],
          bytesPerSecond: quantity(0.6 * level.link!.bytesPerSecond.value),
        },
      })),
    },
  };
}

describe("records of launches", () => {
  const captured = captureCommand();
  const run = (...args: string[]) => validateCommand().parseAsync(["node", "validate", ...args]);
  const cluster = { ...clusterPreset("a100-80:4x1"), name: "our machine", source: "ours" };

  it("are predicted as mpopt estimate prices their plans", async () => {
    const folder = join(captured.folder, "runs");
    const plans = await recordRuns(folder, cluster, (known) => known);
    const { predictions, unpredicted, score } = await validateRuns(recordedRuns([folder]));
    expect(unpredicted).toEqual([]);
    expect(predictions.map(({ id }) => id)).toEqual(plans.map((_, i) => `our machine-p${i}.run`));
    for (const [i, { stepSeconds, terms }] of predictions.entries()) {
      expect(stepSeconds).toBeCloseTo(plans[i]!.estimate.stepSeconds, 12);
      expect(terms).toEqual(plans[i]!.estimate.terms);
    }
    expect(score.overall.time.mape).toBeLessThan(1e-9);
    expect(score.overall.memory.mape).toBeLessThan(1e-9);
    // One job under several plans is a choice.
    expect(score.groups["our machine"]!.choice).toMatchObject({
      groups: 1,
      plans: pins.length,
      exactBest: 1,
    });
  });

  it("calibrate their cluster: a file that says so, and predicts closer", async () => {
    const folder = join(captured.folder, "slow");
    await recordRuns(folder, cluster, slower);
    const before = await validateRuns(recordedRuns([folder]));
    expect(before.score.overall.time.mape).toBeGreaterThan(0.1);
    await run(folder, "--calibrate", folder, "-o", join(captured.folder, "fitted"), "--quiet");
    const fitted = loadCluster(join(captured.folder, "fitted", "our-machine.json"));
    expect(fitted.name).toBe("our machine");
    expect(fitted.devices[0]!.efficiency!.gemm).toMatchObject({ provenance: "fitted" });
    expect(fitted.devices[0]!.efficiency!.gemm!.value).toBeCloseTo(0.75, 1);
    expect(fitted.calibration!.rows).toBe(pins.length);
    expect(fitted.calibration!.p50).toBeLessThan(0.04);
    captured.out = "";
    await run(
      join(folder, "p0.run.json"),
      join(folder, "p3.run.json"),
      "--json",
      "--quiet",
      "--clusters",
      join(captured.folder, "fitted"),
    );
    const { rows, groups } = JSON.parse(captured.out);
    expect(rows).toHaveLength(2);
    expect(groups["our machine"].time.mape).toBeLessThan(0.06);
  });

  it("of processors fit rates, the link and the host's floor, and nothing that hides there", async () => {
    const folder = join(captured.folder, "cpu");
    const [device] = cluster.devices;
    const processor: Cluster = {
      ...cluster,
      name: "a processor",
      devices: [{ ...device!, kind: "cpu", type: "cpu", launchSeconds: quantity(1e-8) }],
      overlap: { gradientReduction: quantity(0), pipelineTransfer: quantity(0) },
    };
    const half = (known: Cluster): Cluster => ({
      ...known,
      devices: known.devices.map((each) => ({
        ...each,
        efficiency: { gemm: quantity(0.5), attention: quantity(0.5), memory: quantity(0.5) },
      })),
      stepSeconds: quantity(4e-3),
    });
    await recordRuns(folder, processor, half);
    const { calibration, score } = await validateRuns(recordedRuns([folder]), {
      calibrateWith: recordedRuns([folder]),
    });
    expect(score.overall.time.mape).toBeLessThan(0.04);
    const names = calibration!.kinds["a processor"]!.parameters.map(({ name }) => name);
    expect(names).toContain("devices[].efficiency.gemm");
    expect(names.filter((name) => /overlap|callSeconds|launchSeconds/.test(name))).toEqual([]);
  });

  it("say what keeps them from being predicted, and where there are none", async () => {
    const folder = join(captured.folder, "gone");
    await recordRuns(folder, cluster, (known) => known);
    writeFileSync(join(folder, "cluster.json"), serialize({ ...cluster, name: "another" }));
    const { predictions, unpredicted } = await validateRuns(recordedRuns([folder]));
    expect(predictions).toEqual([]);
    expect(unpredicted[0]!.reason).toMatch(
      /^The cluster at .*cluster\.json is not the one this plan was made from$/,
    );
    mkdirSync(join(captured.folder, "none"));
    expect(() => recordedRuns([join(captured.folder, "none")])).toThrow("Expected runs with a step time in");
    await run(join(folder, "p0.run.json"), "runs.csv");
    expect(captured.err).toContain("Expected one CSV or any number of run records");
    await run(join(folder, "p0.json"));
    expect(captured.err).toContain('expected "mpopt.run/1" for field schema but found "mpopt.plan/1"');
  });
});
