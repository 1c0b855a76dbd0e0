import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import type { Plan } from "../../src/contracts/index.js";
import { exporters, exportPlan, findPython, lossyFor } from "../../src/launch/index.js";
import { loadModel } from "../../src/models/index.js";
import { createPlan } from "../../src/plan/index.js";
import { expectPlanned, readShardings } from "./jaxShardings.js";

let folder: string;
let python: string | undefined;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "mpopt-jax-plans-"));
  python = (await findPython())?.executable;
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const found = (model: string, cluster: string, globalBatch: number): Promise<Plan> =>
  createPlan({
    model: loadModel(model),
    cluster: clusterPreset(cluster),
    job: { sequence: 8192, globalBatch, runtime: "jax" },
    lossyFor,
    plain: true,
  });

describe("plans that a search for JAX finds", () => {
  it.each([
    ["llama-3.1-70b", "h100-sxm:8x16", 256],
    ["llama-3.1-405b", "h100-sxm:8x128", 1024],
    ["mixtral-8x7b", "h100-sxm:8x8", 256],
    ["qwen2.5-72b", "h100-sxm:8x12", 384],
  ])("%s on %s is written, alone and under Slurm and Kubernetes", async (model, cluster, globalBatch) => {
    const plan = await found(model, cluster, globalBatch);
    for (const launcher of ["jax", "slurm", "kubernetes"]) expect(plan.lossyFor[launcher]).toBeUndefined();
    exportPlan(plan, "slurm", join(folder, model));
    expect(Object.keys(exporters.kubernetes!.files(plan))).toContain("trainjob.yaml");
    if (model.startsWith("qwen")) expect(8192 % plan.optimizer.shards!).toBe(0);
    if (!python) return;
    const file = join(folder, model, "run", "plan_sharding.py");
    const [answer] = readShardings(python, [{ file, plan }]);
    expectPlanned(plan, answer!);
  });
});
