import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { findPython } from "../../src/launch/python.js";
import type { ScheduleTable } from "../../src/schedule/actions.js";
import { scheduleCsvForm, writeScheduleCsv } from "../../src/schedule/csv.js";
import { addSharding, addTransfers } from "../../src/schedule/lower.js";
import { type ScheduleOptions, scheduleByName } from "../../src/schedule/named/index.js";

interface Result {
  name: string;
  loss: number;
  losses: number;
  unsplitLoss: number;
  gradientDifference: number;
  gradients: number;
}

const two: [string, ScheduleOptions][] = [
  ["gpipe", { ranks: 2, microBatches: 3 }],
  ["1f1b", { ranks: 2, microBatches: 5 }],
  ["interleaved", { ranks: 2, microBatches: 6, chunks: 3, groupSize: 4 }],
  ["looped-bfs", { ranks: 2, microBatches: 3 }],
  ["zb-h1", { ranks: 2, microBatches: 5 }],
  ["zb-h2", { ranks: 2, microBatches: 5 }],
  ["interleaved-zb", { ranks: 2, microBatches: 4 }],
  ["zbv", { ranks: 2, microBatches: 5 }],
  ["dualpipev", { ranks: 2, microBatches: 6 }],
];
const four: [string, ScheduleOptions][] = [
  ["1f1b", { ranks: 4, microBatches: 6 }],
  ["interleaved", { ranks: 4, microBatches: 8 }],
  ["zb-h1", { ranks: 4, microBatches: 6 }],
  ["zbv", { ranks: 4, microBatches: 8 }],
  ["dualpipev", { ranks: 4, microBatches: 9 }],
];

const python = await findPython();

describe.skipIf(!python?.torch)(
  `schedule CSVs in PyTorch's runtime${python?.torch ? "" : " (skipped: no Python with PyTorch; set MPOPT_PYTHON)"}`,
  () => {
    it("train like the unsplit model on gloo ranks: the same loss and gradients", () => {
      const tables: ScheduleTable[] = [...two, ...four].flatMap(([name, options]) => {
        const table = scheduleByName(name, options);
        // PyTorch adds transfers to the one, and runs the other as it is.
        return name === "zbv" || name === "interleaved" ? [table, addTransfers(addSharding(table))] : [table];
      });
      const cases = tables.map((table) => ({
        name: table.name,
        csv: writeScheduleCsv(table),
        form: scheduleCsvForm(table),
        ranks: table.ranks.length,
        stages: table.stages,
        microBatches: table.microBatches,
      }));
      const script = fileURLToPath(new URL("torchRun.py", import.meta.url));
      const output = execFileSync(python!.executable, [script], {
        input: JSON.stringify(cases),
        encoding: "utf8",
        stdio: ["pipe", "pipe", "pipe"],
        timeout: 55_000,
      });
      const results = JSON.parse(output) as Result[];
      expect(results.map(({ name }) => name)).toEqual(cases.map(({ name }) => name));
      results.forEach((result, i) => {
        const { stages, microBatches } = cases[i]!;
        expect(Math.abs(result.loss / result.unsplitLoss - 1), JSON.stringify(result)).toBeLessThan(1e-12);
        expect(result.losses).toBe(microBatches);
        expect(result.gradientDifference, JSON.stringify(result)).toBeLessThan(1e-9);
        // Two weights and two biases a stage.
        expect(result.gradients).toBe(4 * stages);
      });
    });
  },
);
