#!/usr/bin/env node
// Ours against Piper on its BERT-32 input, each solve in a process of its own:
//   node bench/inter/piper.mjs [-o RESULTS.json] [--only DEVICES]   (after `npm run build`)
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { cpus } from "node:os";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { writeFileAtomic } from "../../dist/contracts/index.js";
import { readPiper } from "../../dist/models/piper.js";
import { solvePiper } from "../../dist/search/inter/piper.js";
import { evaluatePiper } from "../../dist/search/inter/piperEvaluate.js";

const { values } = parseArgs({
  options: {
    output: { type: "string", short: "o" },
    only: { type: "string" },
    one: { type: "string" },
  },
});
const data = (name) => fileURLToPath(new URL(`../../test/data/piper/${name}`, import.meta.url));

if (values.one !== undefined) {
  const { devices, memoryGiB, variant } = JSON.parse(values.one);
  const options = {
    devices,
    memoryBytes: memoryGiB * 2 ** 30,
    batch: 1920,
    bytesPerSecond: 25 * 2 ** 30,
    allowData: variant !== "no DP",
    allowTensor: variant !== "no TP",
    allowRecompute: variant !== "no recompute",
  };
  const before = process.cpuUsage();
  const graph = readPiper(data("bert32a100.json"));
  const solution = solvePiper(graph, options);
  const used = process.cpuUsage(before);
  const feasible = solution.status !== "infeasible";
  const stages = solution.stages.map(({ nodes, replicas, tensor, recomputed }) => {
    return `${nodes.length}:${replicas}:${tensor}:${recomputed.length}`;
  });
  console.log(
    JSON.stringify({
      status: solution.status,
      tps: feasible ? solution.objective : null,
      bound: feasible ? solution.bound : null,
      evaluated: feasible ? evaluatePiper(graph, solution, options) : null,
      reason: solution.reason,
      // Reading the file included.
      cpuSeconds: (used.user + used.system) / 1e6,
      plan: stages.join(" "),
    }),
  );
} else {
  const published = JSON.parse(readFileSync(data("published.json"), "utf8"));
  // Beyond what Piper was run on.
  const larger = [1024, 2048].flatMap((devices) =>
    ["full", "no DP", "no TP", "no recompute"].flatMap((variant) =>
      [1, 2, 8, 80].map((memoryGiB) => ({ devices, memoryGiB, variant })),
    ),
  );
  const rows = [];
  console.log("  k     GiB  variant       ours TPS       Piper TPS      ours/Piper   CPU s  Piper CPU s");
  for (const row of [...published, ...larger]) {
    if (values.only !== undefined && row.devices !== Number(values.only)) continue;
    const { devices, memoryGiB, variant, tps: theirs, cpuSeconds: theirSeconds } = row;
    const script = fileURLToPath(import.meta.url);
    const answer = execFileSync(process.execPath, [script, "--one", JSON.stringify(row)], {
      encoding: "utf8",
    });
    const ours = JSON.parse(answer);
    const better =
      theirs === undefined ? undefined : theirs === null ? ours.tps !== null : ours.tps < theirs * (1 - 1e-9);
    const atMost = theirs === undefined || theirs === null || ours.tps <= theirs * (1 + 1e-9);
    const { plan, ...figures } = ours;
    rows.push({
      devices,
      memoryGiB,
      variant,
      piper: theirs === undefined ? undefined : { tps: theirs, cpuSeconds: theirSeconds },
      ours: { ...figures, plan },
      atMost,
      better,
    });
    const seconds = (value) => (value === undefined ? "not run" : (value?.toPrecision(12) ?? "OOM"));
    const ratio = theirs && ours.tps ? (ours.tps / theirs).toFixed(6) : "";
    console.log(
      [
        String(devices).padStart(5),
        String(memoryGiB).padStart(4),
        variant.padEnd(12),
        seconds(ours.tps).padStart(16),
        seconds(theirs).padStart(16),
        ratio.padStart(10),
        ours.cpuSeconds.toFixed(3).padStart(7),
        (theirSeconds?.toFixed(2) ?? "").padStart(7),
        ours.status,
        atMost ? "" : "WORSE",
      ].join("  "),
    );
  }
  const compared = rows.filter(({ piper }) => piper);
  const summary = {
    compared: compared.length,
    atMost: compared.filter(({ atMost }) => atMost).length,
    better: compared.filter(({ better }) => better).length,
    optimal: rows.filter(({ ours }) => ours.status === "optimal").length,
    infeasible: rows.filter(({ ours }) => ours.status === "infeasible").length,
  };
  console.log(JSON.stringify(summary));
  if (values.output !== undefined) {
    const machine = { cpu: cpus()[0].model.trim(), cores: cpus().length };
    const document = {
      date: new Date().toISOString().slice(0, 10),
      machine,
      versions: { node: process.version },
      note: "CPU seconds include reading the file, not the start of the process. Piper's were taken elsewhere: ideals and dynamic program, without reading.",
      summary,
      rows,
    };
    writeFileAtomic(values.output, `${JSON.stringify(document, null, 1)}\n`);
  }
}
