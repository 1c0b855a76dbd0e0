import { describe, expect, it } from "vitest";
import { type Cluster, clusterSchema, type Quantity } from "../../src/contracts/index.js";
import { clustersOfKinds, presetTemplate } from "../../src/validate/clusters.js";
import { readCsv } from "../../src/validate/csv.js";
import { calibrate, calibratedTemplates, softwareFamily } from "../../src/validate/fit.js";
import { parameters, placed, valueAt } from "../../src/validate/parameters.js";
import { PredictionCache, predictAll } from "../../src/validate/predict.js";
import type { MeasuredRun } from "../../src/validate/types.js";
import { readRuns } from "../../src/validate/validate.js";

const table = readCsv(new URL("../data/validation/runs.csv", import.meta.url).pathname);
const { runs } = readRuns(table);
const cache = new PredictionCache();
const parameter = (name: string) => parameters.find((each) => each.name === name)!;
const fitted = (value: number): Quantity => ({ value, provenance: "fitted", source: "test" });

/** Runs on a cluster that differs from the presets as `change` says, as if they had been measured there. */
async function measuredOn(change: (cluster: Cluster) => Cluster, ids: RegExp): Promise<MeasuredRun[]> {
  const own = runs.filter(({ id }) => ids.test(id));
  const { predictions } = await predictAll(
    own,
    clustersOfKinds((run) => change(presetTemplate(run))),
    cache,
  );
  const seconds = new Map(predictions.map((each) => [each.id, each.stepSeconds]));
  return own.map((run) => ({
    run,
    stepSeconds: seconds.get(run.id)!,
    memoryGiB: undefined,
    outOfMemory: false,
    choiceGroup: undefined,
  }));
}

const slow = (cluster: Cluster) =>
  [
    ["devices[].efficiency.gemm", 0.8],
    ["devices[].callSeconds.forward", 60e-6],
    ["devices[].callSeconds.backward", 30e-6],
  ].reduce((all, [name, value]) => parameter(name as string).write(all, fitted(value as number)), cluster);

describe("calibration", () => {
  it("finds what made the times, and predicts them", async () => {
    const measured = await measuredOn(slow, /^VTS/);
    const { kinds } = await calibrate(measured, { cache, source: "runs.csv", date: "2026-01-02" });
    expect(Object.keys(kinds)).toEqual(["VTS/A100"]);
    const { parameters: found, residuals, cluster } = kinds["VTS/A100"]!;
    for (const { error, id } of residuals) expect(Math.abs(error), id).toBeLessThan(0.04);
    const gemm = found.find(({ name }) => name === "devices[].efficiency.gemm")!;
    expect(gemm.prior).toBe(1);
    expect(gemm.value).toBeGreaterThan(0.7);
    expect(gemm.value).toBeLessThan(0.93);
    const { efficiency, callSeconds } = cluster.devices[0]!;
    expect(efficiency!.gemm).toEqual({
      value: gemm.value,
      provenance: "fitted",
      source: `fitted to ${measured.length} runs of runs.csv on 2026-01-02`,
    });
    expect(callSeconds!.forward.value).toBeGreaterThan(30e-6);
    expect(clusterSchema.safeParse(cluster).error).toBeUndefined();
  });

  it("improves on the presets for runs that it did not see", async () => {
    const measured = await measuredOn(slow, /^VTS/);
    const few = measured.filter((_, i) => i % 2 === 0);
    const others = measured.filter((_, i) => i % 2 === 1);
    const calibration = await calibrate(few, { cache });
    const errorOf = async (templateOf: typeof presetTemplate) => {
      const { predictions } = await predictAll(
        others.map(({ run }) => run),
        clustersOfKinds(templateOf),
        cache,
      );
      const errors = predictions.map(({ stepSeconds }, i) =>
        Math.abs(stepSeconds / others[i]!.stepSeconds! - 1),
      );
      return errors.reduce((sum, error) => sum + error, 0) / errors.length;
    };
    const before = await errorOf(presetTemplate);
    expect(before).toBeGreaterThan(0.08);
    expect(await errorOf(calibratedTemplates(calibration))).toBeLessThan(before / 4);
  });

  it("is moved little by a reading that went wrong", async () => {
    const measured = await measuredOn(slow, /^VTS/);
    const wrong = measured.map((each, i) =>
      i === 1 ? { ...each, stepSeconds: 5 * each.stepSeconds! } : each,
    );
    const { kinds } = await calibrate(wrong, { cache });
    const errors = kinds["VTS/A100"]!.residuals.map(({ error }) => Math.abs(error)).sort((a, b) => a - b);
    expect(errors.at(-1)).toBeGreaterThan(0.7);
    expect(errors.at(-2)).toBeLessThan(0.08);
  });

  it("gives kinds without runs what their part showed under like software, others what the hardware showed", async () => {
    const measured = await measuredOn(slow, /^VTS/);
    const calibration = await calibrate(measured, { cache });
    const templateOf = calibratedTemplates(calibration);
    const family = calibration.families[0]!;
    const like = runs.find(
      ({ kind, hardware, software }) =>
        kind !== "VTS/A100" && hardware.part === family.part && softwareFamily(software) === family.software,
    )!;
    const own = calibration.kinds["VTS/A100"]!.cluster.devices[0]!;
    const given = templateOf(like).devices[0]!;
    expect(given.efficiency!.gemm!.value).toBeCloseTo(own.efficiency!.gemm!.value, 9);
    expect(given.callSeconds!.forward.value).toBeCloseTo(own.callSeconds!.forward.value, 12);
    const unlike = {
      ...like,
      kind: "OTHER/A100",
      software: { ...like.software, attention: "flash" as const },
    };
    const hardware = templateOf(unlike).devices[0]!;
    expect(hardware.efficiency!.gemm!.value).toBeCloseTo(own.efficiency!.gemm!.value, 9);
    expect(hardware.callSeconds).toEqual(presetTemplate(unlike).devices[0]!.callSeconds);
    const elsewhere = { ...like, kind: "OTHER/H100", hardware: { part: "h100-sxm" } };
    expect(templateOf(elsewhere)).toEqual(presetTemplate(elsewhere));
  });

  it("refuses runs without a measured figure", async () => {
    const [run] = runs;
    const nothing = {
      run: run!,
      stepSeconds: undefined,
      memoryGiB: undefined,
      outOfMemory: false,
      choiceGroup: undefined,
    };
    await expect(calibrate([nothing])).rejects.toThrow(/Expected runs to calibrate with but found none of 1/);
  });
});

describe("parameters", () => {
  const cluster = presetTemplate(runs.find(({ nodes }) => nodes > 1)!);

  it("read what they write, inside limits that hold the preset", () => {
    for (const each of parameters) {
      const place = placed(each, cluster);
      if (!place) continue;
      expect(place.mean, each.name).toBeGreaterThanOrEqual(place.lower);
      expect(place.mean, each.name).toBeLessThanOrEqual(place.upper);
      const value = valueAt(each, (place.lower + place.upper) / 2);
      const changed = each.write(cluster, fitted(value));
      expect(each.start(changed), each.name).toBeCloseTo(value, 12);
      expect(clusterSchema.safeParse(changed).error, each.name).toBeUndefined();
      // Nothing else moves.
      for (const other of parameters) {
        if (other !== each)
          expect(other.start(changed), `${each.name} moves ${other.name}`).toBe(other.start(cluster));
      }
    }
  });

  it("never let a part exceed its data sheet", () => {
    const device = cluster.devices[0]!;
    const best = Math.max(
      ...device.compute
        .filter((t) => t.operator === "gemm" && t.dtype === "f16")
        .flatMap((t) => t.points.map((p) => p.rate)),
    );
    const most = parameter("devices[].efficiency.gemm").limits(cluster)[1];
    expect(best * most).toBeLessThanOrEqual(device.peakFlopsPerSecond.f16!.value * 1.000001);
    expect(most).toBeGreaterThan(1);
  });
});
