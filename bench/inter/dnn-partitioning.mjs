#!/usr/bin/env node
// Ours against msr-fiddle/dnn-partitioning (NeurIPS'20), each solve in a process of its own; with a folder of
// its throughput-inputs, all of them too:
//   node bench/inter/dnn-partitioning.mjs [FOLDER] [-o RESULTS.json] [--seconds 60]   (after `npm run build`)
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { cpus, totalmem } from "node:os";
import { basename, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { serialize, writeFileAtomic } from "../../dist/contracts/index.js";
import { readDnnPartitioning } from "../../dist/models/dnnPartitioning.js";
import { solveDnnPartitioning } from "../../dist/search/inter/dnnPartitioning.js";
import { evaluateDnnPartitioning } from "../../dist/search/inter/dnnPartitioningEvaluate.js";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    output: { type: "string", short: "o" },
    one: { type: "string" },
    seconds: { type: "string", default: "60" },
  },
});

/**
 * What the peer's own programs reached on these files, in milliseconds and CPU seconds (wall seconds for its
 * integer program, run with HiGHS on two cores and a limit of 120 s at a gap of 1 %).
 */
const theirs = {
  bert24_training: {
    contiguous: [
      { mode: "dynamic program", load: 41.7458125, cpuSeconds: 0, proven: true },
      { mode: "linearised", load: 41.7458, cpuSeconds: 0 },
      { mode: "integer program, CBC", load: 41.966813, bound: 36.302, wallSeconds: 124 },
      { mode: "human expert", load: 49.4049 },
    ],
    free: [
      { mode: "integer program, HiGHS", load: 39.7895388794, bound: 39.4176772373, wallSeconds: 73.4 },
      { mode: "integer program, CBC", load: 40.027258, bound: 35.71, wallSeconds: 120.6 },
      { mode: "local search x10", load: 39.9432, cpuSeconds: 0.13 },
    ],
  },
  gnmt_training: {
    contiguous: [
      { mode: "dynamic program", load: 107.0044140625, cpuSeconds: 25.49, proven: true },
      { mode: "linearised", load: 107.004, cpuSeconds: 0.02 },
      { mode: "human expert", load: 137.154 },
    ],
    free: [],
  },
  "bert_l-3_inference": {
    contiguous: [
      { mode: "dynamic program", load: 27.9185676799, cpuSeconds: 0.88, proven: true },
      { mode: "linearised", load: 27.9186, cpuSeconds: 0.03 },
    ],
    free: [
      { mode: "integer program, HiGHS", load: 21.9083761057, bound: 21.9083761057, wallSeconds: 14.7 },
      { mode: "integer program, CBC", load: 21.908376, bound: 16.299375, wallSeconds: 30.5 },
    ],
  },
};

if (values.one !== undefined) {
  // One solve in a process of its own, so that CPU time is its own too; reading the file included.
  const { path, options } = JSON.parse(values.one);
  const before = process.cpuUsage();
  const started = performance.now();
  const graph = readDnnPartitioning(path);
  const solution = await solveDnnPartitioning(graph, options);
  const used = process.cpuUsage(before);
  console.log(
    JSON.stringify({
      nodes: graph.nodes.length,
      status: solution.status,
      load: solution.objective,
      bound: solution.bound,
      gap: solution.gap,
      evaluated: evaluateDnnPartitioning(graph, solution, options),
      searchCpuSeconds: solution.cpuSeconds,
      cpuSeconds: (used.user + used.system) / 1e6,
      wallSeconds: (performance.now() - started) / 1000,
      stages: solution.stages.map(({ nodes, devices, seconds }) => ({
        device: devices[0],
        nodes: nodes.length,
        milliseconds: seconds * 1000,
      })),
    }),
  );
} else {
  const data = fileURLToPath(new URL("../../test/data/dnn-partitioning", import.meta.url));
  const folders = [positionals[0], positionals[0] && join(positionals[0], "LayerGraphs")].concat(
    positionals[0] && join(positionals[0], "OperatorGraphs"),
  );
  const files = Object.keys(theirs).map((name) => join(data, `${name}.json`));
  for (const folder of folders) {
    if (folder === undefined || !existsSync(folder)) continue;
    for (const file of readdirSync(folder).sort()) {
      const known = basename(file, ".json") in theirs;
      if (file.endsWith(".json") && !known) files.push(resolve(folder, file));
    }
  }
  const rows = [];
  const number = (value, digits, width) =>
    (value === undefined ? "-" : value.toFixed(digits)).padStart(width);
  for (const path of files) {
    const name = basename(path, ".json");
    for (const mode of ["contiguous", "free"]) {
      // To the optimum, and where contiguity is free also to the peer's own gap.
      for (const gap of mode === "free" ? [0.01, 1e-6] : [1e-6]) {
        const options = { contiguous: mode === "contiguous", gap, timeLimitSeconds: Number(values.seconds) };
        const args = [fileURLToPath(import.meta.url), "--one", JSON.stringify({ path, options })];
        const ours = JSON.parse(execFileSync(process.execPath, args, { encoding: "utf8" }));
        rows.push({ input: name, mode, gapWanted: gap, ours, theirs: theirs[name]?.[mode] ?? [] });
        console.log(
          `${name.padEnd(20)} ${mode.padEnd(10)} ${"ours".padEnd(24)} ${number(ours.load, 6, 12)} ms ` +
            `${number(ours.cpuSeconds, 3, 8)} CPU s  gap ${(100 * ours.gap).toFixed(4)} % (${ours.status})`,
        );
      }
      for (const { mode: how, load, bound, cpuSeconds, wallSeconds, proven } of theirs[name]?.[mode] ?? []) {
        const gap = proven ? "0" : bound === undefined ? "-" : ((100 * (load - bound)) / load).toFixed(4);
        const used = [
          cpuSeconds !== undefined && `${number(cpuSeconds, 2, 8)} CPU s`,
          wallSeconds !== undefined && `${number(wallSeconds, 1, 8)} wall s`,
        ];
        const seconds = (used.find(Boolean) || "").padEnd(15);
        console.log(`${"".padEnd(31)} ${how.padEnd(24)} ${number(load, 6, 12)} ms ${seconds} gap ${gap} %`);
      }
    }
  }
  const document = {
    date: new Date().toISOString().slice(0, 10),
    machine: { processor: cpus()[0].model, cores: cpus().length, memoryBytes: totalmem() },
    versions: { node: process.version },
    note: "CPU seconds are those of the process, from before the file is read, with all its threads; searchCpuSeconds those of the search alone.",
    rows,
  };
  if (values.output) writeFileAtomic(values.output, serialize(document));
}
