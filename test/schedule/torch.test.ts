import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { findPython } from "../../src/launch/python.js";
import { writeScheduleCsv } from "../../src/schedule/csv.js";
import { addSharding, addTransfers } from "../../src/schedule/lower.js";
import { scheduleByName } from "../../src/schedule/named/index.js";

/** One size of one of PyTorch's classes, under the name that torchtitan gives it. */
interface Case {
  class: string;
  ranks: number;
  chunks: number;
  microBatches: number;
}

type Answer = { error: string } | { error?: undefined; orders: string[][]; lowered?: string[][] };

const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => from + i);
const grid = (name: string, ranks: number[], chunks: number[], microBatches: number[]): Case[] =>
  ranks.flatMap((p) =>
    chunks.flatMap((v) => microBatches.map((m) => ({ class: name, ranks: p, chunks: v, microBatches: m }))),
  );

const cases: Case[] = [
  ...grid("GPipe", range(1, 8), [1], range(1, 12)),
  ...grid("1F1B", range(1, 8), [1], range(1, 24)),
  ...grid("Interleaved1F1B", [...range(1, 6), 8], range(1, 4), range(1, 24)),
  ...grid("LoopedBFS", [...range(1, 6), 8], range(1, 4), range(1, 9)),
  ...grid("InterleavedZeroBubble", [...range(1, 6), 8], range(1, 4), range(1, 24)),
  ...grid("ZBVZeroBubble", range(1, 8), [2], range(1, 24)),
  ...grid("DualPipeV", range(1, 8), [2], range(1, 24)),
];

/** The project's cells of a schedule, row by row. */
const cellsOf = (csv: string) =>
  csv
    .trimEnd()
    .split("\n")
    .map((row) => row.split(","));
const ours = ({ class: name, ...size }: Case) => scheduleByName(name, size);
/** PyTorch gives up stages in the order of a Python set; neighbouring reshards may come in any order. */
const withSortedReshards = (cells: string[]) =>
  cells.join(",").replace(/\d+RESHARD(,\d+RESHARD)+/g, (run) => run.split(",").sort().join(","));

const python = await findPython();

describe.skipIf(!python?.torch)(
  `PyTorch's schedules${python?.torch ? "" : " (skipped: no Python with PyTorch; set MPOPT_PYTHON)"}`,
  () => {
    let answers: Answer[];
    beforeAll(() => {
      const script = fileURLToPath(new URL("torchOrders.py", import.meta.url));
      const output = execFileSync(python!.executable, [script], {
        input: JSON.stringify(cases),
        maxBuffer: 1 << 30,
        encoding: "utf8",
        stdio: ["pipe", "pipe", "ignore"],
      });
      answers = (JSON.parse(output) as { answers: Answer[] }).answers;
      expect(answers).toHaveLength(cases.length);
    });

    it.each([
      // Classes, and how many sizes of the grid each of them accepts.
      ["GPipe", 96],
      ["1F1B", 164],
      ["Interleaved1F1B", 472],
      ["LoopedBFS", 252],
      ["InterleavedZeroBubble", 472],
      ["ZBVZeroBubble", 192],
      ["DualPipeV", 128],
    ])("%s: every action in the same place", (name, accepted) => {
      let compared = 0;
      cases.forEach((size, i) => {
        const answer = answers[i]!;
        if (size.class !== name || answer.error !== undefined) return;
        expect({ size, cells: cellsOf(writeScheduleCsv(ours(size))) }).toEqual({
          size,
          cells: answer.orders,
        });
        compared++;
      });
      expect(compared).toBe(accepted);
    });

    it("the same transfers, gathers and reductions in the same places", () => {
      let compared = 0;
      cases.forEach((size, i) => {
        const answer = answers[i]!;
        // Two fifths of the sizes, to save time.
        if (answer.error !== undefined || !answer.lowered || size.microBatches % 5 > 1) return;
        const lowered = cellsOf(writeScheduleCsv(addTransfers(addSharding(ours(size)))));
        expect({ size, cells: lowered.map(withSortedReshards) }).toEqual({
          size,
          cells: answer.lowered.map(withSortedReshards),
        });
        compared++;
      });
      expect(compared).toBeGreaterThan(300);
    });

    it("sizes that PyTorch refuses are refused here as well, except 1F1B below one micro-batch a rank", () => {
      let refused = 0;
      cases.forEach((size, i) => {
        const { error } = answers[i]!;
        if (error === undefined) return;
        refused++;
        if (size.class === "1F1B") {
          // Valid, and of use to a plan whose batch is small; PyTorch's own loop cannot run it.
          expect(size.microBatches).toBeLessThan(size.ranks);
          expect(ours(size).microBatches).toBe(size.microBatches);
        } else expect(() => ours(size), JSON.stringify(size)).toThrow(/^Expected .*micro-batches/);
      });
      expect(refused).toBeGreaterThan(100);
    });
  },
);
