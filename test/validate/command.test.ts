import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { validateCommand } from "../../src/cli/validate.js";
import { loadCluster } from "../../src/cluster/index.js";
import { loadModel } from "../../src/models/index.js";
import { createPlan } from "../../src/plan/index.js";
import { captureCommand } from "../cli/captured.js";

const table = new URL("../data/validation/runs.csv", import.meta.url).pathname;

describe("mpopt validate", () => {
  const captured = captureCommand();
  const run = (...args: string[]) => validateCommand().parseAsync(["node", "validate", ...args]);

  it("prints one document with a row for every run that it predicts", async () => {
    await run(table, "--json", "--quiet");
    const { rows, groups, unpredicted } = JSON.parse(captured.out);
    expect(rows.length + unpredicted.length).toBe(34);
    const row = rows.find(({ id }: { id: string }) => id === "ZB-0020");
    expect(Object.keys(row)).toEqual(["id", "step_time_s", "memory_GiB", "feasible", "terms"]);
    const sum = Object.values<number>(row.terms).reduce((all, seconds) => all + seconds, 0);
    expect(sum).toBeCloseTo(row.step_time_s, 6);
    expect(groups.ZB.choice.groups).toBe(1);
    expect(groups.ZB.time.mape).toBeGreaterThan(0);
    expect(unpredicted).toContainEqual({
      id: "NEMO-0030",
      reason: "the row does not give layers, hidden, heads",
    });
    expect(captured.err).toBe("");
  });

  it("prints a table by group, and a line for each reason that keeps runs from being predicted", async () => {
    await run(table);
    expect(captured.out).toMatch(/^VTS +\d+\/\d+ +100 /m);
    expect(captured.out).toContain("Choice of the plan predicted fastest");
    expect(captured.out).toMatch(
      /^\d+ not predicted, because the row does not give layers, hidden, heads: .*NEMO-0030/m,
    );
  });

  it("prints the predictions of a file without measured values", async () => {
    const path = join(captured.folder, "mine.csv");
    writeFileSync(
      path,
      "layers,hidden,heads,seq,gpu,n_gpus,tp,pp,global_batch\n12,768,12,1024,H100,8,1,1,64\n12,768,12,1024,TPU,8,1,1,64\n",
    );
    await run(path);
    expect(captured.out).toMatch(/^run +step s +GiB +fits\nline-2 +0\.\d+ +\d+\.\d +yes$/m);
    expect(captured.out).toContain("1 not predicted, because no preset stands for GPU TPU: line-3");
  });

  it("refuses what it cannot read with the place and exit code", async () => {
    const path = join(captured.folder, "bad.csv");
    writeFileSync(path, "id,layers,tp\na,12,x\n");
    await run(path);
    expect(process.exitCode).toBeUndefined();
    writeFileSync(
      path,
      "id,layers,hidden,heads,seq,gpu,n_gpus,tp,pp,global_batch\na,12,768,12,1024,H100,8,x,1,64\n",
    );
    await run(path);
    expect(captured.err).toContain(
      `mpopt: ${path} line 2: expected a positive whole number for column tp but found "x".`,
    );
    expect(process.exitCode).toBe(1);
    await run(join(captured.folder, "none.csv"));
    expect(captured.err).toContain("but it does not exist");
    await run(table, "--clusters", captured.folder);
    expect(captured.err).toContain(`Expected cluster files in ${captured.folder} but found none.`);
  });
});

describe("mpopt validate --calibrate", () => {
  const captured = captureCommand();
  const run = (...args: string[]) => validateCommand().parseAsync(["node", "validate", ...args]);
  /** The rows of some sources as a file of their own. */
  const rowsOf = (...prefixes: string[]) => {
    const path = join(captured.folder, "some.csv");
    const lines = readFileSync(table, "utf8").split("\n");
    const wanted = (line: string, i: number) =>
      i === 0 || prefixes.some((prefix) => line.startsWith(`${prefix}-`));
    writeFileSync(path, lines.filter(wanted).join("\n"));
    return path;
  };

  it("predicts closer after a fit, writes clusters, and predicts the same from them", async () => {
    const clusters = join(captured.folder, "clusters");
    const some = rowsOf("VTS", "ZB");
    await run(some, "--json", "--quiet");
    const before = JSON.parse(captured.out);
    captured.out = "";
    await run(some, "--calibrate", some, "-o", clusters, "--json", "--quiet");
    const fitted = JSON.parse(captured.out);
    expect(fitted.overall.time.mape).toBeLessThan(0.7 * before.overall.time.mape);
    expect(fitted.uncalibrated).toEqual([]);
    const { parameters } = fitted.calibration.kinds["ZB/A100-SXM-80GB"];
    const gemm = parameters.find(({ name }: { name: string }) => name === "devices[].efficiency.gemm");
    expect(gemm).toMatchObject({ prior: 1, provenance: "fitted" });
    captured.out = "";
    await run(some, "--clusters", clusters, "--json", "--quiet");
    const again = JSON.parse(captured.out);
    for (const [i, { id, step_time_s, memory_GiB }] of again.rows.entries()) {
      expect(step_time_s, id).toBeCloseTo(fitted.rows[i].step_time_s, 9);
      expect(memory_GiB, id).toBeCloseTo(fitted.rows[i].memory_GiB, 9);
    }

    const cluster = loadCluster(join(clusters, "ZB-A100-SXM-80GB.json"));
    expect(cluster.name).toBe("ZB/A100-SXM-80GB");
    expect(cluster.devices[0]!.count).toBe(16);
    expect(cluster.devices[0]!.efficiency!.gemm).toMatchObject({ value: gemm.value, provenance: "fitted" });
    expect(cluster.calibration).toMatchObject({ rows: 5, source: "some.csv" });
    expect(cluster.calibration!.p50).toBeLessThanOrEqual(cluster.calibration!.p90);
    // The file is a cluster for plan.
    const plan = await createPlan({
      model: loadModel("gpt2"),
      cluster,
      job: { globalBatch: 64, sequence: 1024 },
    });
    expect(plan.cluster.calibration).toEqual(cluster.calibration);
    expect(plan.estimate.stepSeconds).toBeGreaterThan(0);
  });

  it("says which kinds no file covers, and that -o needs a calibration", async () => {
    const clusters = join(captured.folder, "clusters");
    const some = rowsOf("VTS");
    await run(some, "--calibrate", some, "-o", clusters, "--quiet");
    expect(captured.out).toMatch(/^VTS\/A100 +\d+ +\d+ +\d/m);
    expect(captured.out).toContain(`Written to ${join(clusters, "VTS-A100.json")}.`);
    await run(table, "--clusters", clusters);
    expect(captured.err).toMatch(/^No calibration covers .*ZB\/A100-SXM-80GB/m);
    await run(table, "-o", clusters);
    expect(captured.err).toContain("Expected --calibrate FEW.csv beside -o");
    expect(process.exitCode).toBe(2);
  });
});
