import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { applyPlanPath, exporters, exportPlan, findPython } from "../../src/launch/index.js";
import { scheduleByName, writeScheduleCsv } from "../../src/schedule/index.js";
import { megatronFlags } from "./megatronFlags.js";
import { makePlan, type PlanWishes } from "./planFactory.js";

const folder = mkdtempSync(join(tmpdir(), "mpopt csv "));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const rows = (csv: string) => csv.trimEnd().split("\n");

/** Layers of `count` stages, some of them empty, at least one not. */
const layersOf = (count: number) =>
  fc
    .array(fc.integer({ min: 0, max: 3 }), { minLength: count, maxLength: count })
    .filter((layers) => layers.some((n) => n > 0));

const gpu: PlanWishes = { deviceType: "cuda", parameters: "bf16" };

/** Interleaved plans: by name where the name says the group size, else with actions. */
const interleavedPlans = fc
  .record({
    pipeline: fc.integer({ min: 2, max: 5 }),
    chunks: fc.integer({ min: 2, max: 4 }),
    extra: fc.integer({ min: 0, max: 4 }),
    groups: fc.integer({ min: 1, max: 3 }),
    rest: fc.integer({ min: 0, max: 3 }),
    data: fc.integer({ min: 1, max: 2 }),
  })
  .chain((wish) =>
    fc.record({ wish: fc.constant(wish), layersPerStage: layersOf(wish.pipeline * wish.chunks) }),
  )
  .map(({ wish: { pipeline, chunks, extra, groups, rest, data }, layersPerStage }) => {
    const groupSize = pipeline + extra;
    // A last group is as long as the pipeline at least, and shorter than the others.
    const microBatches = groups * groupSize + (rest && rest <= extra ? pipeline + rest - 1 : 0);
    const csv = writeScheduleCsv(
      scheduleByName("interleaved", { ranks: pipeline, microBatches, chunks, groupSize }),
    );
    const own = extra === 0;
    const plan = makePlan({
      ...gpu,
      pipeline,
      chunks,
      data,
      layersPerStage,
      microBatches,
      micro: 1,
      schedule: own ? "interleaved" : "searched",
      ...(own ? {} : { actions: rows(csv) }),
    });
    return { plan, groupSize };
  });

/**
 * What Megatron-LM runs on one pipeline rank: schedule table and warm-up of its interleaved schedule
 * (`get_schedule_table`, `get_pp_rank_microbatches` of megatron/core/pipeline_parallel/schedules.py), as a list such
 * as F chunk.microBatch.
 */
function megatronOrder(rank: number, p: number, v: number, m: number, group: number): string[] {
  const table: [chunk: number, microBatch: number][] = [];
  for (let first = 0; first < m; first += group) {
    for (let chunk = 0; chunk < v; chunk++) {
      for (let batch = first; batch < Math.min(m, first + group); batch++) table.push([chunk, batch]);
    }
  }
  const total = m * v;
  const warmUp =
    v === 1 ? Math.min(p - rank - 1, total) : Math.min((p - rank - 1) * 2 + (v - 1) * group, total);
  const forward = (k: number) => `F${table[k]!.join(".")}`;
  const backward = (k: number) => `B${v - 1 - table[k]![0]}.${table[k]![1]}`;
  const order: string[] = [];
  for (let k = 0; k < warmUp; k++) order.push(forward(k));
  for (let k = 0; k < total - warmUp; k++) order.push(forward(k + warmUp), backward(k));
  for (let k = total - warmUp; k < total; k++) order.push(backward(k));
  return order;
}

/** Actions of one CSV row, by an expression of its own: overlapped pairs one after the other. */
function actionsOf(row: string): { stage: number; kind: string; microBatch: number }[] {
  return [...row.matchAll(/(\d+)([FBIW])(\d+)/g)].map(([, stage, kind, microBatch]) => ({
    stage: Number(stage),
    kind: kind!,
    microBatch: Number(microBatch),
  }));
}

describe("plans with several stages a rank", () => {
  test("Megatron-LM's layout and group size give stages and order back, over random interleaved plans", () => {
    fc.assert(
      fc.property(interleavedPlans, ({ plan, groupSize }) => {
        expect(exporters.megatron!.lossy(plan)).toEqual([]);
        const flags = megatronFlags(plan);
        const p = Number(flags.get("--pipeline-model-parallel-size"));
        const stages = flags.get("--pipeline-model-parallel-layout")!.split("|");
        const group = Number(flags.get("--microbatch-group-size-per-virtual-pipeline-stage"));
        expect(group).toBe(groupSize);
        expect([...flags.keys()].filter((name) => /virtual-(pipeline-stage|stages)/.test(name))).toHaveLength(
          1,
        );
        let layer = 0;
        const parsed = stages.map((symbols, k) => {
          const start = layer;
          layer += symbols.replace(/[^t]/g, "").length;
          const shape = /^(E?)t*(L?)$/.exec(symbols)!;
          const ends = { embedding: shape[1] === "E", head: shape[2] === "L" };
          return { rank: k % p, chunk: Math.floor(k / p), layers: { start, end: layer }, ...ends };
        });
        expect(parsed).toEqual(
          plan.stages.map(({ rank, chunk, layers, embedding, head }) => ({
            rank,
            chunk,
            layers,
            embedding,
            head,
          })),
        );
        expect(layer).toBe(Number(flags.get("--num-layers")));
        const data = plan.mesh.sizes[1]!;
        const m = Number(flags.get("--global-batch-size")) / (Number(flags.get("--micro-batch-size")) * data);
        // PyTorch's table of the same plan holds the actions that Megatron-LM would run.
        const csv = rows(exporters.torch!.files(plan)["schedule.csv"]!);
        csv.forEach((row, rank) => {
          const found = actionsOf(row).map(
            ({ stage, kind, microBatch }) => `${kind}${Math.floor(stage / p)}.${microBatch}`,
          );
          expect(found).toEqual(megatronOrder(rank, p, stages.length / p, m, group));
        });
      }),
      { numRuns: 150, seed: 11 },
    );
  });

  const unlike: [string, PlanWishes, RegExp][] = [
    ["GPipe", { pipeline: 3, schedule: "gpipe" }, /schedule is gpipe, but Megatron-LM runs 1F1B/],
    ["ZB-H1", { pipeline: 3, schedule: "zb-h1" }, /schedule is zb-h1/],
    ["stages in a V", { pipeline: 2, schedule: "zbv" }, /Stage 2 is on pipeline rank 1, but .* rank 0/],
    ["interleaved zero bubble", { pipeline: 2, schedule: "interleaved-zb" }, /schedule is interleaved-zb/],
    ["looped breadth-first", { pipeline: 2, schedule: "looped-bfs" }, /schedule is looped-bfs/],
    ["DualPipe", { pipeline: 2, schedule: "dualpipe" }, /schedule is dualpipe/],
    [
      "fewer micro-batches than ranks",
      { pipeline: 4, schedule: "interleaved", microBatches: 3 },
      /3 micro-batches/,
    ],
    ["ZeRO-3", { data: 2, zero: 3 }, /ZeRO-3/],
    [
      "actions in another order",
      { pipeline: 2, schedule: "searched", microBatches: 2, actions: ["0F0,0F1,0B1,0B0", "1F0,1F1,1B1,1B0"] },
      /schedule is searched/,
    ],
  ];
  test.each(unlike)("Megatron-LM: refuses %s", (_title, wishes, reason) => {
    const lost = exporters.megatron!.lossy(makePlan({ ...gpu, layers: 8, ...wishes }));
    expect(lost).toHaveLength(1);
    expect(lost[0]).toMatch(reason);
  });

  test("Megatron-LM: takes searched actions that are 1F1B", () => {
    const actions = rows(writeScheduleCsv(scheduleByName("1f1b", { ranks: 3, microBatches: 5 })));
    const plan = makePlan({ ...gpu, pipeline: 3, layers: 6, microBatches: 5, schedule: "searched", actions });
    expect(exporters.megatron!.lossy(plan)).toEqual([]);
    expect([...megatronFlags(plan).keys()].filter((name) => name.includes("virtual"))).toEqual([]);
  });

  const torchPlans = fc
    .record({
      schedule: fc.constantFrom(
        ...["interleaved", "looped-bfs", "zb-h1", "zb-h2", "zbv", "interleaved-zb", "dualpipev"],
      ),
      pipeline: fc.integer({ min: 2, max: 5 }),
      chunks: fc.integer({ min: 1, max: 4 }),
      rounds: fc.integer({ min: 2, max: 4 }),
    })
    .map(({ schedule, pipeline, chunks, rounds }) => {
      const free = ["interleaved", "looped-bfs", "interleaved-zb"].includes(schedule);
      return { schedule, pipeline, microBatches: rounds * pipeline, ...(free ? { chunks } : {}) };
    })
    .chain((wish) =>
      layersOf(makePlan({ ...wish, layers: 40 }).stages.length).map((layersPerStage) => ({
        ...wish,
        layersPerStage,
      })),
    );

  test("PyTorch's CSV gives the stages back, over random plans of every schedule", () => {
    fc.assert(
      fc.property(torchPlans, (wishes) => {
        const plan = makePlan(wishes);
        expect(exporters.torch!.lossy(plan)).toEqual([]);
        const csv = rows(exporters.torch!.files(plan)["schedule.csv"]!);
        expect(csv).toHaveLength(wishes.pipeline);
        const held = new Map<number, number>();
        const done = new Map<string, number>();
        csv.forEach((row, rank) => {
          for (const [at, { stage, kind, microBatch }] of actionsOf(row).entries()) {
            expect(held.get(stage) ?? rank).toBe(rank);
            held.set(stage, rank);
            expect(done.has(`${stage}${kind}${microBatch}`)).toBe(false);
            done.set(`${stage}${kind}${microBatch}`, at);
          }
        });
        expect(plan.stages.map(({ index }) => held.get(index))).toEqual(plan.stages.map(({ rank }) => rank));
        for (const { index } of plan.stages) {
          for (let batch = 0; batch < wishes.microBatches; batch++) {
            const at = (kind: string) => done.get(`${index}${kind}${batch}`);
            const [forward, whole, input, weight] = ["F", "B", "I", "W"].map(at);
            expect(forward).toBeDefined();
            if (whole !== undefined) expect([input, weight]).toEqual([undefined, undefined]);
            else expect(input! < weight!).toBe(true);
            expect(forward! < (whole ?? input)!).toBe(true);
          }
        }
      }),
      { numRuns: 150, seed: 7 },
    );
  });

  test("a CSV is written where the name does not say what each rank does, and nowhere else", () => {
    const written = (wishes: PlanWishes) =>
      Object.hasOwn(exporters.torch!.files(makePlan(wishes)), "schedule.csv");
    expect(written({ pipeline: 2 })).toBe(false);
    expect(written({ pipeline: 2, schedule: "gpipe" })).toBe(false);
    expect(written({ schedule: "gpipe" })).toBe(false);
    expect(written({ pipeline: 2, schedule: "dualpipe" })).toBe(false);
    expect(written({ pipeline: 2, schedule: "interleaved", chunks: 1 })).toBe(true);
    expect(written({ pipeline: 2, schedule: "zb-h1" })).toBe(true);
    exportPlan(makePlan({ pipeline: 2, schedule: "zbv" }), "torch", join(folder, "zbv"));
    const readme = readFileSync(join(folder, "zbv", "README.md"), "utf8");
    expect(readme).toContain("- `schedule.csv`: what each pipeline rank does");
  });
});

const python = await findPython();
describe.skipIf(!python?.torch)(
  `mpopt.plan_schedule${python?.torch ? "" : " (skipped: no Python with PyTorch; set MPOPT_PYTHON)"}`,
  () => {
    test("refuses tables that PyTorch would run wrongly, and names what is wrong", () => {
      const plan = makePlan({ pipeline: 2, schedule: "zb-h1", microBatches: 2 });
      const table = exporters.torch!.files(plan)["schedule.csv"]!;
      const [first, second] = rows(table) as [string, string];
      const cases: [string, RegExp][] = [
        [table, /^compute_only$/],
        [`${first},0F1\n${second}`, /one forward and one backward of stage 0 and micro-batch 1/],
        [table.replaceAll(/,?1[IW]1/g, ""), /stage 1 and micro-batch 1 .*'F': 1, 'B': 0, 'I': 0, 'W': 0/],
        [first, /Expected 2 rows .* found 1/],
        [`${second}\n${first}`, /stages of rank 0 in its row but found 1F0/],
        [`${first},0F2,0B2\n${second},1F2,1B2`, /Expected 2 micro-batches/],
        [`${first},0X1\n${second}`, /an action such as 0F3 in row 1 .* found 0X1/],
        [`${first},(0F1;0SEND_F1)OVERLAP_F_B\n${second}`, /an action such as 0F3/],
        [`${first},0SEND_F1\n${second}`, /^compute_comms$/],
      ];
      const script = [
        "import json, sys",
        "from mpopt import PlanError, plan_schedule",
        "from mpopt.plan_table import check_table",
        "given = json.load(sys.stdin)",
        "def answer(table):",
        "    try: return check_table(table, given['plan'])",
        "    except PlanError as error: return str(error)",
        "answers = [answer(table) for table in given['tables']]",
        "def versioned(version):",
        "    plan_schedule.torch.__version__ = version",
        "    try: return plan_schedule.check_version('zbv') or 'taken'",
        "    except PlanError as error: return str(error)",
        "answers += [versioned('2.9.1+cu128'), versioned('2.12.0'), versioned('2.13.0'), versioned('3.0')]",
        "json.dump(answers, sys.stdout)",
      ].join("\n");
      const { stdout, stderr } = spawnSync(python!.executable, ["-c", script], {
        input: JSON.stringify({ plan, tables: cases.map(([text]) => text) }),
        env: { ...process.env, PYTHONPATH: dirname(applyPlanPath), PYTHONDONTWRITEBYTECODE: "1" },
        encoding: "utf8",
        timeout: 100_000,
      });
      expect(stdout, stderr).not.toBe("");
      const answers = JSON.parse(stdout) as string[];
      cases.forEach(([, reason], i) => {
        expect(answers[i]).toMatch(reason);
      });
      const [old, older, ...others] = answers.slice(cases.length);
      expect(old).toMatch(/PyTorch 2.13 or newer for the schedule zbv but found 2.9.1/);
      expect(older).toMatch(/2.13 or newer .* found 2.12.0/);
      expect(others).toEqual(["taken", "taken"]);
    }, 110_000);

    test("a block recomputed in halves has the gradients of the block as it is", () => {
      const script = fileURLToPath(new URL("recomputeHalves.py", import.meta.url));
      const { stdout, stderr } = spawnSync(python!.executable, [script], {
        env: { ...process.env, PYTHONPATH: dirname(applyPlanPath), PYTHONDONTWRITEBYTECODE: "1" },
        encoding: "utf8",
        timeout: 100_000,
      });
      expect(stdout, stderr).not.toBe("");
      const answer = JSON.parse(stdout) as Record<string, number | boolean>;
      for (const pass of ["whole", "input", "probe"]) expect(answer[pass]).toBeLessThan(1e-6);
      // The input, and two weights and biases in each of three blocks and a norm.
      expect([answer.wholeGradients, answer.inputGradients, answer.probeGradients]).toEqual([15, 15, 1]);
      expect(answer.untouched).toBe(true);
    }, 110_000);
  },
);
