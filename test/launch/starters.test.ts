import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import { type Run, readDocument } from "../../src/contracts/index.js";
import { type LaunchOptions, launch, type StarterName } from "../../src/launch/index.js";
import { onPath } from "../../src/launch/python.js";
import { loadModel } from "../../src/models/index.js";
import { createPlan } from "../../src/plan/index.js";
import { pathWithStarters, pretendingPython, realPython } from "./fakes.js";
import { makePlan, type PlanWishes } from "./planFactory.js";

const folder = mkdtempSync(join(tmpdir(), "mpopt start's; "));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const names = ["srun", "mpirun", "deepspeed"] as const;
const python = pretendingPython(folder);
const PATH = pathWithStarters(folder, names);
/** Variables of a job that the tests themselves may run in. */
const outside = { MASTER_ADDR: undefined, MASTER_PORT: undefined, SLURM_JOB_NUM_NODES: undefined };

const script = join(folder, "say $(touch pwned).py");
writeFileSync(
  script,
  `import json, os, sys
names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "MPOPT_PLAN")
print("SEEN " + json.dumps({"argv": sys.argv[1:], **{name: os.environ.get(name) for name in names}}))
print("to stderr", file=sys.stderr)
if os.environ["RANK"] == "0":
    for step in range(4):
        print('MPOPT_STEP {"step": %d, "seconds": 0.5, "loss": null}' % step)
    print('MPOPT_DONE {"peakMemoryBytes": [%s]}' % ", ".join(["4e8"] * int(os.environ["WORLD_SIZE"])))
`,
);
const words = ["--note", "$(touch pwned); `x` 'y' \"z\" | & \\", "two\nlines", ""];

interface Launched {
  lines: { line: string; rank: number | undefined }[];
  /** What each rank saw, by its rank. */
  seen: Record<string, unknown>[];
  /** Words of the starter. */
  words: string[];
  run: Run;
  exitCode: number;
}

async function launched(
  starter: StarterName,
  wishes: PlanWishes,
  more: Partial<LaunchOptions> = {},
): Promise<Launched> {
  const lines: Launched["lines"] = [];
  const record = await launch({
    plan: makePlan(wishes),
    planPath: join(folder, "plan.json"),
    command: [python, script, ...words],
    timeoutSeconds: 60,
    starter,
    onLog: (line, _stream, rank) => lines.push({ line, rank }),
    ...more,
    env: { PATH, ...outside, ...more.env },
  });
  const seen: Record<string, unknown>[] = [];
  for (const { line, rank } of lines) {
    if (rank !== undefined && line.startsWith("SEEN ")) seen[rank] = JSON.parse(line.slice(5));
  }
  const own = lines.find(({ line }) => line.startsWith("WORDS "))!.line;
  return { lines, seen, words: JSON.parse(own.slice(6)), run: record.run, exitCode: record.exitCode };
}

describe.skipIf(!realPython)("every starter", () => {
  test.each(names)("%s: the plan's ranks in their order, with what PyTorch reads", async (starter) => {
    const { seen, lines, run, exitCode } = await launched(starter, { data: 2, tensor: 2 });
    expect(exitCode).toBe(0);
    expect(seen).toHaveLength(4);
    for (const [rank, each] of seen.entries()) {
      expect(each).toMatchObject({
        argv: words,
        RANK: `${rank}`,
        WORLD_SIZE: "4",
        LOCAL_RANK: `${rank}`,
        LOCAL_WORLD_SIZE: "4",
        MASTER_ADDR: "127.0.0.1",
        MPOPT_PLAN: join(folder, "plan.json"),
      });
    }
    expect(new Set(seen.map(({ MASTER_PORT }) => MASTER_PORT)).size).toBe(1);
    expect(Number(seen[0]!.MASTER_PORT)).toBeGreaterThan(0);
    expect(
      lines
        .filter(({ line }) => line === "to stderr")
        .map(({ rank }) => rank)
        .sort(),
    ).toEqual([0, 1, 2, 3]);
    const [attempt] = run.attempts;
    expect(run.environment.starter).toBe(starter);
    expect(attempt!.steps).toHaveLength(4);
    expect(attempt!.medianStepSeconds).toBe(0.5);
    expect(attempt!.ranks.map(({ rank, exitCode }) => [rank, exitCode])).toEqual(
      [0, 1, 2, 3].map((rank) => [rank, 0]),
    );
    for (const { peakMemoryBytes, peakResidentBytes } of attempt!.ranks) {
      expect(peakMemoryBytes).toBe(4e8);
      expect(peakResidentBytes).toBeGreaterThan(1e6);
    }
    expect(existsSync("pwned")).toBe(false);
  });

  test.each(names)("%s: another number of ranks is refused before the script starts", async (starter) => {
    const recordPath = join(folder, `${starter}.run.json`);
    const lines: string[] = [];
    const failed = launched(
      starter,
      { data: 2, tensor: 2 },
      {
        env: { FAKE_RANKS: "2" },
        recordPath,
        onLog: (line) => lines.push(line),
      },
    );
    const message = `Expected 4 ranks for the plan's mesh (pipeline 1 x data 2 x tensor 2) but ${starter} started 2.`;
    await expect(failed).rejects.toMatchObject({ code: "E_LAUNCH", message });
    expect(lines.join("\n")).not.toContain("SEEN");
    expect(readDocument("run", recordPath)).toMatchObject({
      outcome: "failed",
      attempts: [{ reason: message }],
    });
  });

  test.each(names)(
    "%s: a rank that fails ends the others, and its status is the launch's",
    async (starter) => {
      const dies = join(folder, "dies.py");
      writeFileSync(
        dies,
        "import os, sys, time\nif os.environ['RANK'] == '1': sys.exit('rank 1 gave up')\ntime.sleep(600)\n",
      );
      const started = Date.now();
      const { exitCode, run } = await launched(starter, { data: 3 }, { command: [python, dies] });
      expect(exitCode).toBe(1);
      expect(Date.now() - started).toBeLessThan(20_000);
      const [attempt] = run.attempts;
      expect(attempt!.ranks[1]).toMatchObject({ rank: 1, exitCode: 1 });
      expect(attempt!.reason).toBe("The ranks ended with status 1, rank 1 first.");
      expect(attempt!.lastLines).toContain("rank 1 gave up");
    },
  );

  test("ranks that are dealt over nodes in turn are refused", async () => {
    const wishes = { data: 4, devicesPerNode: 2 };
    await expect(
      launched("srun", wishes, { env: { FAKE_SCATTER: "1", MASTER_ADDR: "127.0.0.1" } }),
    ).rejects.toThrow(
      /^Expected 2 neighbouring ranks on each node, so that rank [12] is number [01] of its node, but srun made it number [01]\.$/,
    );
  });

  test.each(["torchrun", ...names] as const)("%s: what is missing is said in a sentence", async (starter) => {
    const none = join(folder, "none");
    const env = { PATH: none, MPOPT_PYTHON: join(none, "python3") };
    // A bare `python` could be that of a .venv here.
    const given = starter === "torchrun" ? [join(none, "python3"), script] : [python, script];
    await expect(
      launch({ plan: makePlan({}), planPath: "plan.json", command: given, starter, env }),
    ).rejects.toMatchObject({ code: "E_MISSING_TOOL" });
  });
});

describe.skipIf(!realPython)("on several nodes", () => {
  const wishes: PlanWishes = { data: 4, devicesPerNode: 2 };

  test("srun: nodes and tasks of each, in blocks", async () => {
    const { words: given, seen } = await launched("srun", wishes, {
      env: { SLURM_STEP_NODELIST: "gpu[03-04,09],login" },
    });
    expect(given).toEqual([
      ...["--nodes=2", "--ntasks=4", "--ntasks-per-node=2"],
      ...["--distribution=block:block", "--kill-on-bad-exit=1", "--unbuffered"],
    ]);
    expect(seen.map(({ LOCAL_RANK }) => LOCAL_RANK)).toEqual(["0", "1", "0", "1"]);
    expect(seen[3]).toMatchObject({ MASTER_ADDR: "gpu03", MASTER_PORT: "29500", LOCAL_WORLD_SIZE: "2" });
  });

  test("srun: a job with fewer nodes than the plan", async () => {
    await expect(launched("srun", wishes, { env: { SLURM_JOB_NUM_NODES: "1" } })).rejects.toThrow(
      "Expected 2 nodes of 2 ranks for the plan but the Slurm job has 1.",
    );
  });

  test("mpirun: Open MPI and Hydra, hosts from a file", async () => {
    const hostfile = join(folder, "hosts");
    writeFileSync(hostfile, "# ours\nsmall slots=1\nfirst slots=2\nsecond slots=8 # more\nthird\n");
    const open = await launched("mpirun", wishes, { hostfile, env: { NCCL_DEBUG: "WARN" } });
    const text = open.words.join(" ");
    expect(text).toMatch(/^-np 4 --map-by ppr:2:node --host first:2,second:2 /);
    expect(text).toContain("-x NCCL_DEBUG");
    expect(text).toContain("-x PATH");
    expect(open.seen[2]).toMatchObject({ MASTER_ADDR: "first", LOCAL_RANK: "0", RANK: "2" });
    const hydra = await launched("mpirun", wishes, { hostfile, env: { FAKE_MPI: "hydra" } });
    expect(hydra.words.slice(0, 6)).toEqual(["-np", "4", "-ppn", "2", "-hosts", "first,second"]);
    expect(hydra.seen[3]).toMatchObject({ RANK: "3", WORLD_SIZE: "4", LOCAL_RANK: "1" });
    writeFileSync(hostfile, "first slots=2\nsecond slots=1\n");
    await expect(launched("mpirun", wishes, { hostfile })).rejects.toThrow(
      `Expected 2 hosts with 2 slots in ${hostfile} for the plan but found 1.`,
    );
    await expect(launched("mpirun", wishes)).rejects.toMatchObject({ code: "E_USAGE" });
  });

  test("deepspeed: hosts with their slots in place of numbers", async () => {
    const hostfile = join(folder, "workers");
    writeFileSync(hostfile, "worker-1 slots=2\nworker-2 slots=2\nworker-3 slots=2\n");
    const { words: given, seen } = await launched("deepspeed", wishes, {
      hostfile,
      rendezvousEndpoint: "worker-1:7",
    });
    expect(given).toEqual([
      ...["--hostfile", hostfile, "--include", "worker-1:0,1@worker-2:0,1"],
      ...["--master_addr", "worker-1", "--master_port", "7", "--no_local_rank"],
    ]);
    expect(seen).toHaveLength(4);
    await expect(launched("deepspeed", wishes)).rejects.toThrow("but found no --hostfile");
  });
});

test.skipIf(!realPython)("--elastic on several nodes: all but the one whose rank died", async () => {
  const model = loadModel("tiny-gpt");
  const cluster = clusterPreset("h100-sxm:2x3");
  const plan = await createPlan({
    ...{ model, cluster, plain: true },
    job: { globalBatch: 24, sequence: 64, pins: { data: 6 } },
  });
  const dying = join(folder, "dying.py");
  const step = (number: string) =>
    `print('MPOPT_STEP {"step": %d, "seconds": 0.1, "loss": 1.0}' % (${number}), flush=True)`;
  writeFileSync(
    dying,
    [
      "import os, signal, sys, time",
      "again = os.environ.get('MPOPT_RESUME') == '1'",
      "if os.environ['RANK'] == '0':",
      `    ${step("1 if again else 0")}`,
      "    open(sys.argv[1], 'w').close()",
      "while not os.path.exists(sys.argv[1]): time.sleep(0.05)",
      "if os.environ['RANK'] == '3' and not again: os.kill(os.getpid(), signal.SIGKILL)",
      "if not again: time.sleep(600)",
    ].join("\n"),
  );
  const planPath = join(folder, "wide.json");
  const lines: string[] = [];
  const record = await launch({
    ...{
      plan,
      planPath,
      command: [python, dying, join(folder, "step done")],
      starter: "srun",
      timeoutSeconds: 120,
    },
    env: { PATH, ...outside, MASTER_ADDR: "127.0.0.1", MPOPT_DEVICE: "cpu" },
    elastic: { model, cluster, maxRestarts: 1 },
    onLog: (line) => lines.push(line),
  });
  expect(record.exitCode).toBe(0);
  expect(record.run.attempts.map(({ outcome }) => outcome)).toEqual(["failed", "done"]);
  const second = record.run.attempts[1]!;
  expect([2, 4]).toContain(second.plan.rankTable.length);
  expect(second.steps.map(({ step }) => step)).toEqual([1]);
  expect(readDocument("plan", join(folder, "wide.restart-1.json"))).toEqual(second.plan);
  const words = lines.filter((line) => line.startsWith("WORDS ")).map((line) => line.slice(6));
  expect(words[0]).not.toContain("--exclude");
  expect(words[1]).toContain(`--exclude=${hostname()}`);
});

test.skipIf(!realPython)("--logs: one file a rank, and one for the starter", async () => {
  const logs = join(folder, "logs");
  await launched("srun", { data: 2 }, { logs });
  expect(readdirSync(logs).sort()).toEqual(["rank-0.log", "rank-1.log", "starter.log"]);
  const one = readFileSync(join(logs, "rank-1.log"), "utf8");
  expect(one).toContain("SEEN ");
  expect(one).toContain("to stderr\n");
  expect(one).not.toContain("[rank");
});

const realMpirun = onPath("mpirun", process.env.PATH);
if (!realMpirun) console.warn("Skipped the launch by mpirun: none on the PATH.");
test.skipIf(!realPython || !realMpirun)("the real mpirun", async () => {
  const lines: { line: string; rank: number | undefined }[] = [];
  const record = await launch({
    plan: makePlan({ data: 2 }),
    planPath: join(folder, "plan.json"),
    command: [python, script, ...words],
    starter: "mpirun",
    timeoutSeconds: 60,
    env: { ...outside, OMPI_ALLOW_RUN_AS_ROOT: "1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1" },
    onLog: (line, _stream, rank) => lines.push({ line, rank }),
  });
  expect(record.exitCode).toBe(0);
  const seen = lines.filter(({ line }) => line.startsWith("SEEN ")).sort((a, b) => a.rank! - b.rank!);
  expect(seen.map(({ line }) => JSON.parse(line.slice(5)))).toMatchObject([
    { argv: words, RANK: "0", WORLD_SIZE: "2", LOCAL_RANK: "0" },
    { argv: words, RANK: "1", WORLD_SIZE: "2", LOCAL_RANK: "1" },
  ]);
});
