import { describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import { MpoptError } from "../../src/contracts/index.js";
import { createPlan, estimatePlan } from "../../src/plan/index.js";
import { clustersOfKinds, presetTemplate, sizedCluster } from "../../src/validate/clusters.js";
import { readCsv } from "../../src/validate/csv.js";
import { PredictionCache, predictAll } from "../../src/validate/predict.js";
import { readRuns, validateRuns } from "../../src/validate/validate.js";

const table = readCsv(new URL("../data/validation/runs.csv", import.meta.url).pathname);
const { records, runs } = readRuns(table);
const run = (id: string) => runs.find((each) => each.id === id)!;

describe("predictions of runs", () => {
  it("are what plan and estimate answer for the same configuration", async () => {
    for (const id of ["VTS-0384", "VTS-0031", "KOR22-0001"]) {
      const one = run(id);
      const { configuration, model, job } = one;
      const cluster = presetTemplate(one);
      const sized = sizedCluster(cluster, one.devicesPerNode, one.nodes)!;
      const { data, tensor, pipeline, microBatch, recompute, zero, sequenceParallel } = configuration;
      const pins = {
        data,
        tensor,
        pipeline,
        microBatch,
        recompute,
        zero,
        sequenceParallel,
        schedule: "1f1b",
      };
      const plan = await createPlan({ model, cluster: sized, job: { ...job, pins } });
      const { predictions } = await predictAll([one], () => sized);
      // The plan's stages may be cut otherwise: both are no slower than an even cut.
      expect(plan.estimate.stepSeconds).toBeLessThanOrEqual(predictions[0]!.stepSeconds * (1 + 1e-9));
      if (pipeline > 1) continue;
      expect(predictions[0]!.stepSeconds).toBeCloseTo(plan.estimate.stepSeconds, 9);
      expect(predictions[0]!.terms.compute).toBeCloseTo(estimatePlan(plan, model, sized).terms.compute, 9);
      const reserved = Math.max(...plan.estimate.memory.map((each) => each.reservedBytes));
      // The plan is for today's Megatron-Core, which holds a little else than the software of the run.
      expect(predictions[0]!.memoryGiB / (reserved / 2 ** 30)).toBeCloseTo(1, 2);
    }
  });

  it("hold what was measured, on presets alone, and do not fit where runs ran out of memory", async () => {
    const { predictions } = await predictAll(runs, clustersOfKinds());
    let measured = 0;
    for (const { id, memoryGiB, feasible } of predictions) {
      const { memoryGiB: read, outOfMemory } = records.find((record) => record.id === id)!.measured;
      if (outOfMemory) expect(feasible, id).toBe(false);
      if (read === undefined) continue;
      measured++;
      expect(Math.abs(memoryGiB / read - 1), id).toBeLessThan(0.04);
      expect(feasible, id).toBe(true);
    }
    expect(measured).toBeGreaterThanOrEqual(8);
  });

  it("hold as many micro-batches as a searched order may", async () => {
    const of = async (held?: number) => {
      const { schedule, ...rest } = run("ZB-0008");
      const changed = { ...rest, schedule: { ...schedule, held } };
      return (await predictAll([changed], clustersOfKinds())).predictions[0]!;
    };
    const [own, one, two] = [await of(), await of(31), await of(32)];
    // ZB-H2 of 16 ranks holds 31 micro-batches at most.
    expect(one.memoryGiB).toBeCloseTo(own.memoryGiB, 9);
    expect((await of(3)).memoryGiB).toBeLessThan(one.memoryGiB);
    expect(run("ZB-0008").schedule.held).toBe(32);
    const each = (two.memoryGiB - one.memoryGiB) * 2 ** 30;
    const held = (one.memoryGiB - (await of(1)).memoryGiB) * 2 ** 30;
    expect(held / each).toBeCloseTo(30, 6);
    expect(two.stepSeconds).toBe(own.stepSeconds);
  });

  it("add up: terms make the step", async () => {
    const { predictions } = await predictAll(runs, clustersOfKinds());
    for (const { id, stepSeconds, terms, memoryGiB } of predictions) {
      const sum = Object.values(terms).reduce((all, seconds) => all + seconds, 0);
      expect(sum / stepSeconds, id).toBeCloseTo(1, 6);
      expect(memoryGiB, id).toBeGreaterThan(0);
    }
  });

  it("do not depend on what was predicted before, nor on the order", async () => {
    const cache = new PredictionCache();
    const first = await predictAll(runs, clustersOfKinds(), cache);
    const again = await predictAll([...runs].reverse(), clustersOfKinds(), cache);
    expect([...again.predictions].reverse()).toEqual(first.predictions);
    expect((await predictAll([run("ZB-0020")], clustersOfKinds())).predictions[0]).toEqual(
      first.predictions.find(({ id }) => id === "ZB-0020"),
    );
  });

  it("are those of each run on a cluster of its own", async () => {
    const { predictions } = await predictAll(runs, clustersOfKinds());
    const own = await predictAll(runs, (one) => structuredClone(clustersOfKinds()(one)));
    expect(predictions.length).toBeGreaterThan(25);
    expect(own.predictions).toEqual(predictions);
  });

  it("follow the cluster: twice the compute rate is faster, twice the memory fits more", async () => {
    const faster = clustersOfKinds((one) => {
      const template = presetTemplate(one);
      const device = template.devices[0]!;
      const compute = device.compute.map((each) => ({
        ...each,
        points: each.points.map((point) => ({ ...point, rate: 2 * point.rate })),
      }));
      const memoryBytes = { ...device.memoryBytes, value: 1e13 };
      return { ...template, devices: [{ ...device, compute, memoryBytes }] };
    });
    const cache = new PredictionCache();
    const before = await predictAll(runs, clustersOfKinds(), cache);
    const after = await predictAll(runs, faster, cache);
    for (const [i, { id, stepSeconds, feasible }] of after.predictions.entries()) {
      expect(stepSeconds, id).toBeLessThan(before.predictions[i]!.stepSeconds);
      expect(feasible, id).toBe(true);
    }
  });

  it("stop when they are told to", async () => {
    const signal = AbortSignal.abort(new MpoptError("E_CANCELLED", "Stopped."));
    await expect(validateRuns(table, { signal })).rejects.toMatchObject({ code: "E_CANCELLED" });
  });

  it("cover every row of the table: predicted, or with a reason why not", async () => {
    const { predictions, unpredicted, measured } = await validateRuns(table);
    const ids = [...predictions, ...unpredicted].map(({ id }) => id).sort();
    expect(ids).toEqual(table.rows.map((row) => row.values.id).sort());
    expect(measured).toBe(true);
  });
});

describe("clusters of another size", () => {
  it("keep the preset's levels", () => {
    const template = clusterPreset("gb200:4x36");
    const levels = (devices: number, nodes: number) =>
      sizedCluster(template, devices, nodes)!.topology.levels.map(
        ({ name, groupSize }) => `${name} ${groupSize}`,
      );
    expect(levels(4, 1)).toEqual(["node 4"]);
    expect(levels(2, 1)).toEqual(["node 2"]);
    expect(levels(4, 16)).toEqual(["node 4", "domain 16"]);
    expect(levels(4, 72)).toEqual(["node 4", "domain 18", "network 4"]);
    // 64 nodes are four domains of 16.
    expect(levels(4, 64)).toEqual(["node 4", "domain 16", "network 4"]);
    expect(levels(4, 5)).toEqual(["node 4", "domain 5"]);
    for (const nodes of [1, 2, 16, 64, 72]) {
      const { topology, devices } = clusterPreset(`gb200:4x${nodes}`);
      const own = sizedCluster(template, 4, nodes)!;
      expect(own.topology.levels).toEqual(topology.levels);
      expect(own.devices[0]!.count).toBe(devices[0]!.count);
    }
  });

  it("are none beyond the links that the template knows", () => {
    expect(sizedCluster(clusterPreset("h100-sxm:8x1"), 8, 2)).toBeUndefined();
  });
});
