import { describe, expect, it } from "vitest";
import { clusterPreset, withLinkSpeed } from "../../src/cluster/index.js";
import { loadModel } from "../../src/models/index.js";
import { createPlan } from "../../src/plan/index.js";
import { choiceChanges, parseWhatIf, planWhatIf } from "../../src/plan/whatIf.js";

const options = {
  model: loadModel("llama-3.1-8b"),
  cluster: clusterPreset("h100-sxm:8x2"),
  job: { globalBatch: 64, sequence: 4096 },
  plain: true,
};
const base = await createPlan(options);

describe("parseWhatIf", () => {
  it("reads every kind of change", () => {
    expect(parseWhatIf("gpus=64,128")).toEqual([
      { kind: "gpus", devices: 64 },
      { kind: "gpus", devices: 128 },
    ]);
    expect(parseWhatIf("batch=32")).toEqual([{ kind: "batch", globalBatch: 32 }]);
    expect(parseWhatIf("sequence=131072")).toEqual([{ kind: "sequence", sequence: 131072 }]);
    expect(parseWhatIf("link=x0.5,node:x2,3")).toEqual([
      { kind: "link", factor: 0.5 },
      { kind: "link", factor: 2, level: "node" },
      { kind: "link", factor: 3 },
    ]);
    expect(parseWhatIf("gpu=b200,gb200:4")).toEqual([
      { kind: "gpu", part: "b200" },
      { kind: "gpu", part: "gb200:4" },
    ]);
  });

  it("refuses what it cannot read, with the text", () => {
    for (const text of [
      "gpus",
      "=4",
      "gpus=",
      "gpus=4,",
      "gpus=0",
      "gpus=1e3",
      "batch=-1",
      "link=",
      "link=x0",
      "gpu=",
      "colour=red",
    ]) {
      expect(() => parseWhatIf(text), text).toThrow(/^Expected .* for --what-if but found "/);
    }
  });
});

describe("planWhatIf", () => {
  it("plans again exactly: each answer is what the changed question gives by itself", async () => {
    const changes = [
      ...parseWhatIf("gpus=32"),
      ...parseWhatIf("batch=128"),
      ...parseWhatIf("sequence=8192"),
      ...parseWhatIf("link=x0.25"),
      ...parseWhatIf("gpu=a100-80"),
    ];
    const answers = await planWhatIf(base, changes, options);
    const asked = [
      { cluster: clusterPreset("h100-sxm:8x4") },
      { job: { ...options.job, globalBatch: 128 } },
      { job: { ...options.job, sequence: 8192 } },
      { cluster: withLinkSpeed(options.cluster, 0.25) },
      { cluster: clusterPreset("a100-80:8x2") },
    ];
    expect(answers.map(({ name }) => name)).toEqual([
      "32 devices",
      "batch 128",
      "sequence 8192",
      "network x0.25",
      "a100-80",
    ]);
    for (const [i, question] of asked.entries()) {
      const alone = await createPlan({ ...options, ...question });
      expect(answers[i]!.plan!.estimate).toEqual(alone.estimate);
      expect(answers[i]!.choices).toEqual(choiceChanges(base, alone));
    }
    // Twice the devices take about half of the time, or less where sharding over more of them spares recomputation.
    const more = answers[0]!.plan!.estimate.stepSeconds / base.estimate.stepSeconds;
    expect(more).toBeGreaterThan(0.4);
    expect(more).toBeLessThan(0.7);
    expect(answers[3]!.plan!.estimate.stepSeconds).toBeGreaterThan(base.estimate.stepSeconds);
  });

  it("answers with the reason where nothing fits, and refuses an impossible change before any search", async () => {
    const [answer] = await planWhatIf(base, parseWhatIf("gpus=1"), options);
    expect(answer).toMatchObject({ name: "1 device", choices: [] });
    expect(answer!.plan).toBeUndefined();
    expect(answer!.reason).toMatch(/Expected a plan within/);
    await expect(
      planWhatIf(base, parseWhatIf("batch=128").concat(parseWhatIf("gpus=12")), options),
    ).rejects.toThrow(/whole nodes of 8/);
  });

  it("prices other parts by their own price, not by the one given for the base", async () => {
    const priced = { ...options, dollarsPerHour: 3 };
    const [same, other] = await planWhatIf(
      base,
      [...parseWhatIf("batch=32"), ...parseWhatIf("gpu=a100-80")],
      priced,
    );
    expect(same!.plan!.cluster.dollarsPerHour!.value).toBe(3);
    expect(other!.plan!.cluster.dollarsPerHour).toEqual(
      clusterPreset("a100-80:8x2").devices[0]!.dollarsPerHour,
    );
  });
});
