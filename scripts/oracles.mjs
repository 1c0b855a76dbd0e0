#!/usr/bin/env node
// Plans four models for every launcher, exports them, and asks the launchers' own parsers, by scripts called NAME.py or
// NAME.mjs: node scripts/oracles.mjs FOLDER [--only NAME]. The table goes to stderr, JSON to stdout. Such a script takes
// the exported folder and exits 0 (accepted), 1 (refused) or 2 (it cannot run); its first line says why. MIRROR names the
// folder of the launchers' sources, MPOPT_PYTHON the Python with what the scripts need. Needs a build (npm run build).
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { clusterPreset, loadModel, plan } from "../dist/index.js";
import { exporters, exportPlan, findPython } from "../dist/launch/index.js";

/** Model, cluster, global batch and tokens of a sequence. */
const jobs = [
  ["llama-3.1-70b", "h100-sxm:8x16", 256, 8192],
  ["llama-3.1-405b", "h100-sxm:8x128", 1024, 8192],
  ["mixtral-8x7b", "h100-sxm:8x8", 256, 4096],
  ["qwen2.5-72b", "h100-sxm:8x12", 192, 4096],
];
const verdicts = ["accepted", "refused", "oracle cannot run"];
const oracleSeconds = 600;

/** Exit status and first line of a program; 2 where it does not end in time. */
function ask(program, args, variables) {
  return new Promise((resolve) => {
    const env = { ...process.env, ...variables };
    const child = spawn(program, args, { env, stdio: ["ignore", "pipe", "ignore"] });
    let text = "";
    const timer = setTimeout(() => child.kill("SIGKILL"), oracleSeconds * 1000);
    child.stdout.on("data", (piece) => {
      text += piece;
    });
    child.on("error", (error) => resolve({ status: 2, line: error.message }));
    child.on("close", (code) => {
      clearTimeout(timer);
      resolve({ status: code ?? 2, line: text.split("\n")[0] ?? "" });
    });
  });
}

/** The program and script that answers for a launcher; undefined where the folder has none. */
function oracleOf(folder, name, python) {
  for (const [program, ending] of [
    [python, "py"],
    [process.execPath, "mjs"],
  ]) {
    const script = join(folder, `${name}.${ending}`);
    if (existsSync(script)) return [program, script];
  }
  return undefined;
}

/** One launcher's answer to one job. */
async function judge(exporter, [program, script], [model, cluster, globalBatch, sequence]) {
  const row = { model, cluster, launcher: exporter.name, runtime: exporter.runtime };
  const folder = mkdtempSync(join(tmpdir(), "mpopt-oracle-"));
  try {
    const found = await plan({
      model: loadModel(model),
      cluster: clusterPreset(cluster),
      job: { globalBatch, sequence, runtime: exporter.runtime },
    });
    exportPlan(found, exporter.name, folder);
    // What a script cannot read from the folder.
    const tensor = found.mesh.sizes[found.mesh.axes.indexOf("tensor")] ?? 1;
    const variables = { WORLD_SIZE: String(found.cluster.devices), TENSOR: String(tensor) };
    const { status, line } = await ask(program, [script, folder], variables);
    return { ...row, verdict: verdicts[status] ?? verdicts[2], reason: line.replace(/^[a-z ]+: /, "") };
  } catch (error) {
    return { ...row, verdict: "not written", reason: error.message };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { only: { type: "string" } },
  });
  const [folder] = positionals;
  if (!folder || (values.only && !Object.hasOwn(exporters, values.only))) {
    const names = Object.keys(exporters).join("|");
    console.error(`Usage: MIRROR=... node scripts/oracles.mjs FOLDER [--only ${names}]`);
    return 2;
  }
  const python = (await findPython())?.executable ?? "python3";
  const rows = [];
  for (const exporter of Object.values(exporters)) {
    if (values.only && exporter.name !== values.only) continue;
    const oracle = oracleOf(folder, exporter.name, python);
    if (!oracle) {
      console.error(`${exporter.name.padEnd(16)} has no oracle in ${folder}`);
      continue;
    }
    for (const job of jobs) {
      const row = await judge(exporter, oracle, job);
      rows.push(row);
      console.error(
        `${row.launcher.padEnd(16)} ${row.model.padEnd(16)} ${row.verdict.padEnd(18)} ${row.reason.slice(0, 120)}`,
      );
    }
  }
  process.stdout.write(`${JSON.stringify(rows, null, 1)}\n`);
  return rows.every(({ verdict }) => verdict === "accepted") ? 0 : 1;
}

process.exitCode = await main();
