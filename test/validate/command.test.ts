import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { validateCommand } from "../../src/cli/validate.js";
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
