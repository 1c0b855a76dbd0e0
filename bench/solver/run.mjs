#!/usr/bin/env node
// Kernel against HiGHS on random chains and blocks, and on contest instances where a folder with them is
// given:  node bench/solver/run.mjs [FOLDER] [-o RESULTS.json]   (after `npm run build`)
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { cpus, totalmem } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { serialize, writeFileAtomic } from "../../dist/contracts/index.js";
import { randomOf } from "../../dist/search/inter/random.js";
import { readIopddl, solve } from "../../dist/solver/index.js";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { output: { type: "string", short: "o" }, one: { type: "string" } },
});

/** Nodes in a row, each alive for nine steps; blocks have residual edges over four nodes. */
function layered({ seed, nodes, strategies, residual, share }) {
  const random = randomOf(seed);
  const list = (length, below) => Array.from({ length }, () => random(below));
  const problem = { nodes: [], edges: [] };
  for (let v = 0; v < nodes; v++) {
    const usages = list(strategies, 1000);
    const costs = usages.map((usage) => 1000 - usage + random(300));
    problem.nodes.push({ costs, usages, interval: [v, v + 9] });
    const before = v === 0 ? [] : residual && v >= 4 && v % 4 === 0 ? [v - 1, v - 4] : [v - 1];
    for (const from of before) problem.edges.push({ from, to: v, costs: list(strategies ** 2, 800) });
  }
  if (share !== undefined) problem.usageLimit = Math.round(share * 9000);
  return problem;
}

const families = [];
for (const [nodes, strategies] of [
  [50, 8],
  [500, 8],
  [2000, 8],
]) {
  for (const residual of [false, true]) {
    for (const share of [undefined, 0.6]) {
      const name = `${residual ? "blocks" : "chain"} ${nodes} x ${strategies}${share ? ", memory" : ""}`;
      families.push({ name, seconds: 10, seed: 1, nodes, strategies, residual, share });
    }
  }
}
for (const letter of ["G", "A"]) {
  const path = join(positionals[0] ?? "", `asplos-2025-iopddl-${letter}.json.gz`);
  if (positionals[0] && existsSync(path)) families.push({ name: `contest ${letter}`, seconds: 60, path });
}

if (values.one !== undefined) {
  // One solve in a process of its own, so that CPU time is its own too.
  const { family, engine } = JSON.parse(values.one);
  const problem = family.path ? readIopddl(family.path) : layered(family);
  const before = process.cpuUsage();
  const solution = await solve(problem, { engine, seconds: family.seconds });
  const used = process.cpuUsage(before);
  const { status, objective, bound, gap, seconds } = solution;
  const cpuSeconds = (used.user + used.system) / 1e6;
  console.log(
    JSON.stringify({ status, objective, bound, gap, seconds, cpuSeconds, engine: solution.engine }),
  );
} else {
  const rows = [];
  for (const family of families) {
    for (const engine of family.path ? ["auto"] : ["kernel", "highs", "auto"]) {
      const { path: _path, ...shown } = family;
      const args = [fileURLToPath(import.meta.url), "--one", JSON.stringify({ family, engine })];
      let row;
      try {
        row = JSON.parse(execFileSync(process.execPath, args, { encoding: "utf8" }));
      } catch (error) {
        row = { status: "failed", reason: String(error.message).slice(0, 200) };
      }
      rows.push({ family: shown, asked: engine, ...row });
      const cells = [family.name.padEnd(26), engine.padEnd(7), row.status.padEnd(10)];
      if (row.cpuSeconds !== undefined) {
        cells.push(
          `${row.cpuSeconds.toFixed(2)} CPU s`.padStart(12),
          `${row.seconds.toFixed(2)} s`.padStart(9),
        );
        cells.push(String(row.objective).padStart(12), `gap ${row.gap?.toExponential(1) ?? "-"}`);
      }
      console.log(cells.join("  "));
    }
  }
  const version = (name) =>
    JSON.parse(readFileSync(new URL(`../../node_modules/${name}/package.json`, import.meta.url), "utf8"))
      .version;
  const document = {
    date: new Date().toISOString().slice(0, 10),
    machine: { cpu: cpus()[0].model, threads: cpus().length, memoryBytes: totalmem() },
    versions: { node: process.version, highs: version("highs") },
    note: "CPU seconds include the start of the worker and of the engine, and the compilation of its WASM.",
    rows,
  };
  if (values.output) writeFileAtomic(values.output, serialize(document));
}
