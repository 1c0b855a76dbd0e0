import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { documentHash, MpoptError, readDocument } from "../../src/contracts/index.js";
import { startRankPath } from "../../src/launch/command.js";
import { findPython, type LaunchOptions, launch } from "../../src/launch/index.js";
import { makePlan, type PlanWishes } from "./planFactory.js";

const folder = mkdtempSync(join(tmpdir(), "mpopt run "));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const python = await findPython();
const withTorch = describe.skipIf(!python?.torch);
if (!python?.torch) console.warn("Skipped the launches of ranks: no Python with PyTorch (see MPOPT_PYTHON).");

function write(name: string, content: string, mode?: number): string {
  const path = join(folder, name);
  writeFileSync(path, content, { mode });
  return path;
}

/** A Python that has PyTorch by its own account, and as torchrun does what `body` says. */
function fakePython(name: string, body: string, torch = true): string {
  const answer = `if [ "$1" = -c ]; then printf '"3.11.0"\\n${torch ? '"2.13.0"\\n' : ""}'; exit 0; fi`;
  return write(name, `#!/bin/sh\n${answer}\n${body}\n`, 0o755);
}

const emptyScript = write("it's a; script.py", "");

function options(wishes: PlanWishes, command: string[], more: Partial<LaunchOptions> = {}): LaunchOptions {
  return {
    plan: makePlan(wishes),
    planPath: join(folder, "plan.json"),
    command,
    timeoutSeconds: 60,
    ...more,
  };
}

async function failure(work: Promise<unknown>): Promise<MpoptError> {
  const error = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(MpoptError);
  return error as MpoptError;
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

test("words reach torchrun as they are, without a shell", async () => {
  const fake = fakePython(
    "fake;python3.11",
    'for word in "$@"; do printf "word %s\\n" "$word"; done; echo "plan $MPOPT_PLAN"',
  );
  const python = join(folder, "python3");
  writeFileSync(python, readFileSync(fake), { mode: 0o755 });
  const lines: string[] = [];
  const words = ["--note", "$(touch pwned); `x` 'y' \"z\" | & \\", ""];
  const record = await launch(
    options({ data: 3 }, [python, "-u", emptyScript, ...words], { onLog: (line) => lines.push(line) }),
  );
  expect(record.exitCode).toBe(0);
  const torchrun = ["-m", "torch.distributed.run", "--standalone", "--nnodes", "1", "--nproc-per-node", "3"];
  const order = lines.at(-2)!.replace(/^word /, "");
  expect(lines).toEqual([
    ...[...torchrun, startRankPath, order].map((word) => `word ${word}`),
    `plan ${join(folder, "plan.json")}`,
  ]);
  // No shell on the way reads anything into the rest.
  expect(order).toMatch(/^[A-Za-z0-9+/=]+$/);
  expect(JSON.parse(Buffer.from(order, "base64").toString())).toMatchObject({
    starter: "torchrun",
    world: 3,
    ranksPerNode: 3,
    mesh: "pipeline 1 x data 3 x tensor 1",
    command: [python, "-u", emptyScript, ...words],
    environment: { MPOPT_PLAN: join(folder, "plan.json") },
  });
});

test("several nodes: rank and endpoint from the options or the environment", async () => {
  const python = fakePython("python3.12", 'echo "$@"');
  const wishes: PlanWishes = { data: 4, devicesPerNode: 2 };
  const lines: string[] = [];
  const onLog = (line: string) => lines.push(line);
  const command = [python, emptyScript];
  await launch(options(wishes, command, { onLog, nodeRank: 1, rendezvousEndpoint: "host:1" }));
  const env = { NODE_RANK: "0", MASTER_ADDR: "first", MASTER_PORT: "7" };
  await launch(options(wishes, command, { onLog, env }));
  expect(lines[0]).toContain("--nnodes 2 --node-rank 1 --rdzv-backend c10d --rdzv-endpoint host:1");
  expect(lines[0]).toContain("--nproc-per-node 2");
  expect(lines[1]).toContain("--node-rank 0 --rdzv-backend c10d --rdzv-endpoint first:7");
  const missing = { NODE_RANK: undefined, PET_NODE_RANK: undefined, SLURM_NODEID: undefined };
  expect((await failure(launch(options(wishes, command, { env: missing })))).code).toBe("E_USAGE");
});

test("the record holds steps, the median after warm-up and the exit status", async () => {
  const steps = [9, 8, 0.3, 0.1, 0.2].map((seconds, step) =>
    JSON.stringify({ step, seconds, loss: 5 - step }),
  );
  const python = fakePython(
    "python3.13",
    [
      ...steps.map((json) => `echo 'MPOPT_STEP ${json}'`),
      "echo 'MPOPT_STEP {broken'",
      "echo 'MPOPT_STEP {\"step\":1}'",
      "echo 'MPOPT_DONE {\"steps\":5}'",
      "echo trouble >&2",
      "exit 7",
    ].join("\n"),
  );
  const recordPath = join(folder, "record.run.json");
  const record = await launch(options({}, [python, emptyScript], { recordPath, version: "1.2.3" }));
  expect(record).toMatchObject({
    steps: steps.map((json) => JSON.parse(json)),
    medianStepSeconds: 0.2,
    predictedStepSeconds: 0.05,
    exitCode: 7,
    outcome: "failed",
    reason: "The ranks ended with status 7.",
    summary: { steps: 5 },
    lastLines: ["trouble"],
  });
  const run = readDocument("run", recordPath);
  expect(run).toEqual(record.run);
  const { plan, planSha256 } = run.attempts[0]!;
  expect(plan).toEqual(makePlan({}));
  expect(planSha256).toBe(documentHash(makePlan({})));
  expect(run.environment).toMatchObject({
    mpopt: "1.2.3",
    starter: "torchrun",
    torch: "2.13.0",
    command: [python, emptyScript],
  });
  expect(Date.parse(run.endedAt!)).toBeGreaterThanOrEqual(Date.parse(run.startedAt));
});

test("a record holds no variables but those that change what ranks do", async () => {
  const python = fakePython("python3.8", "exit 0");
  const env = { NCCL_DEBUG: "WARN", OMP_NUM_THREADS: "3", SECRET_TOKEN: "hush", MPOPT_PYTHON_TOKEN: "hush" };
  const { run } = await launch(options({}, [python, emptyScript], { env }));
  expect(run.environment.variables).toMatchObject({ NCCL_DEBUG: "WARN", OMP_NUM_THREADS: "3" });
  expect(JSON.stringify(run)).not.toContain("hush");
});

test("what cannot be launched is said before anything starts", async () => {
  const bare = fakePython("python3.9", "exit 1", false);
  const noTorch = await failure(launch(options({}, [bare, emptyScript])));
  expect(noTorch.code).toBe("E_MISSING_TOOL");
  expect(noTorch.notes.join()).toContain("pip install torch");
  expect((await failure(launch(options({}, ["/nowhere/python3", emptyScript])))).code).toBe("E_MISSING_TOOL");
  expect((await failure(launch(options({}, [])))).code).toBe("E_USAGE");
  expect((await failure(launch(options({}, ["bash", "-c", "true"])))).code).toBe("E_USAGE");
  expect((await failure(launch(options({}, ["python", "-c", "1"])))).code).toBe("E_USAGE");
  expect((await failure(launch(options({}, ["python", "absent.py"])))).code).toBe("E_FILE");
  const fake = fakePython("python3.10", "exit 0");
  const gpus = await failure(launch(options({ data: 2, deviceType: "cuda" }, [fake, emptyScript])));
  expect(gpus.code).toBe("E_LAUNCH");
  expect(gpus.message).toContain("Expected 2 GPUs");
});

test("a deadline and an abort end what ignores SIGTERM, children included", async () => {
  const python = fakePython(
    "python3",
    "trap '' TERM\nsh -c 'trap \"\" TERM; echo pid $$; while :; do sleep 1; done' &\necho pid $$\nwait; while :; do sleep 1; done",
  );
  const started = Date.now();
  const pids: number[] = [];
  const controller = new AbortController();
  const onLog = (line: string) => {
    pids.push(Number(line.split(" ")[1]));
    if (pids.length === 4) controller.abort();
  };
  const records = ["late", "stopped"].map((name) => join(folder, `${name}.run.json`));
  const command = [python, emptyScript];
  const late = await failure(
    launch(options({}, command, { timeoutSeconds: 1, onLog, recordPath: records[0] })),
  );
  expect(late.code).toBe("E_CANCELLED");
  expect(late.message).toContain("within 1 s");
  const stopped = await failure(
    launch(options({}, command, { signal: controller.signal, onLog, recordPath: records[1] })),
  );
  expect(stopped.code).toBe("E_CANCELLED");
  expect(records.map((path) => readDocument("run", path))).toMatchObject([
    { outcome: "timeout", attempts: [{ reason: late.message }] },
    { outcome: "cancelled", attempts: [{ reason: stopped.message }] },
  ]);
  expect(pids).toHaveLength(4);
  expect(pids.filter(runs)).toEqual([]);
  expect(Date.now() - started).toBeLessThan(40_000);
}, 60_000);

withTorch("real ranks", () => {
  test("one that dies ends the launch and every other rank", async () => {
    const script = write(
      "dies.py",
      [
        "import os, sys, time, signal",
        "sys.stdout.write(f'pid {os.getpid()}\\n'); sys.stdout.flush()",
        "time.sleep(1)",
        "if os.environ['RANK'] == '1': sys.exit('rank 1 gave up')",
        "time.sleep(600)",
      ].join("\n"),
    );
    const pids: number[] = [];
    const onLog = (line: string) => {
      if (line.startsWith("pid ")) pids.push(Number(line.slice(4)));
    };
    const record = await launch(options({ data: 3 }, ["python", script], { onLog, timeoutSeconds: 120 }));
    expect(record.exitCode).not.toBe(0);
    expect(record.lastLines).toContain("rank 1 gave up");
    expect(pids).toHaveLength(3);
    expect(pids.filter(runs)).toEqual([]);
  }, 130_000);
});
