import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { type Attempt, MpoptError, type Plan, type Run, type RunOptions } from "../contracts/index.js";
import { type AttemptOptions, runAttempt } from "./attempt.js";
import { checkMachine, parseCommand, rankVariables, requireTorch, startWords } from "./command.js";
import { type Elastic, planForTheRest } from "./elastic.js";
import { nodeLayout } from "./layout.js";
import { RankLogs } from "./logs.js";
import type { Python } from "./python.js";
import { AttemptRecord, RunLog } from "./record.js";
import { findStarter, type Start, type Starter, type StarterName } from "./starters/index.js";
import { scheduleActions } from "./torch.js";

export interface LaunchOptions extends RunOptions {
  plan: Plan;
  /** The plan's file; the ranks find it in MPOPT_PLAN, and the plan's schedule in MPOPT_SCHEDULE. */
  planPath: string;
  /** `["python", "train.py", ...]`, or the script first. */
  command: string[];
  /** What starts the ranks: `torchrun` by default. */
  starter?: StarterName;
  /** The ranks are stopped after this, restarts included; no limit where it is omitted. */
  timeoutSeconds?: number;
  /** Added to the environment of the ranks. */
  env?: NodeJS.ProcessEnv;
  /** Index of this node where torchrun runs on several; else NODE_RANK, PET_NODE_RANK or SLURM_NODEID. */
  nodeRank?: number;
  /** host:port of the first node; else PET_RDZV_ENDPOINT or MASTER_ADDR and MASTER_PORT. */
  rendezvousEndpoint?: string;
  /** File with a host a line, for mpirun and deepspeed on several nodes. */
  hostfile?: string;
  /** Folder that receives one log a rank. */
  logs?: string;
  /** File that receives the run record when an attempt begins and when it ends, however it ends. */
  recordPath?: string;
  /** Plans again for what is left when ranks die, and goes on. */
  elastic?: Elastic;
  /** Written into the record. */
  version?: string;
  /** Every line that the ranks print; the rank is undefined for lines of the starter. */
  onLog?: (line: string, stream: "stdout" | "stderr", rank: number | undefined) => void;
}

/** The last attempt of a launch, and the document of all. */
export interface RunRecord extends Attempt {
  exitCode: number;
  run: Run;
}

/**
 * Starts the plan's ranks and waits for their end. No shell is involved. Every rank ends when one dies, at the deadline,
 * and when the signal aborts; with `elastic` the rest goes on under a plan for what is left.
 * @returns what came of it; a failing script is no error: its status is `exitCode`.
 * @throws MpoptError E_MISSING_TOOL without Python, PyTorch or the starter, E_USAGE for a command that is no Python
 *   script, E_FILE for a script that does not exist, E_LAUNCH when machine or ranks do not fit the plan or the starter
 *   cannot be started, E_CANCELLED at the deadline or on abort. Once ranks were started the record is written before.
 */
export async function launch(options: LaunchOptions): Promise<RunRecord> {
  const { plan, signal } = options;
  signal?.throwIfAborted();
  const starter = findStarter(options.starter ?? "torchrun");
  if (options.elastic && starter.name === "torchrun" && nodeLayout(plan).nodes > 1) {
    throw new MpoptError(
      "E_USAGE",
      "Expected one mpopt that starts all ranks, to restart them under another plan, but torchrun runs on each node.",
      ["Launch with --with srun, mpirun or deepspeed."],
    );
  }
  const { interpreter, script } = parseCommand(options.command);
  const environment: NodeJS.ProcessEnv = { ...process.env, ...options.env };
  delete environment.MPOPT_SCHEDULE;
  const python = await requireTorch(interpreter, environment, signal);
  // Where ranks run elsewhere, as from a login node, this machine says nothing.
  const here = starter.name === "torchrun" || (starter.name !== "srun" && nodeLayout(plan).nodes === 1);
  if (here) await checkMachine(plan, python, environment, signal);
  const { timeoutSeconds } = options;
  const deadline = timeoutSeconds === undefined ? undefined : Date.now() + timeoutSeconds * 1000;
  const context: Context = { options, starter, python, script, environment, deadline };
  const log = new RunLog(
    plan.name,
    {
      mpopt: options.version ?? "0.0.0",
      python: python.version,
      torch: python.torch ?? null,
      starter: starter.name,
      command: options.command,
    },
    environment,
    options.recordPath,
  );
  const logs = options.logs === undefined ? undefined : new RankLogs(options.logs);
  try {
    await attempts(context, log, logs);
    const run = log.document;
    const last = run.attempts.at(-1)!;
    return { ...last, exitCode: last.exitCode!, run };
  } finally {
    const lost = await logs?.close();
    if (lost) options.onProgress?.({ message: lost });
  }
}

interface Context {
  options: LaunchOptions;
  starter: Starter;
  python: Python;
  script: string[];
  environment: NodeJS.ProcessEnv;
  /** `Date.now()` of the deadline; undefined where there is none. */
  deadline: number | undefined;
}

/** What an attempt runs: a plan, its file, and hosts that are not to be used. */
export interface Next {
  plan: Plan;
  planPath: string;
  without: readonly string[];
}

/** The first attempt, and with `elastic` those after it. */
async function attempts(context: Context, log: RunLog, logs: RankLogs | undefined): Promise<void> {
  const { options } = context;
  let next: Next = { plan: options.plan, planPath: options.planPath, without: [] };
  for (let number = 0; ; number++) {
    const start = await startOf(context, next);
    const record = new AttemptRecord(next.plan);
    log.begin(record);
    try {
      await attempt(context, next, start, number, { record, logs });
    } finally {
      log.write();
    }
    const { elastic } = options;
    if (!elastic || record.document.outcome === "done" || number >= elastic.maxRestarts) return;
    const rest = await planForTheRest(record, next, number + 1, options);
    if (!rest) return;
    next = rest;
  }
}

function startOf(
  { options, starter, python, environment }: Context,
  { plan, without }: Pick<Next, "plan" | "without">,
): Promise<Start> {
  const { nodeRank, rendezvousEndpoint, hostfile } = options;
  return starter.start({
    ...{ plan, layout: nodeLayout(plan), python: python.executable, environment, without },
    ...{ nodeRank, rendezvousEndpoint, hostfile },
  });
}

async function attempt(
  { options, starter, python, script, environment, deadline }: Context,
  { plan, planPath }: Next,
  start: Start,
  number: number,
  noted: Pick<AttemptOptions, "record" | "logs">,
): Promise<void> {
  const { nodes, ranksPerNode, world } = nodeLayout(plan);
  const { signal, onProgress, onLog, timeoutSeconds } = options;
  const variables = rankVariables(plan, planPath, environment);
  if (number > 0) Object.assign(variables, { MPOPT_RESUME: "1", MPOPT_ATTEMPT: String(number) });
  const actions = scheduleActions(plan);
  // On several nodes the plan's folder is one that all of them see.
  const parent = nodes === 1 ? tmpdir() : dirname(resolve(planPath));
  const folder = actions === undefined ? undefined : mkdtempSync(join(parent, "mpopt-schedule-"));
  try {
    if (folder !== undefined && actions !== undefined) {
      variables.MPOPT_SCHEDULE = join(folder, "schedule.csv");
      writeFileSync(variables.MPOPT_SCHEDULE, actions);
    }
    const here = starter.name === "torchrun" && nodes > 1;
    const where = nodes > 1 ? ` on ${here ? "one of " : ""}${nodes} nodes` : "";
    onProgress?.({
      message: `Starting ${here ? `${ranksPerNode} of ` : ""}${world} ranks with ${starter.name}${where}`,
    });
    await runAttempt({
      executable: start.executable,
      argv: startWords(start, starter.name, plan, python.executable, script, variables),
      env: { ...environment, ...variables },
      ...{ ...noted, signal, onProgress, onLog, deadline, timeoutSeconds },
    });
  } finally {
    if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
  }
}
