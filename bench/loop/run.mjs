// The loop on this machine: profiles it, plans a small model in more than a dozen ways on CPU ranks of one core each,
// trains every plan several times in turn, and sets predicted and measured step times side by side.
//   node bench/loop/run.mjs [--model tiny-gpt] [--runs 5] [--steps 8] [--batch 16] [--seq 128] [--cluster FILE]
//     [-o bench/results/loop/DATE.json]
// Needs PyTorch (MPOPT_PYTHON, .venv or python3). Build first: npm run build.
import { mkdtempSync, rmSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { pythonFacts } from "../../dist/cli/python.js";
import {
  findPython,
  launch,
  loadCluster,
  loadModel,
  plan,
  profile,
  serialize,
  writeFileAtomic,
} from "../../dist/index.js";
import { nameOf, pinsOf, twoRanks } from "./cases.mjs";
import { median, scoreOf } from "./score.mjs";

const example = fileURLToPath(new URL("../../examples/train_gpt.py", import.meta.url));
const { values } = parseArgs({
  options: {
    model: { type: "string", default: "tiny-gpt" },
    runs: { type: "string", default: "5" },
    steps: { type: "string", default: "8" },
    batch: { type: "string", default: "16" },
    seq: { type: "string", default: "128" },
    cluster: { type: "string" },
    output: { type: "string", short: "o" },
  },
});
const runs = Number(values.runs);
const python = await findPython();
if (!python?.torch) {
  console.error("PyTorch is missing: name a Python that has it in MPOPT_PYTHON.");
  process.exit(2);
}
const onProgress = ({ message }) => process.stderr.write(`\r\x1b[K${message.slice(0, 100)}`);
const folder = mkdtempSync(join(tmpdir(), "mpopt-loop-"));
const record = {
  date: new Date().toISOString(),
  node: process.version,
  torch: python.torch,
  machine: { processor: cpus()[0].model, cores: cpus().length },
  model: values.model,
  job: { globalBatch: Number(values.batch), sequence: Number(values.seq) },
  rows: [],
};

try {
  const cluster = values.cluster ? loadCluster(values.cluster) : await measureMachine();
  const rows = await planAll(cluster);
  for (let run = 0; run < runs; run++) {
    for (const row of rows) {
      const step = await train(row);
      row.runs.push(step);
      console.log(
        `\r\x1b[K${run + 1}/${runs} ${row.name}: ${row.predictedSeconds.toFixed(3)} s predicted, ${step.toFixed(3)} s`,
      );
    }
  }
  for (const row of rows) {
    row.measuredSeconds = median(row.runs);
    record.rows.push({
      plan: row.name,
      predictedSeconds: row.predictedSeconds,
      measuredSeconds: row.measuredSeconds,
      runs: row.runs,
    });
  }
  record.score = scoreOf(record.rows);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
report();
if (values.output) writeFileAtomic(values.output, `${JSON.stringify(record, null, 1)}\n`);

async function measureMachine() {
  const facts = await pythonFacts();
  return profile({
    backend: "cpu",
    devices: 2,
    pythonSites: facts?.sites ?? [],
    blasLibrary: facts?.torchLibrary,
    torchPython: python.executable,
    onProgress,
  });
}

/** Every case planned with its pins, and what mpopt chooses by itself. */
async function planAll(cluster) {
  const rows = [];
  for (const wishes of [...twoRanks, undefined]) {
    const made = await plan({
      model: loadModel(values.model),
      cluster,
      job: {
        ...record.job,
        dtypes: { parameters: "f32", gradients: "f32", optimizer: "f32" },
        runtime: "torch",
        pins: wishes ? pinsOf(wishes) : {},
      },
      plain: true,
    });
    const path = join(folder, `plan-${rows.length}.json`);
    writeFileAtomic(path, serialize(made));
    rows.push({
      name: wishes
        ? nameOf(wishes)
        : `mpopt's choice: ${made.mesh.sizes.join(" x ")}, micro-batch ${made.batch.micro}, ${made.schedule.name}`,
      path,
      made,
      predictedSeconds: made.estimate.stepSeconds,
      runs: [],
    });
  }
  return rows;
}

async function train({ path, made, name }) {
  const done = await launch({
    plan: made,
    planPath: path,
    command: ["python", example, "--steps", values.steps],
    timeoutSeconds: 600,
    onProgress,
  });
  if (done.exitCode !== 0 || done.medianStepSeconds === null) {
    throw new Error(`${name} ended with status ${done.exitCode}: ${done.lastLines.join("\n")}`);
  }
  return done.medianStepSeconds;
}

function report() {
  const order = [...record.rows].sort((a, b) => a.measuredSeconds - b.measuredSeconds);
  for (const { plan: name, predictedSeconds, measuredSeconds } of order) {
    const error = (100 * (predictedSeconds / measuredSeconds - 1)).toFixed(1);
    console.log(
      `${predictedSeconds.toFixed(4)} s predicted  ${measuredSeconds.toFixed(4)} s measured  ${error.padStart(6)} %  ${name}`,
    );
  }
  const { meanAbsoluteError, kendallTau, regret } = record.score;
  console.log(
    `mean absolute error ${(100 * meanAbsoluteError).toFixed(1)} % (bar 12), Kendall's tau ${kendallTau.toFixed(2)} (bar 0.8), regret ${(100 * regret).toFixed(1)} % (bar 3)`,
  );
}
