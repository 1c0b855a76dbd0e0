import { type ChildProcess, execFile, spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { networkInterfaces, tmpdir } from "node:os";
import { basename, delimiter, dirname, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { MpoptError, type Plan, type RunOptions } from "../contracts/index.js";
import { nodeLayout } from "./layout.js";
import { ProcessTree } from "./processes.js";
import { askPython, findPython, type Python } from "./python.js";
import { applyPlanPath, scheduleActions } from "./torch.js";

export interface LaunchOptions extends RunOptions {
  plan: Plan;
  /** The plan's file; the ranks find it in MPOPT_PLAN, and the plan's schedule in MPOPT_SCHEDULE. */
  planPath: string;
  /** `["python", "train.py", ...]`, or the script first. */
  command: string[];
  /** The ranks are stopped after this; no limit where it is omitted. */
  timeoutSeconds?: number;
  /** Added to the environment of the ranks. */
  env?: NodeJS.ProcessEnv;
  /** Index of this node where the plan takes several; else NODE_RANK, PET_NODE_RANK or SLURM_NODEID. */
  nodeRank?: number;
  /** host:port of the first node; else PET_RDZV_ENDPOINT or MASTER_ADDR and MASTER_PORT. */
  rendezvousEndpoint?: string;
  /** Every line that the ranks print. */
  onLog?: (line: string, stream: "stdout" | "stderr") => void;
}

export interface RunStep {
  step: number;
  seconds: number;
  /** Mean loss of the global batch. */
  loss: number;
}

export interface RunRecord {
  steps: RunStep[];
  /** Median over the steps after the first two, which warm up; null where there are none. */
  medianStepSeconds: number | null;
  predictedStepSeconds: number;
  /** Exit status of torchrun: 0 where every rank ended well, 128 + signal number where a signal ended it. */
  exitCode: number;
  /** What the script reported with MPOPT_DONE; null where it did not. */
  summary: Record<string, unknown> | null;
  /** The last lines on stderr before torchrun reported a failure. */
  lastLines: string[];
}

const warmUpSteps = 2;
const keptLines = 40;
/** torchrun ends its ranks within this after SIGTERM, or everything is killed. */
const graceMilliseconds = 8000;

/**
 * Starts the plan's ranks on this node through torchrun and waits for their end. No shell is involved. Ends
 * every rank when one dies, at the deadline, and when the signal aborts.
 * @throws MpoptError E_MISSING_TOOL without Python or PyTorch, E_USAGE for a command that is no Python
 *   script, E_FILE for a script that does not exist, E_LAUNCH when the machine does not fit the plan or
 *   torchrun cannot be started, E_CANCELLED at the deadline or on abort. A failing script is no error: its
 *   status is `exitCode`.
 */
export async function launch(options: LaunchOptions): Promise<RunRecord> {
  const { plan, signal } = options;
  signal?.throwIfAborted();
  const { interpreter, script } = parseCommand(options.command);
  const environment = rankEnvironment(options);
  const python = await requireTorch(interpreter, environment, signal);
  await checkMachine(plan, python, environment, signal);
  const argv = [...torchrunArguments(options, environment), ...script];
  const actions = scheduleActions(plan);
  if (actions === undefined) return run(python.executable, argv, environment, options);
  const folder = mkdtempSync(join(tmpdir(), "mpopt-schedule-"));
  try {
    environment.MPOPT_SCHEDULE = join(folder, "schedule.csv");
    writeFileSync(environment.MPOPT_SCHEDULE, actions);
    return await run(python.executable, argv, environment, options);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function parseCommand(command: string[]): { interpreter: string | undefined; script: string[] } {
  const [first = "", ...rest] = command;
  const isPython = /^python[0-9.]*$/.test(basename(first));
  const script = isPython ? rest.slice(rest[0] === "-u" ? 1 : 0) : command;
  const isModule = isPython && script[0] === "-m" && script.length > 1;
  const name = script[0] ?? "";
  if (!isModule && (name === "" || name.startsWith("-") || (!isPython && !name.endsWith(".py")))) {
    throw new MpoptError(
      "E_USAGE",
      `Expected a Python script for the command but found ${command.length ? `"${command.join(" ")}"` : "nothing"}.`,
      ["Write it after two dashes: mpopt launch plan.json -- python train.py"],
    );
  }
  if (!isModule && !existsSync(name)) {
    throw new MpoptError("E_FILE", `Expected a script at ${name} but it does not exist.`);
  }
  // A bare `python` lets mpopt choose one that has PyTorch; a path is the user's choice.
  return { interpreter: isPython && first !== basename(first) ? first : undefined, script };
}

function rankEnvironment({ planPath, plan, env }: LaunchOptions): NodeJS.ProcessEnv {
  const environment: NodeJS.ProcessEnv = { ...process.env, ...env };
  environment.MPOPT_PLAN = resolve(planPath);
  delete environment.MPOPT_SCHEDULE;
  const paths = [dirname(applyPlanPath), environment.PYTHONPATH].filter(Boolean);
  environment.PYTHONPATH = paths.join(delimiter);
  environment.OMP_NUM_THREADS ??= "1";
  const loopback = Object.entries(networkInterfaces()).find(([, all]) => all?.some((each) => each.internal));
  // Gloo looks the host's own name up, which fails on many machines without a network.
  if (nodeLayout(plan).nodes === 1 && loopback) environment.GLOO_SOCKET_IFNAME ??= loopback[0];
  return environment;
}

async function requireTorch(
  interpreter: string | undefined,
  environment: NodeJS.ProcessEnv,
  signal?: AbortSignal,
): Promise<Python> {
  const python = interpreter
    ? await askPython(interpreter, environment, signal)
    : await findPython(environment, signal);
  signal?.throwIfAborted();
  if (python?.torch) return python;
  const found = python
    ? `Python ${python.version} at ${python.executable} without it`
    : interpreter
      ? `no Python at ${interpreter}`
      : "no Python";
  throw new MpoptError("E_MISSING_TOOL", `Expected a Python with PyTorch but found ${found}.`, [
    "Install it: python3 -m venv .venv && .venv/bin/pip install torch",
    "Or name the Python to use in MPOPT_PYTHON.",
  ]);
}

/** Whether this machine has the devices that the plan puts on one node. CPU ranks may share cores. */
async function checkMachine(
  plan: Plan,
  python: Python,
  environment: NodeJS.ProcessEnv,
  signal?: AbortSignal,
): Promise<void> {
  if (plan.cluster.deviceType === "cpu" || environment.MPOPT_DEVICE === "cpu") return;
  const { ranksPerNode, world } = nodeLayout(plan);
  const count = await new Promise<number>((done) => {
    const question = "import torch; print(torch.cuda.device_count())";
    const limits = { env: environment, timeout: 60_000, signal };
    execFile(python.executable, ["-c", question], limits, (_error, stdout) => done(Number(stdout.trim())));
  });
  signal?.throwIfAborted();
  if (count >= ranksPerNode) return;
  throw new MpoptError(
    "E_LAUNCH",
    `Expected ${ranksPerNode} GPUs on this machine for the plan's ${world} ranks but PyTorch found ${count || "none"}.`,
    [
      "Launch on the planned cluster, plan for this machine, or set MPOPT_DEVICE=cpu to try the plan on CPU ranks.",
    ],
  );
}

function torchrunArguments(options: LaunchOptions, environment: NodeJS.ProcessEnv): string[] {
  const { nodes, ranksPerNode } = nodeLayout(options.plan);
  const ranks = ["--nproc-per-node", String(ranksPerNode)];
  if (nodes === 1) return ["-m", "torch.distributed.run", "--standalone", "--nnodes", "1", ...ranks];
  const { NODE_RANK, PET_NODE_RANK, SLURM_NODEID, PET_RDZV_ENDPOINT, MASTER_ADDR, MASTER_PORT } = environment;
  const nodeRank = options.nodeRank ?? NODE_RANK ?? PET_NODE_RANK ?? SLURM_NODEID;
  const endpoint =
    options.rendezvousEndpoint ??
    PET_RDZV_ENDPOINT ??
    (MASTER_ADDR ? `${MASTER_ADDR}:${MASTER_PORT ?? "29500"}` : undefined);
  if (nodeRank === undefined || endpoint === undefined) {
    throw new MpoptError(
      "E_USAGE",
      `Expected the node's rank and a rendezvous endpoint for a plan on ${nodes} nodes but found ${nodeRank === undefined ? "no rank" : "no endpoint"}.`,
      ["Give --node-rank and --rendezvous HOST:PORT, or set NODE_RANK and MASTER_ADDR, on every node."],
    );
  }
  return [
    ...["-m", "torch.distributed.run", "--nnodes", String(nodes), "--node-rank", String(nodeRank)],
    ...["--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint, "--rdzv-id", "mpopt", ...ranks],
  ];
}

async function run(
  executable: string,
  argv: string[],
  env: NodeJS.ProcessEnv,
  options: LaunchOptions,
): Promise<RunRecord> {
  const { plan, signal, timeoutSeconds, onLog, onProgress } = options;
  const record: RunRecord = {
    steps: [],
    medianStepSeconds: null,
    predictedStepSeconds: plan.estimate.stepSeconds,
    exitCode: 0,
    summary: null,
    lastLines: [],
  };
  const { world, nodes, ranksPerNode } = nodeLayout(plan);
  onProgress?.({
    message: `Starting ${ranksPerNode} of ${world} ranks${nodes > 1 ? ` on one of ${nodes} nodes` : ""}`,
  });
  // A process group of its own, so that an interrupt at the terminal reaches mpopt alone, which then stops it.
  const child = spawn(executable, argv, { env, stdio: ["ignore", "pipe", "pipe"], detached: true });
  const stopper = new Stopper(child);
  let cancelled: MpoptError | undefined;
  const cancel = (error: MpoptError) => {
    cancelled ??= error;
    stopper.stop();
  };
  const abort = () => {
    const reason: unknown = signal?.reason;
    cancel(reason instanceof MpoptError ? reason : new MpoptError("E_CANCELLED", "The launch was stopped."));
  };
  signal?.addEventListener("abort", abort, { once: true });
  if (signal?.aborted) abort();
  const deadline =
    timeoutSeconds === undefined
      ? undefined
      : setTimeout(() => {
          const found = record.steps.length ? `${record.steps.length} steps` : "no step";
          const message = `Expected the ranks to end within ${timeoutSeconds} s but found ${found} by then.`;
          cancel(new MpoptError("E_CANCELLED", message, record.lastLines));
        }, timeoutSeconds * 1000);
  let failed = false;
  const readLines = async (stream: "stdout" | "stderr") => {
    for await (const line of createInterface({
      input: child[stream]!,
      crlfDelay: Number.POSITIVE_INFINITY,
    })) {
      stopper.look();
      const reported = stream === "stdout" && readReport(line, record);
      if (reported) {
        onProgress?.({
          message: `Step ${reported.step}: ${reported.seconds.toFixed(3)} s, loss ${reported.loss.toFixed(4)}`,
        });
      }
      // torchrun's own report of a failure would push out what the rank itself said.
      failed ||= /torch\/distributed\/elastic\/.* failed \(exitcode/.test(line);
      if (stream === "stderr" && !failed) record.lastLines = [...record.lastLines, line].slice(-keptLines);
      onLog?.(line, stream);
    }
  };
  try {
    const output = Promise.all([readLines("stdout"), readLines("stderr")]);
    record.exitCode = await stopper.ended;
    stopper.killRest();
    await output;
  } finally {
    clearTimeout(deadline);
    signal?.removeEventListener("abort", abort);
    stopper.killRest();
  }
  if (cancelled) throw cancelled;
  record.medianStepSeconds = median(record.steps.slice(warmUpSteps).map(({ seconds }) => seconds));
  return record;
}

/** Reads one line of the protocol into the record; the step where it was one. */
function readReport(line: string, record: RunRecord): RunStep | undefined {
  const match = /^(MPOPT_STEP|MPOPT_DONE) (\{.*\})$/.exec(line);
  if (!match) return undefined;
  let value: Record<string, unknown>;
  try {
    value = JSON.parse(match[2]!);
  } catch {
    return undefined;
  }
  if (match[1] === "MPOPT_DONE") {
    record.summary = value;
    return undefined;
  }
  const { step, seconds, loss } = value;
  if (typeof step !== "number" || typeof seconds !== "number" || typeof loss !== "number") return undefined;
  record.steps.push({ step, seconds, loss });
  return record.steps[record.steps.length - 1];
}

/** Ends torchrun and, with it or after it, every process below it. */
class Stopper {
  readonly ended: Promise<number>;
  readonly #child: ChildProcess;
  readonly #tree: ProcessTree;
  #lastLook = 0;
  #killTimer: NodeJS.Timeout | undefined;

  constructor(child: ChildProcess) {
    this.#child = child;
    this.#tree = new ProcessTree(child.pid ?? -1);
    this.ended = new Promise((done, fail) => {
      child.once("error", (error) =>
        fail(new MpoptError("E_LAUNCH", `Expected to start ${child.spawnfile} but ${error.message}.`)),
      );
      child.once("exit", (code, name) => {
        clearTimeout(this.#killTimer);
        done(code ?? 128 + (name ? signalNumber(name) : 0));
      });
    });
  }

  /** Notes the ranks that live now, at most once a second. */
  look(): void {
    const now = Date.now();
    if (now - this.#lastLook < 1000) return;
    this.#lastLook = now;
    this.#tree.look();
  }

  stop(): void {
    this.#tree.look();
    this.#signalGroup("SIGTERM");
    this.#killTimer ??= setTimeout(() => {
      this.#tree.look();
      this.#signalGroup("SIGKILL");
      this.#tree.signal("SIGKILL");
    }, graceMilliseconds);
  }

  killRest(): void {
    this.#tree.signal("SIGKILL");
  }

  #signalGroup(name: NodeJS.Signals): void {
    try {
      if (this.#child.pid !== undefined) process.kill(-this.#child.pid, name);
    } catch {
      // It has ended.
    }
  }
}

function signalNumber(name: NodeJS.Signals): number {
  return { SIGHUP: 1, SIGINT: 2, SIGABRT: 6, SIGKILL: 9, SIGSEGV: 11, SIGTERM: 15 }[name as string] ?? 0;
}

function median(values: number[]): number | null {
  if (values.length === 0) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}
