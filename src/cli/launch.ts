import { MpoptError, readDocument } from "../contracts/index.js";
import { launch, type RunRecord } from "../launch/index.js";
import { type Context, defineCommand, nonNegativeInteger, positiveNumber } from "./context.js";

/** `mpopt launch PLAN -- python train.py`: runs a plan and sets the measured step beside the predicted. */
export const launchCommand = () =>
  defineCommand(
    "launch",
    "Run a training script on the plan's ranks, and compare its step time with the prediction.",
    "mpopt launch plan.json -- python examples/train_gpt.py --steps 20",
    async (context, [path, ...command], options) => {
      const plan = readDocument("plan", path!);
      // The ranks are in a session of their own: without this they would outlive a closed terminal.
      const closed = new AbortController();
      process.once("SIGHUP", () => closed.abort());
      const record = await launch({
        plan,
        planPath: path!,
        command,
        timeoutSeconds: options.timeout as number | undefined,
        nodeRank: options.nodeRank as number | undefined,
        rendezvousEndpoint: options.rendezvous as string | undefined,
        signal: AbortSignal.any([context.signal, closed.signal]),
        onProgress: (event) => context.progress(event),
        onLog: (line) => {
          if (!line.startsWith("MPOPT_")) context.note(line);
        },
      });
      if (record.exitCode !== 0) {
        throw new MpoptError(
          "E_LAUNCH",
          `Expected every rank to end well but the launch ended with status ${record.exitCode} after ${record.steps.length} steps.`,
          context.json || context.quiet ? record.lastLines : [],
        );
      }
      printRecord(context, record);
      context.result(record);
    },
  )
    .argument("<plan>", "the plan, a file that mpopt plan wrote")
    .argument("[command...]", "the script and its arguments, after --")
    .option("--timeout <seconds>", "stop the ranks after this time", positiveNumber)
    .option("--node-rank <n>", "index of this node, for a plan on several", nonNegativeInteger)
    .option("--rendezvous <host:port>", "where the nodes meet, for a plan on several");

function printRecord(context: Context, record: RunRecord): void {
  const { steps, medianStepSeconds: measured, predictedStepSeconds: predicted } = record;
  if (measured === null) {
    const found = steps.length ? `${steps.length} steps, all of them warm-up` : "no MPOPT_STEP lines";
    context.print(`Predicted step ${seconds(predicted)}; not measured: the script printed ${found}.`);
    return;
  }
  const first = steps[0]!;
  const last = steps[steps.length - 1]!;
  const off = (100 * (predicted - measured)) / measured;
  context.print(
    [
      `Predicted step  ${seconds(predicted)}`,
      `Measured step   ${seconds(measured)}  (median of ${steps.length - 2} after 2 warm-up steps)`,
      `Difference      ${off >= 0 ? "+" : ""}${off.toFixed(1)} % of the measured`,
      `Loss            ${first.loss.toFixed(4)} → ${last.loss.toFixed(4)} over ${steps.length} steps`,
    ].join("\n"),
  );
}

function seconds(value: number): string {
  return value >= 1 ? `${value.toFixed(2)} s` : `${(value * 1000).toFixed(1)} ms`;
}
