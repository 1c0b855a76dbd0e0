import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import { type Plan, readDocument } from "../../src/contracts/index.js";
import { findPython, type LaunchOptions, launch } from "../../src/launch/index.js";
import { transformerModel } from "../../src/models/index.js";
import { createPlan } from "../../src/plan/index.js";
import { examples } from "./compare.js";

const python = await findPython();
const withTorch = describe.skipIf(!python?.torch);
if (!python?.torch) console.warn("Skipped the deaths of ranks: no Python with PyTorch (see MPOPT_PYTHON).");

const folder = mkdtempSync(join(tmpdir(), "mpopt death "));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const script = join(examples, "train_gpt.py");
const model = transformerModel(
  {
    name: "small",
    layers: 4,
    hidden: 32,
    ffn: 64,
    heads: 4,
    keyValueHeads: 4,
    vocabulary: 96,
    sequence: 16,
    gated: true,
    activation: "silu",
    norm: "rms_norm",
    positions: "rotary",
    biases: false,
    tiedEmbeddings: false,
    projections: "separate",
  },
  {},
);
/** Four ranks that run on processors: MPOPT_DEVICE says so. */
const cluster = clusterPreset("h100-sxm:4x1");
const env = { MPOPT_DEVICE: "cpu", PYTHONDONTWRITEBYTECODE: "1" };

async function planned(name: string, pins: Plan["job"]["pins"]): Promise<{ plan: Plan; planPath: string }> {
  const dtypes = { parameters: "f32", gradients: "f32", optimizer: "f32" } as const;
  const plan = await createPlan({
    ...{ model, cluster, plain: true },
    job: { globalBatch: 12, sequence: 16, dtypes, runtime: "torch", pins },
  });
  const planPath = join(folder, `${name}.json`);
  writeFileSync(planPath, JSON.stringify(plan));
  return { plan, planPath };
}

/** Whether a process runs; one that has ended but was not yet waited for does not. */
function runs(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")") + 2)[0] !== "Z";
  } catch {
    return false;
  }
}

/** Starts a launch and kills one of its ranks, once, when the step is reported. */
async function killed(options: LaunchOptions, { rank, step }: { rank: number; step: number }) {
  const pids = new Map<number, number>();
  const all: number[] = [];
  let killedAt: number | undefined;
  const record = await launch({
    ...options,
    timeoutSeconds: 200,
    onLog: (line) => {
      const started = /^MPOPT_RANK (.*)$/.exec(line);
      if (started) {
        const { rank: of, pid } = JSON.parse(started[1]!);
        pids.set(of, pid);
        all.push(pid);
      }
      if (killedAt === undefined && line.startsWith(`MPOPT_STEP {"step": ${step},`)) {
        killedAt = Date.now();
        process.kill(pids.get(rank)!, "SIGKILL");
      }
    },
  });
  return { record, pids: all, seconds: (Date.now() - killedAt!) / 1000 };
}

withTorch("a rank killed with SIGKILL in the middle", () => {
  test("ends all ranks within 10 s, with a record of it", async () => {
    const { plan, planPath } = await planned("it's $(touch pwned);\na plan", { data: 2, pipeline: 2 });
    const recordPath = join(folder, "killed.run.json");
    const { record, pids, seconds } = await killed(
      { plan, planPath, command: ["python", script, "--steps", "100000"], recordPath, env },
      { rank: 2, step: 3 },
    );
    expect(seconds).toBeLessThan(10);
    expect(pids).toHaveLength(4);
    expect(pids.filter(runs)).toEqual([]);
    expect(record.exitCode).not.toBe(0);
    const run = readDocument("run", recordPath);
    expect(run).toEqual(record.run);
    expect(run).toMatchObject({ outcome: "failed", exitCode: record.exitCode });
    const [attempt] = run.attempts;
    expect(attempt!.steps.length).toBeGreaterThanOrEqual(4);
    expect(attempt!.medianStepSeconds).toBeGreaterThan(0);
    expect(attempt!.ranks.map(({ rank }) => rank)).toEqual([0, 1, 2, 3]);
    expect(attempt!.ranks[2]!.exitCode).toBe(-9);
    expect(attempt!.reason).toContain("rank 2 first");
    // What the process above each rank has seen of it, although no script reported any.
    expect(attempt!.memory.map(({ pipelineRank }) => pipelineRank)).toEqual([0, 1]);
    for (const { peakResidentBytes } of attempt!.ranks) expect(peakResidentBytes).toBeGreaterThan(5e7);
  }, 220_000);

  test("--elastic: goes on under a plan for the rest, from the checkpoint, and the loss with it", async () => {
    const { plan, planPath } = await planned("elastic", { data: 4, zero: 1 });
    const free: Plan = { ...plan, job: { ...plan.job, pins: {} } };
    const steps = 14;
    const command = ["python", script, "--steps", String(steps), "--learning-rate", "1e-2"];
    const whole = await launch({ plan, planPath, command, timeoutSeconds: 200, env });
    expect(whole.exitCode).toBe(0);

    const checkpoint = ["--checkpoint", join(folder, "check point"), "--save-every", "2"];
    const { record, pids } = await killed(
      {
        ...{ plan: free, planPath, env, recordPath: join(folder, "elastic.run.json") },
        command: [...command, ...checkpoint],
        elastic: { model, cluster, maxRestarts: 2 },
      },
      { rank: 1, step: 5 },
    );
    expect(record.exitCode).toBe(0);
    const run = readDocument("run", join(folder, "elastic.run.json"));
    expect(run.outcome).toBe("done");
    const [first, second] = run.attempts;
    expect(run.attempts).toHaveLength(2);
    expect(first).toMatchObject({ outcome: "failed" });
    expect(first!.ranks.find(({ exitCode }) => exitCode === -9)?.rank).toBe(1);
    expect(second!.plan.rankTable.length).toBeLessThan(4);
    expect(second!.steps[0]!.step).toBeGreaterThanOrEqual(4);
    expect(second!.steps.at(-1)!.step).toBe(steps - 1);
    expect(pids).toHaveLength(4 + second!.plan.rankTable.length);
    expect(pids.filter(runs)).toEqual([]);
    // The same batches under fewer ranks: the losses are those of the run that nothing stopped.
    const expected = new Map(whole.steps.map(({ step, loss }) => [step, loss!]));
    for (const { step, loss } of [...first!.steps, ...second!.steps]) {
      expect(Math.abs(loss! - expected.get(step)!), `step ${step}`).toBeLessThan(1e-3);
    }
    expect(expected.get(steps - 1)!).toBeLessThan(expected.get(0)! - 0.1);
  }, 420_000);

  test("--elastic: what fails before its first step is not started again", async () => {
    const { plan, planPath } = await planned("broken", { data: 2 });
    const broken = join(folder, "broken.py");
    writeFileSync(broken, "raise SystemExit('no such data')\n");
    const messages: string[] = [];
    const record = await launch({
      ...{ plan, planPath, env, command: ["python", broken], timeoutSeconds: 100 },
      elastic: { model, cluster, maxRestarts: 2 },
      onProgress: ({ message }) => messages.push(message),
    });
    expect(record.exitCode).not.toBe(0);
    expect(record.run.attempts).toHaveLength(1);
    expect(messages).toContain("Not restarted: the ranks failed before their first step.");
  }, 110_000);
});
