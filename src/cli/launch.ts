import { basename, dirname, join } from "node:path";
import { MpoptError, type Plan, readDocument, version } from "../contracts/index.js";
import { type Elastic, launch, type RunRecord, type StarterName, starterNames } from "../launch/index.js";
import { renderRun } from "../report/index.js";
import { type Context, defineCommand, nonNegativeInteger, positiveNumber, printError } from "./context.js";
import { requireInputs } from "./inputs.js";

interface LaunchCommandOptions {
  with: StarterName;
  timeout?: number;
  nodeRank?: number;
  rendezvous?: string;
  hostfile?: string;
  logs?: string;
  /** False for --no-record. */
  record?: string | boolean;
  elastic?: boolean;
  maxRestarts?: number;
  model?: string;
  cluster?: string;
}

/** `mpopt launch PLAN -- python train.py`: runs a plan and sets the measured step beside the predicted. */
export const launchCommand = () =>
  defineCommand(
    "launch",
    "Run a training script on the plan's ranks, and compare its step time with the prediction.",
    "mpopt launch plan.json -- python examples/train_gpt.py --steps 20",
    async (context, [path, ...command], given) => {
      const options = given as unknown as LaunchCommandOptions;
      const plan = readDocument("plan", path!);
      const recordPath = recordPathOf(path!, options);
      // The ranks are in a session of their own: without this they would outlive a closed terminal.
      const closed = new AbortController();
      process.once("SIGHUP", () => closed.abort());
      const record = await launch({
        ...{ plan, planPath: path!, command, recordPath, version },
        starter: options.with,
        timeoutSeconds: options.timeout,
        nodeRank: options.nodeRank,
        rendezvousEndpoint: options.rendezvous,
        hostfile: options.hostfile,
        logs: options.logs,
        elastic: elasticOf(plan, options),
        signal: AbortSignal.any([context.signal, closed.signal]),
        onProgress: (event) => context.progress(event),
        onLog: (line, _stream, rank) => {
          if (!line.startsWith("MPOPT_")) context.note(rank === undefined ? line : `[rank ${rank}] ${line}`);
        },
      });
      if (record.exitCode !== 0) {
        fail(context, record);
        return;
      }
      context.print(renderRun(record.run));
      if (recordPath !== undefined) context.print(`\nWritten to ${recordPath}.`);
      context.result(record.run);
    },
  )
    .argument("<plan>", "the plan, a file that mpopt plan wrote")
    .argument("[command...]", "the script and its arguments, after --")
    .option("--with <starter>", `what starts the ranks: ${starterNames.join(", ")}`, "torchrun")
    .option("--timeout <seconds>", "stop the ranks after this time", positiveNumber)
    .option("--logs <dir>", "also write one log a rank into this folder")
    .option("--record <file>", "where to write the run record (default: PLAN.run.json beside the plan)")
    .option("--no-record", "write no run record")
    .optionsGroup("When ranks die:")
    .option("--elastic", "plan for what is left and go on from the script's last checkpoint")
    .option("--max-restarts <n>", "with --elastic: attempts after the first (default: 3)", nonNegativeInteger)
    .option("--model <model>", "with --elastic: model (default: the plan's own source)")
    .option("--cluster <cluster>", "with --elastic: cluster (default: the plan's own source)")
    .optionsGroup("For a plan on several nodes:")
    .option("--node-rank <n>", "index of this node, where torchrun runs on each", nonNegativeInteger)
    .option("--rendezvous <host:port>", "where the ranks meet")
    .option("--hostfile <file>", "a host a line, for mpirun and deepspeed");

/** @throws MpoptError E_USAGE for options that want --elastic, and for inputs that are not found. */
function elasticOf(plan: Plan, options: LaunchCommandOptions): Elastic | undefined {
  const { elastic, maxRestarts = 3, model, cluster } = options;
  if (elastic) return { ...requireInputs(plan, { model, cluster }), maxRestarts };
  if (options.maxRestarts !== undefined || model !== undefined || cluster !== undefined) {
    const name =
      options.maxRestarts !== undefined ? "max-restarts" : model !== undefined ? "model" : "cluster";
    throw new MpoptError("E_USAGE", `Expected --elastic beside --${name} but found none.`);
  }
  return undefined;
}

/** Beside the plan; nodes that run torchrun each have a record of their own. */
function recordPathOf(plan: string, { record, nodeRank }: LaunchCommandOptions): string | undefined {
  if (record === false) return undefined;
  if (typeof record === "string") return record;
  return join(dirname(plan), `${basename(plan, ".json")}.run${nodeRank ? `-${nodeRank}` : ""}.json`);
}

/** Says that the ranks failed; the status is theirs, as of any program that starts others. */
function fail(context: Context, { exitCode, reason, steps, lastLines, run }: RunRecord): void {
  const restarts = run.attempts.length > 1 ? ` and ${run.attempts.length - 1} restarts` : "";
  const error = new MpoptError(
    "E_LAUNCH",
    `Expected every rank to end well but the launch ended with status ${exitCode} after ${steps.length} steps${restarts}.`,
    [...(reason ? [reason] : []), ...(context.json || context.quiet ? lastLines : [])],
  );
  printError(error, context.json);
  process.exitCode = exitCode;
}
