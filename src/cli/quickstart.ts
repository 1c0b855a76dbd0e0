import { execFile } from "node:child_process";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { profileCluster } from "../cluster/profile.js";
import {
  type Cluster,
  MpoptError,
  type Plan,
  serialize,
  version,
  writeFileAtomic,
} from "../contracts/index.js";
import { exporters, exportPlan, findPython, launch, lossyFor } from "../launch/index.js";
import { loadModel } from "../models/index.js";
import { createPlan } from "../plan/index.js";
import { formatSeconds, renderHtml, renderPlan } from "../report/index.js";
import { type Context, defineCommand, positiveInteger } from "./context.js";
import { pythonFacts } from "./python.js";

/** More ranks than this would only wait for each other on a workstation. */
const mostRanks = 4;

const example = fileURLToPath(new URL("../../examples/train_gpt.py", import.meta.url));

interface QuickstartOptions {
  output: string;
  model: string;
  globalBatch: number;
  seq: number;
  steps: number;
  installTorch?: boolean;
  torch?: boolean;
}

/** What `--json` prints. */
interface QuickstartResult {
  cluster: string;
  model: string;
  plan: string;
  report: string;
  certificate: Plan["certificate"];
  exports: { target: string; folder?: string; refused?: string[] }[];
  predictedStepSeconds: number;
  measuredStepSeconds: number | null;
  /** Why there is no measured step. */
  reason?: string;
}

export const quickstartCommand = () =>
  defineCommand(
    "quickstart",
    "the whole loop on this machine, no GPU needed: profile, plan, export, train, compare",
    "mpopt quickstart",
    async (context, _args, given) => {
      const options = given as unknown as QuickstartOptions;
      if (options.installTorch) await installTorch(context);
      const paths = {
        cluster: join(options.output, "cluster.json"),
        model: join(options.output, "model.json"),
        plan: join(options.output, "plan.json"),
        report: join(options.output, "report.html"),
      };
      const cluster = await measure(context, options.torch !== false);
      writeFileAtomic(paths.cluster, serialize(cluster));
      const model = loadModel(options.model);
      writeFileAtomic(paths.model, serialize(model));
      const plan = await createPlan({
        model: { ...model, source: paths.model },
        cluster: { ...cluster, source: paths.cluster },
        job: {
          globalBatch: options.globalBatch,
          sequence: options.seq,
          dtypes: { parameters: "f32", gradients: "f32", optimizer: "f32" },
        },
        seed: context.seed,
        version,
        lossyFor,
        signal: context.signal,
        onProgress: context.progress,
      });
      writeFileAtomic(paths.plan, serialize(plan));
      writeFileAtomic(paths.report, renderHtml(plan));
      context.print(renderPlan(plan));
      const result: QuickstartResult = {
        ...paths,
        certificate: plan.certificate,
        exports: writeExports(context, plan, options.output),
        predictedStepSeconds: plan.estimate.stepSeconds,
        ...(await train(context, plan, paths.plan, options)),
      };
      summarise(context, result);
      context.result(result);
    },
  )
    .option("-o, --output <folder>", "where everything is written", "mpopt-out")
    .option("--model <model>", "a GPT-2-like or Llama-like model small enough for this machine", "tiny-gpt")
    .option("--global-batch <n>", "sequences in one step", positiveInteger, 16)
    .option("--seq <n>", "tokens in one sequence", positiveInteger, 128)
    .option("--steps <n>", "training steps", positiveInteger, 12)
    .option("--no-torch", "plan with the processor's bare kernels instead of PyTorch's operators")
    .option("--install-torch", "first make .venv and install PyTorch for the CPU into it");

async function measure(context: Context, useTorch: boolean): Promise<Cluster> {
  context.print("1. Measuring this machine ...");
  const python = await pythonFacts(context.signal);
  const cluster = await profileCluster({
    backend: "cpu",
    quick: true,
    devices: Math.min(availableParallelism(), mostRanks),
    pythonSites: python?.sites ?? [],
    blasLibrary: python?.torchLibrary,
    torchPython: useTorch && python?.torch ? python.executable : undefined,
    signal: context.signal,
    onProgress: context.progress,
  });
  context.print("2. Searching for the best plan ...\n");
  return cluster;
}

function writeExports(context: Context, plan: Plan, folder: string): QuickstartResult["exports"] {
  const written: QuickstartResult["exports"] = [];
  context.print("\n3. Writing launcher files ...");
  for (const target of Object.keys(exporters)) {
    const refused = plan.lossyFor[target];
    if (refused) {
      written.push({ target, refused });
      context.print(`   ${target}: refused. ${refused.join(" ")}`);
      continue;
    }
    const into = join(folder, target);
    exportPlan(plan, target, into);
    written.push({ target, folder: into });
    context.print(`   ${target}: ${into}`);
  }
  return written;
}

async function train(
  context: Context,
  plan: Plan,
  planPath: string,
  options: QuickstartOptions,
): Promise<Pick<QuickstartResult, "measuredStepSeconds" | "reason">> {
  const python = await findPython();
  if (!python?.torch) {
    const reason = `PyTorch is not installed${python ? ` for ${python.executable}` : ": there is no Python"}; run \`mpopt quickstart --install-torch\` to train too.`;
    return { measuredStepSeconds: null, reason };
  }
  context.print(`4. Training ${plan.model.name} for ${options.steps} steps on CPU ranks ...`);
  const record = await launch({
    plan,
    planPath,
    command: ["python", example, "--steps", String(options.steps)],
    timeoutSeconds: 600,
    signal: context.signal,
    onProgress: context.progress,
  });
  if (record.exitCode !== 0) {
    throw new MpoptError(
      "E_LAUNCH",
      `Expected the training run to end well but it ended with status ${record.exitCode}.`,
      record.lastLines,
    );
  }
  if (record.medianStepSeconds !== null) return { measuredStepSeconds: record.medianStepSeconds };
  return { measuredStepSeconds: null, reason: "Too few steps to measure one after the warm-up." };
}

function summarise(context: Context, result: QuickstartResult): void {
  const { predictedStepSeconds: predicted, measuredStepSeconds: measured } = result;
  context.print("");
  context.print(`Predicted  ${formatSeconds(predicted)} a step`);
  if (measured === null) context.print(`Measured   not yet: ${result.reason}`);
  else {
    const difference = (100 * (predicted / measured - 1)).toFixed(1);
    context.print(`Measured   ${formatSeconds(measured)} a step (prediction off by ${difference} %)`);
  }
  context.print(`\nOpen ${result.report} for the picture; the plan is ${result.plan}.`);
}

/** Makes a virtual environment in the current folder with what the example needs. */
async function installTorch(context: Context): Promise<void> {
  const run = promisify(execFile);
  context.print("Installing PyTorch into .venv (about 1 GB) ...");
  try {
    await run("python3", ["-m", "venv", ".venv"], { signal: context.signal });
    await run(join(".venv", "bin", "pip"), ["install", "--quiet", "torch", "numpy"], {
      signal: context.signal,
      maxBuffer: 64e6,
    });
  } catch (error) {
    context.signal.throwIfAborted();
    throw new MpoptError("E_MISSING_TOOL", "Expected to install PyTorch into .venv but pip failed.", [
      String((error as { stderr?: string }).stderr ?? error).trim(),
    ]);
  }
}
