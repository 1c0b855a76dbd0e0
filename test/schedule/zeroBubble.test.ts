import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { parseCsv } from "../../src/validate/csv.js";
import { validateRuns } from "../../src/validate/validate.js";

/** Qi et al., ICLR 2024, table 4: 24 runs of four schedules in six settings. */
const published = parseCsv(
  readFileSync(new URL("../data/schedules/zeroBubble.csv", import.meta.url), "utf8"),
  "zeroBubble.csv",
);

/** The table with the columns of measured runs. */
function asRuns() {
  const columns =
    "id,model,layers,hidden,heads,seq,gpu,gpus_per_node,n_gpus,tp,pp,dp,vp,micro_batch,global_batch,notes,step_time_s,memory_GiB";
  const lines = published.rows.map(({ values }) => {
    const of = (name: string) => values[name]!;
    const interleaved = of("schedule") === "1F1B-I";
    return [
      ...["id", "model", "layers", "hidden", "heads", "seq", "gpu", "gpus_per_node"].map(of),
      of("pp"),
      "1",
      of("pp"),
      "1",
      interleaved ? "max(1 layer/chunk)" : "",
      of("micro_batch"),
      of("global_batch"),
      `schedule=${of("schedule")}`,
      of("step_time_s"),
      of("memory_GiB"),
    ].join(",");
  });
  return parseCsv([columns, ...lines].join("\n"), "zeroBubble.csv");
}

it("predicts the time and the memory of four published schedules in six settings, and their order", async () => {
  const table = asRuns();
  const { predictions: rows } = await validateRuns(table, { calibrateWith: table });
  expect(rows).toHaveLength(24);
  const settings = new Map<string, { measured: number; predicted: number }[]>();
  let wrong = 0;
  let pairs = 0;
  for (const [i, { id, stepSeconds, memoryGiB }] of rows.entries()) {
    const run = published.rows[i]!.values;
    expect(id).toBe(run.id);
    const measured = Number(run.step_time_s);
    expect(Math.abs(stepSeconds / measured - 1), `step time of ${id}`).toBeLessThan(0.1);
    expect(Math.abs(memoryGiB / Number(run.memory_GiB) - 1), `memory of ${id}`).toBeLessThan(0.08);
    const setting = settings.get(`${run.model}/${run.global_batch}`) ?? [];
    for (const other of setting) {
      pairs++;
      if (other.measured < measured !== other.predicted < stepSeconds) wrong++;
    }
    settings.set(`${run.model}/${run.global_batch}`, [...setting, { measured, predicted: stepSeconds }]);
  }
  const errors = rows.map((row, i) =>
    Math.abs(row.stepSeconds / Number(published.rows[i]!.values.step_time_s) - 1),
  );
  expect(errors.reduce((sum, error) => sum + error, 0) / errors.length).toBeLessThan(0.04);
  expect(pairs).toBe(36);
  expect(wrong).toBeLessThanOrEqual(5);
});
