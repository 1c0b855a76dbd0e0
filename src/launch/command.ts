import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { networkInterfaces } from "node:os";
import { basename, delimiter, dirname, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { MpoptError, type Plan } from "../contracts/index.js";
import { nodeLayout } from "./layout.js";
import { askPython, findPython, type Python } from "./python.js";
import type { Start, StarterName } from "./starters/index.js";
import { applyPlanPath } from "./torch.js";

/** What a rank runs: the script below a process that gives it its variables and watches over it. */
export const startRankPath = fileURLToPath(new URL("../../bindings/python/start_rank.py", import.meta.url));

/** The training command taken apart: the Python where a path names one, and the script with its words. */
export interface TrainingCommand {
  interpreter: string | undefined;
  script: string[];
}

/** @throws MpoptError E_USAGE for a command that is no Python script, E_FILE for a script that does not exist. */
export function parseCommand(command: string[]): TrainingCommand {
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

/** Variables that mpopt sets for the ranks, wherever they run, over what they find there. */
export function rankVariables(
  plan: Plan,
  planPath: string,
  found: NodeJS.ProcessEnv,
): Record<string, string> {
  const paths = [dirname(applyPlanPath), found.PYTHONPATH].filter(Boolean);
  const variables: Record<string, string> = {
    MPOPT_PLAN: resolve(planPath),
    PYTHONPATH: paths.join(delimiter),
    OMP_NUM_THREADS: found.OMP_NUM_THREADS ?? "1",
  };
  const loopback = Object.entries(networkInterfaces()).find(([, all]) => all?.some((each) => each.internal));
  // Gloo looks the host's own name up, which fails on many machines without a network.
  const socket = found.GLOO_SOCKET_IFNAME ?? (nodeLayout(plan).nodes === 1 ? loopback?.[0] : undefined);
  if (socket) variables.GLOO_SOCKET_IFNAME = socket;
  return variables;
}

/** @throws MpoptError E_MISSING_TOOL without Python or PyTorch. */
export async function requireTorch(
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

/**
 * Whether this machine has the devices that the plan puts on one node. CPU ranks may share cores; ranks on other
 * machines are not counted.
 * @throws MpoptError E_LAUNCH.
 */
export async function checkMachine(
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

/** The words that start the ranks: the starter's, then those of one rank. */
export function startWords(
  start: Start,
  starter: StarterName,
  plan: Plan,
  python: string,
  script: readonly string[],
  environment: Readonly<Record<string, string>>,
): string[] {
  const { world, ranksPerNode } = nodeLayout(plan);
  const order = {
    starter,
    world,
    mesh: plan.mesh.axes.map((axis, i) => `${axis} ${plan.mesh.sizes[i]}`).join(" x "),
    ranksPerNode,
    masterAddress: start.masterAddress,
    masterPort: start.masterPort,
    environment,
    command: [python, "-u", ...script],
  };
  // Some starters hand words to a shell on other hosts: base64 holds nothing that one would read.
  const word = Buffer.from(JSON.stringify(order)).toString("base64");
  return [...start.argv, ...(start.namesPython ? [python] : []), startRankPath, word];
}
