import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { simulateCommand } from "../../src/cli/simulate.js";
import { checkActions, readScheduleCsv, scheduleByName } from "../../src/schedule/index.js";
import { captureCommand } from "./captured.js";

interface Result {
  schedule: string;
  stages: number;
  microBatches: number;
  stepSeconds: number;
  bubbleRatio: number;
  steadySecondsPerMicroBatch?: number;
  status?: string;
  bound?: number;
  gap?: number;
  ranks: {
    busySeconds: number;
    idleSeconds: number;
    peakMicroBatches: number;
    peakBytes: number | null;
    waits: { cause: string; seconds: number }[];
  }[];
}

const captured = captureCommand();

async function run(...args: string[]): Promise<void> {
  captured.out = "";
  captured.err = "";
  process.exitCode = undefined;
  const command = simulateCommand().exitOverride();
  command.configureOutput({ writeErr: (text) => process.stderr.write(text) });
  await command.parseAsync(args, { from: "user" });
}

async function simulated(args: string): Promise<Result> {
  await run(...args.split(" "), "--json");
  const result = JSON.parse(captured.out) as Result;
  expect(result).not.toHaveProperty("error");
  return result;
}

async function refused(args: string): Promise<{ code: string; message: string; notes: string[] }> {
  await run(...args.split(" ").filter(Boolean), "--json");
  const { error } = JSON.parse(captured.out) as {
    error: { code: string; message: string; notes: string[] };
  };
  expect(process.exitCode).toBe(error.code === "E_USAGE" ? 2 : 1);
  return error;
}

/** Mean idle share of the ranks in unit times F = B = W = 1, and each rank's peak; p ranks, m micro-batches, v chunks. */
interface Published {
  source: string;
  name: string;
  chunks?: number[];
  ratio: (p: number, m: number, v: number) => number;
  peak: (p: number, m: number, v: number, rank: number) => number;
}

const published: Published[] = [
  {
    source: "GPipe: Huang et al., NeurIPS 2019, section 2.3: (K - 1) / (M + K - 1), all micro-batches held",
    name: "gpipe",
    ratio: (p, m) => (p - 1) / (m + p - 1),
    peak: (_p, m) => m,
  },
  {
    source:
      "1F1B: Narayanan et al., SC'21, section 2.2.1: (p - 1)(t_f + t_b) idle, at most p - i micro-batches held",
    name: "1f1b",
    ratio: (p, m) => (p - 1) / (m + p - 1),
    peak: (p, m, _v, i) => Math.min(p - i, m),
  },
  {
    source:
      "Interleaved 1F1B: Narayanan et al., SC'21, section 2.2.2: (p - 1)(t_f + t_b) / v idle; Korthikanti et al., MLSys 2023, section 4.2.3: p v + p - 1 held on the first rank",
    name: "interleaved",
    chunks: [2, 3],
    ratio: (p, m, v) => (p - 1) / (m * v + p - 1),
    peak: (p, m, v, i) => Math.min((v - 1) * p + 2 * (p - 1 - i) + 1, m * v),
  },
  {
    source: "ZB-H1: Qi et al., ICLR 2024, table 2: (p - 1)(T_F + T_B - T_W) idle, p M_B held",
    name: "zb-h1",
    ratio: (p, m) => (p - 1) / (3 * m + p - 1),
    peak: (p) => p,
  },
  {
    source:
      "ZB-V: Qi et al., ICLR 2024, section 6: only the forwards of the way to the first micro-batch, (p - 1) T_F of half stages, and 1F1B's memory, 2p of them",
    name: "zbv",
    chunks: [2],
    ratio: (p, m) => (p - 1) / (6 * m + p - 1),
    peak: (p) => 2 * p,
  },
];

describe("mpopt simulate --schedule in unit times", () => {
  it.each(published)("$source", async ({ name, chunks, ratio, peak }) => {
    for (const p of [2, 3, 4]) {
      for (const m of [2 * p, 4 * p]) {
        for (const v of chunks ?? [1]) {
          const option = chunks ? ` --chunks ${v}` : "";
          const result = await simulated(
            `--schedule ${name} --ranks ${p} --micro-batches ${m}${option} --times 1,1,1`,
          );
          expect(result).toMatchObject({ schedule: name, stages: p * v, microBatches: m });
          expect(result.bubbleRatio).toBeCloseTo(ratio(p, m, v), 12);
          const busy = 3 * m * v;
          expect(result.stepSeconds).toBeCloseTo(busy / (1 - ratio(p, m, v)), 9);
          result.ranks.forEach((rank, i) => {
            expect(rank.peakMicroBatches).toBe(peak(p, m, v, i));
            expect(rank.busySeconds).toBe(busy);
            expect(rank.peakBytes).toBeNull();
            const waited = rank.waits.reduce((sum, { seconds }) => sum + seconds, 0);
            expect(waited).toBeCloseTo(rank.idleSeconds, 9);
          });
        }
      }
    }
  });

  it("delays every transfer: the first forward and the last backward of 1F1B cross p - 1 boundaries", async () => {
    const args = "--schedule gpipe --ranks 4 --micro-batches 8 --times 1,1,1";
    const free = await simulated(args);
    const delayed = await simulated(`${args} --transfer 0.5`);
    expect(delayed.stepSeconds - free.stepSeconds).toBeCloseTo(2 * 3 * 0.5, 12);
    expect(delayed.ranks[1]!.waits.map(({ cause }) => cause)).toContain("link");
  });

  it("takes times of each stage, and of each layer once where stages are copies", async () => {
    const uneven = await simulated("--schedule 1f1b --ranks 2 --micro-batches 4 --times 1,1,1/2,2,2");
    expect(uneven.ranks.map(({ busySeconds }) => busySeconds)).toEqual([12, 24]);
    const copies = await simulated("--schedule chimera --ranks 2 --micro-batches 4 --times 1,1,1/2,2,2");
    expect(copies.ranks.map(({ busySeconds }) => busySeconds)).toEqual([18, 18]);
  });

  it("gives the pace of schedules without a flush", async () => {
    const result = await simulated("--schedule 1f1b-async --ranks 4 --micro-batches 12 --times 1,1,1");
    expect(result.steadySecondsPerMicroBatch).toBe(3);
  });

  it("takes a group size", async () => {
    const args = "--schedule interleaved --ranks 2 --micro-batches 8 --chunks 2 --times 1,1,1";
    const grouped = await simulated(`${args} --group-size 4`);
    const plain = await simulated(args);
    expect(grouped.ranks[0]!.peakMicroBatches).toBeGreaterThan(plain.ranks[0]!.peakMicroBatches);
  });
});

describe("mpopt simulate --schedule searched", () => {
  it("is no slower than the named schedules, with a bound and a gap, within the micro-batches in flight", async () => {
    const args = "--ranks 4 --micro-batches 8 --times 1,1,1/2,1,1/1,1,2/1,2,1";
    const named = await simulated(`--schedule zb-h1 ${args}`);
    const searched = await simulated(`--schedule searched --in-flight 4 ${args}`);
    expect(searched.stepSeconds).toBeLessThanOrEqual(named.stepSeconds);
    expect(searched.bound).toBeLessThanOrEqual(searched.stepSeconds);
    expect(searched.gap).toBeCloseTo(searched.stepSeconds / searched.bound! - 1, 12);
    expect(["optimal", "feasible"]).toContain(searched.status);
    for (const { peakMicroBatches } of searched.ranks) expect(peakMicroBatches).toBeLessThanOrEqual(4);
    // The slowest ranks work 4 seconds a micro-batch.
    expect(searched.bound).toBeGreaterThanOrEqual(4 * 8);
  });

  it("searches stages that go there and back", async () => {
    const args = "--ranks 2 --chunks 2 --micro-batches 4 --times 1,1,1";
    const result = await simulated(`--schedule searched --placement v ${args}`);
    const zbv = await simulated(`--schedule zbv ${args}`);
    expect(result.stepSeconds).toBeLessThanOrEqual(zbv.stepSeconds);
    await run(
      ..."--schedule searched --placement v".split(" "),
      ...args.split(" "),
      "--csv",
      join(captured.folder, "v.csv"),
    );
    const table = readScheduleCsv(readFileSync(join(captured.folder, "v.csv"), "utf8"), "v.csv");
    expect(new Set(table.ranks[0]!.map(({ stage }) => stage))).toEqual(new Set([0, 3]));
  });
});

describe("mpopt simulate and action tables", () => {
  it("writes the CSV that torch reads, and plays it to the same times", async () => {
    const path = join(captured.folder, "zbv.csv");
    const first = await simulated(`--schedule zbv --ranks 3 --micro-batches 7 --times 3,2,1 -o ${path}`);
    expect(first).toMatchObject({ csv: path });
    const { ranks } = readScheduleCsv(readFileSync(path, "utf8"), path);
    expect(ranks).toEqual(scheduleByName("zbv", { ranks: 3, microBatches: 7 }).ranks);
    const again = await simulated(`--actions ${path} --times 3,2,1`);
    expect(again.ranks).toEqual(first.ranks);
    expect(again.stepSeconds).toBe(first.stepSeconds);
  });

  it("plays a table with transfers", async () => {
    const path = join(captured.folder, "comms.csv");
    writeFileSync(path, "0F0,0SEND_F0,0RECV_B0,0B0\n1RECV_F0,1F0,1B0,1SEND_B0\n");
    const result = await simulated(`--actions ${path} --times 1,1,1 --transfer 2`);
    expect(result.stepSeconds).toBe(1 + 2 + 1 + 2 + 2 + 2);
  });

  it("writes the timeline as a page of its own", async () => {
    const path = join(captured.folder, "zbv.html");
    const result = await simulated(`--schedule zbv --ranks 3 --micro-batches 6 --report ${path}`);
    expect(result).toMatchObject({ report: path });
    const page = readFileSync(path, "utf8");
    for (const id of ["timeline", "waits"]) expect(page).toContain(`<section id="${id}"`);
    expect(page).not.toContain('<section id="memory-time"');
    expect(page).toContain("<h1>ZB-V</h1>");
    expect(page).not.toMatch(/https?:|NaN|undefined</);
  });

  it("names the cell of a broken table, and writes nothing for a schedule that no CSV can hold", async () => {
    const path = join(captured.folder, "broken.csv");
    writeFileSync(path, "0F0,0B0\n1F0,1X0\n");
    expect((await refused(`--actions ${path}`)).message).toContain("row 2, column 2");
    const csv = join(captured.folder, "dualpipe.csv");
    const trace = join(captured.folder, "trace.json");
    const error = await refused(
      `--schedule dualpipe --ranks 2 --micro-batches 4 --csv ${csv} --trace ${trace}`,
    );
    expect(error.code).toBe("E_LOSSY");
    expect(readdirSync(captured.folder)).toEqual(["broken.csv"]);
  });
});

describe("mpopt simulate for people", () => {
  it("draws small timelines, and prints each rank's longest wait", async () => {
    await run(..."--schedule 1f1b --ranks 2 --micro-batches 3 --times 1,1,1".split(" "));
    expect(captured.out).toContain("1F1B, 3 micro-batches: step 12.00 s");
    expect(captured.out).toContain("rank 0  F0F1····B0--F2B1--··B2--");
    expect(captured.out).toContain("rank 1  ··F0B0--F1B1--F2B2--····");
    expect(captured.out).toContain("waits for a gradient from rank 1: 3.00 s");
    await run(..."--schedule gpipe --ranks 8 --micro-batches 64 --times 1,1,1".split(" "));
    expect(captured.out).not.toContain("F0F1");
  });

  it("draws every action of a small timeline once", async () => {
    const table = scheduleByName("zbv", { ranks: 3, microBatches: 4 });
    expect(checkActions(table)).toEqual([]);
    await run(..."--schedule zbv --ranks 3 --micro-batches 4 --times 1,1,1".split(" "));
    const drawn = [...captured.out.matchAll(/^rank \d {2}(.*)$/gm)].map(([, line]) => line!);
    expect(drawn).toHaveLength(3);
    drawn.forEach((line, r) => {
      const labels = [...line.matchAll(/[FIWfiw]\d/g)].map(([label]) => label);
      expect(labels).toHaveLength(table.ranks[r]!.length);
      expect(new Set(labels).size).toBe(labels.length);
    });
  });
});

describe("mpopt simulate refuses", () => {
  const alone = "--ranks 4 --micro-batches 8";
  it.each([
    ["", "Expected --plan, --schedule or --actions but found none."],
    ["--schedule zbv --micro-batches 8", "Expected --ranks beside --schedule but found none."],
    ["--schedule zbv --ranks 4", "Expected --micro-batches beside --schedule but found none."],
    [`--schedule zigzag ${alone}`, 'Expected a known pipeline schedule but found "zigzag".'],
    [`--schedule zbv --actions a.csv ${alone}`, "Expected either --schedule or --actions but found both."],
    ["--actions a.csv --ranks 4", "Expected counts to come from --actions alone but found --ranks."],
    ["--plan p.json --ranks 4", "from --plan alone but found --ranks."],
    ["--plan p.json --times 1,1,1", "from --plan alone but found --times."],
    ["--plan p.json --group-size 4", "Expected --schedule beside a group size but found --group-size."],
    [`--schedule zbv --chunks 3 ${alone}`, "Expected 2 chunks a rank for zbv but found 3."],
    [`--schedule 1f1b --group-size 4 ${alone}`, "Expected no group size for 1f1b"],
    [`--schedule 1f1b --in-flight 4 ${alone}`, "with --schedule searched alone but found --in-flight."],
    [
      "--schedule chimera --ranks 3 --micro-batches 8",
      "Expected an even number of ranks for chimera but found 3.",
    ],
    [
      "--schedule dualpipe --ranks 4 --micro-batches 4",
      "Expected at least as many micro-batches as stages (8) for dualpipe",
    ],
    ["--schedule interleaved --ranks 4 --micro-batches 9", "Expected a multiple of 2 rounds"],
    [`--schedule 1f1b ${alone} --times 1,1,1/2,2,2`, "Expected one group of times, or 4, one a stage"],
  ])("%s", async (args, sentence) => {
    const error = await refused(args);
    expect(error.code).toBe("E_USAGE");
    expect(error.message).toContain(sentence);
    expect(error.message).toMatch(/^Expected .*\.$/);
  });

  it("options that are no numbers, by name", async () => {
    for (const [option, value] of [
      ["--times", "1,1"],
      ["--times", "1,1,x"],
      ["--times", "1,,1"],
      ["--times", "1,-1,1"],
      ["--transfer", "-1"],
      ["--ranks", "0"],
      ["--placement", "w"],
    ] as const) {
      const work = run("--schedule", "1f1b", "--ranks", "2", "--micro-batches", "2", option, value);
      await expect(work).rejects.toMatchObject({ code: "commander.invalidArgument" });
      expect(captured.err).toContain(option);
      expect(captured.err).toContain("Expected ");
    }
  });

  it("a search without room for one micro-batch", async () => {
    const error = await refused("--schedule searched --ranks 2 --chunks 2 --micro-batches 2 --in-flight 1");
    expect(error.code).toBe("E_INFEASIBLE");
  });
});
