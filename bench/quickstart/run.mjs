// Runs `mpopt quickstart` several times and records predicted and measured step time:
//   node bench/quickstart/run.mjs [RUNS] [-o bench/results/quickstart/DATE.json]     (after `npm run build`)
import { spawnSync } from "node:child_process";
import { mkdtempSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { writeFileAtomic } from "../../dist/contracts/index.js";

const main = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));
const count = Number(process.argv[2]) || 3;
const cases = [
  ["tiny-gpt", "--global-batch", "16", "--seq", "128"],
  ["mini-llama", "--global-batch", "8", "--seq", "256"],
];
const results = [];
for (const [model, ...options] of cases) {
  for (let run = 0; run < count; run++) {
    const folder = join(mkdtempSync(join(tmpdir(), "mpopt-quickstart-")), "out");
    const args = [main, "quickstart", "--json", "--quiet", "-o", folder, "--model", model, ...options];
    const done = spawnSync(process.execPath, args, { encoding: "utf8", maxBuffer: 64e6 });
    if (done.status !== 0) throw new Error(done.stdout + done.stderr);
    const { certificate, predictedStepSeconds, measuredStepSeconds, reason } = JSON.parse(done.stdout);
    const error = measuredStepSeconds ? predictedStepSeconds / measuredStepSeconds - 1 : null;
    const { status, gap } = certificate;
    results.push({ model, status, gap, predictedStepSeconds, measuredStepSeconds, error, reason });
    const percent = error === null ? reason : `${(100 * error).toFixed(1)} %`;
    console.log(
      `${model}: predicted ${predictedStepSeconds.toFixed(3)} s, measured ${measuredStepSeconds?.toFixed(3)} s, ${percent}`,
    );
  }
}
const at = process.argv.indexOf("-o");
if (at > 0) {
  const machine = { processor: cpus()[0].model, cores: cpus().length };
  const record = { date: new Date().toISOString(), node: process.version, machine, results };
  writeFileAtomic(process.argv[at + 1], `${JSON.stringify(record, null, 1)}\n`);
}
