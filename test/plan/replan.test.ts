import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { replanCommand } from "../../src/cli/replan.js";
import { clusterPreset, loadCluster } from "../../src/cluster/index.js";
import { type Plan, serialize } from "../../src/contracts/index.js";
import { loadModel } from "../../src/models/index.js";
import { checkPlan, createPlan } from "../../src/plan/index.js";
import { leftDevices, leftWithout } from "../../src/plan/left.js";
import { countsToTry, replan } from "../../src/plan/replan.js";
import { loadInputs } from "../../src/plan/sources.js";
import { captureCommand } from "../cli/captured.js";

const model = loadModel("llama-3.1-8b");
const cluster = clusterPreset("h100-sxm:8x4");
const job = { globalBatch: 96, sequence: 2048 };
const before = await createPlan({ model, cluster, job, plain: true });

describe("replan", () => {
  it("gives what a plan for the rest gives, with the same job", async () => {
    const { plan, released } = await replan(before, { model, cluster, devices: 24 });
    const direct = await createPlan({ model, cluster: clusterPreset("h100-sxm:8x3"), job, plain: true });
    expect(plan.estimate.stepSeconds).toBe(direct.estimate.stepSeconds);
    expect(plan.job).toEqual(before.job);
    expect(released).toEqual([]);
    expect(checkPlan(plan, { model, cluster: clusterPreset("h100-sxm:8x3") })).toEqual([]);
  });

  it("leaves devices idle where fewer are faster, or where all cannot be used", async () => {
    const odd = await replan(before, { model, cluster, devices: 5 });
    // 96 sequences on 5 devices: fewer are faster or as fast.
    const own = await createPlan({ model, cluster: clusterPreset("h100-sxm:5x1"), job, plain: true });
    expect(odd.plan.estimate.stepSeconds).toBeLessThanOrEqual(own.estimate.stepSeconds);
    const nodes = await replan(before, { model, cluster, devices: 30 });
    expect(nodes.plan.rankTable.length).toBeLessThanOrEqual(24);
    expect(nodes.plan.rankTable.length % 8).toBe(0);
  });

  it("keeps pins where any plan keeps them, and says which it could not", async () => {
    const plan = await createPlan({
      ...{ model, cluster, plain: true },
      job: { ...job, pins: { data: 32, recompute: "none" } },
    });
    const found = await replan(plan, { model, cluster, devices: 24 });
    expect(found.released).toEqual(["data"]);
    expect(found.plan.job.pins).toEqual({ recompute: "none" });
    const kept = await createPlan({
      ...{ model, cluster, plain: true },
      job: { ...job, pins: { tensor: 2 } },
    });
    const same = await replan(kept, { model, cluster, devices: 16 });
    expect(same.released).toEqual([]);
    expect(same.plan.mesh.sizes.at(-1)).toBe(2);
  });

  it("refuses more devices than there are, and says when nothing fits", async () => {
    await expect(replan(before, { model, cluster, devices: 33 })).rejects.toThrow("Expected 1 to 32 devices");
    const large = loadModel("llama-3.1-70b");
    const whole = await createPlan({ model: large, cluster, job, plain: true });
    await expect(replan(whole, { model: large, cluster, devices: 1 })).rejects.toMatchObject({
      code: "E_INFEASIBLE",
    });
  });

  it("tries smaller counts with small factors", () => {
    expect(countsToTry(7)).toEqual([7, 6, 4, 3, 2, 1]);
    expect(countsToTry(1)).toEqual([1]);
  });
});

describe("what is left", () => {
  const ranks = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i);

  it("drops nodes by their index, and nodes of several that lost a device", () => {
    expect(leftWithout(before, "node1").ranks).toEqual([...ranks(0, 8), ...ranks(16, 32)]);
    expect(leftWithout(before, "0-1,node3").ranks).toEqual(ranks(16, 24));
    expect(leftWithout(before, "rank9").ranks).toEqual([...ranks(0, 8), ...ranks(16, 32)]);
    expect(leftDevices(before, 12).ranks).toEqual(ranks(0, 12));
  });

  it("drops single devices of one machine", async () => {
    const one = await createPlan({ model, cluster: clusterPreset("h100-sxm:8x1"), job, plain: true });
    expect(leftWithout(one, "rank2,rank5-6").ranks).toEqual([0, 1, 3, 4, 7]);
  });

  it("refuses what the plan does not have", () => {
    for (const text of ["node4", "x", "", "3-1", "rank32", "node-1"]) {
      expect(() => leftWithout(before, text), text).toThrow(/^Expected nodes such as .* but found "/);
    }
    expect(() => leftWithout(before, "0-3")).toThrow("Expected some of 32 devices to be left");
    expect(() => leftDevices(before, 33)).toThrow("Expected at most the plan's 32 devices");
  });
});

describe("mpopt replan", () => {
  const captured = captureCommand();
  const run = (...args: string[]) => replanCommand().parseAsync(["node", "replan", ...args]);

  it("writes the plan and says what must move", async () => {
    const path = join(captured.folder, "plan.json");
    const output = join(captured.folder, "rest.json");
    writeFileSync(path, serialize(before));
    await run(path, "--without", "node1", "-o", output, "--quiet");
    expect(captured.out).toMatch(/llama-3.1-8b on (24|16) devices of 24 that are left/);
    expect(captured.out).toMatch(/[\d.]+ GiB move between ranks/);
    expect(captured.out).toContain(`Written to ${output}.`);
    await run(path, "--nodes", "3", "--json", "--quiet");
    const { plan, movement, left } = JSON.parse(captured.out.slice(captured.out.indexOf("{")));
    expect(left).toHaveLength(24);
    expect(movement.ranks).toHaveLength(plan.rankTable.length);
    const { neededBytes, keptBytes, movedBytes, checkpointBytes } = movement;
    expect(keptBytes + movedBytes + checkpointBytes).toBe(neededBytes);
    await run(path);
    expect(captured.err).toContain("Expected one of --without, --devices and --nodes but found none.");
    expect(process.exitCode).toBe(2);
  });

  it("finds the inputs of a plan for the rest of a cluster file again", async () => {
    const file = join(captured.folder, "cluster.json");
    writeFileSync(file, serialize({ ...cluster, name: "ours", source: "ours" }));
    const whole = loadCluster(file);
    const plan = await createPlan({ model, cluster: whole, job, plain: true });
    const once: Plan = (await replan(plan, { model, cluster: whole, devices: 24 })).plan;
    const inputs = loadInputs(once);
    expect(inputs.remarks).toEqual([]);
    const twice: Plan = (await replan(once, { model, cluster: inputs.cluster!, devices: 16 })).plan;
    expect(loadInputs(twice).remarks).toEqual([]);
  });
});
