#!/usr/bin/env node
// Plans of the four PipeDream profiles against what PipeDream's own optimizer finds, in its cost model:
//   node bench/inter/pipedream.mjs [-o RESULTS.json] [--peer CHECKOUT --python PYTHON]      (after `npm run build`)
// Without --peer, its values and times are the recorded ones; with a checkout of msr-fiddle/pipedream and a Python
// that has numpy and graphviz, its optimizer runs here, in turns with ours.
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { cpus, totalmem } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { serialize, writeFileAtomic } from "../../dist/contracts/index.js";
import { readPipedream } from "../../dist/models/pipedream.js";
import { solvePipedream } from "../../dist/search/inter/pipedream.js";
import { checkPlacement, evaluatePipedream } from "../../dist/search/inter/pipedreamEvaluate.js";

const { values } = parseArgs({
  options: {
    output: { type: "string", short: "o" },
    peer: { type: "string" },
    python: { type: "string", default: "python3" },
    one: { type: "string" },
  },
});
const data = fileURLToPath(new URL("../../test/data/pipedream/", import.meta.url));
const published = JSON.parse(readFileSync(join(data, "published.json"), "utf8"));
const profile = (model) => join(data, `${model}.txt`);
const optionsOf = ({ setting, variant }) => ({
  ...published.settings[setting],
  ...published.variants[variant],
});

/** Prints the time per stage and its own processor time; the optimizer itself runs unchanged. */
const driver = `
import contextlib, io, runpy, sys, time
text = io.StringIO()
with contextlib.redirect_stdout(text):
    runpy.run_path("optimizer_graph_hierarchical.py", run_name="__main__")
line = [l for l in text.getvalue().splitlines() if l.startswith("Time per stage in pipeline:")][0]
print(line.split(":")[1], time.process_time())
`;

function runPeer({ model, setting, variant }) {
  const { machines, bandwidths } = published.settings[setting];
  const flags = {
    acr1: ["--activation_compression_ratio", "1"],
    mem16: ["--activation_compression_ratio", "1", "--use_memory_constraint", "-s", "16e9"],
    straight: ["--activation_compression_ratio", "1", "--straight_pipeline"],
    free: [],
  };
  const args = ["-f", profile(model), "-n", ...machines, "-b", ...bandwidths, ...flags[variant]].map(String);
  const output = execFileSync(values.python, ["-c", driver, ...args], {
    cwd: join(resolve(values.peer), "optimizer"),
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"],
  });
  const [seconds, cpuSeconds] = output.trim().split(/\s+/).map(Number);
  return { seconds, cpuSeconds };
}

if (values.one !== undefined) {
  // A process of its own: the first call pays for compiling the code, like a user's.
  const row = JSON.parse(values.one);
  const begun = process.cpuUsage();
  const graph = readPipedream(profile(row.model));
  const used = process.cpuUsage(begun);
  const solution = solvePipedream(graph, optionsOf(row));
  checkPlacement(graph, solution);
  const evaluated = evaluatePipedream(graph, solution, optionsOf(row));
  const warm = Array.from({ length: 9 }, () => solvePipedream(graph, optionsOf(row)).cpuSeconds);
  const { status, objective, bound, gap, cpuSeconds, stages, restriction } = solution;
  console.log(
    JSON.stringify({
      status,
      objective,
      bound,
      gap,
      restriction,
      evaluated,
      cpuSeconds,
      warmCpuSeconds: warm.sort((a, b) => a - b)[4],
      readCpuSeconds: (used.user + used.system) / 1e6,
      plan: stages.map(({ nodes, replicas }) => `${nodes.length}x${replicas}`).join(" "),
      memoryBytes: Math.max(...stages.map(({ memoryBytes }) => memoryBytes)),
    }),
  );
} else {
  const rows = [];
  const titles = ["setting", "variant", "ours", "theirs", "ratio", "our CPU s", "warm", "their s", "share"];
  console.log(["model".padEnd(9), ...titles.map((title) => title.padStart(12))].join(""));
  for (const row of published.rows) {
    const peer = values.peer ? runPeer(row) : { seconds: row.seconds, cpuSeconds: row.search[0] };
    const args = [fileURLToPath(import.meta.url), "--one", JSON.stringify(row)];
    const ours = JSON.parse(execFileSync(process.execPath, args, { encoding: "utf8" }));
    const clock = values.peer ? "cpython-cpu, same run" : row.search[1];
    const ratio = ours.objective / peer.seconds;
    const share = peer.cpuSeconds > 0 ? ours.cpuSeconds / peer.cpuSeconds : null;
    const { model, setting, variant, invalid = false } = row;
    rows.push({
      model,
      setting,
      variant,
      ours,
      theirs: {
        seconds: peer.seconds,
        recordedSeconds: row.seconds,
        searchSeconds: peer.cpuSeconds,
        clock,
        invalid,
      },
      ratio,
      share,
    });
    const cells = [
      setting,
      variant,
      ours.objective.toPrecision(7),
      peer.seconds.toPrecision(7),
      ratio.toFixed(4),
    ];
    cells.push(ours.cpuSeconds.toFixed(4), ours.warmCpuSeconds.toFixed(5), peer.cpuSeconds.toFixed(2));
    cells.push(share === null ? "-" : `${(share * 100).toFixed(2)} %`);
    console.log(
      [model.padEnd(9), ...cells.map((cell) => cell.padStart(12))].join("") + (invalid ? " †" : ""),
    );
  }
  const slack = 1e-9;
  const summary = {
    rows: rows.length,
    better: rows.filter(({ ratio }) => ratio < 1 - slack).length,
    equal: rows.filter(({ ratio }) => Math.abs(ratio - 1) <= slack).length,
    worse: rows.filter(({ ratio }) => ratio > 1 + slack).length,
    evaluatorDisagrees: rows.filter(({ ours }) => Math.abs(ours.evaluated / ours.objective - 1) > slack)
      .length,
    // Below this the peer's own time is too short to be measured.
    rowsOverTenthOfSecond: rows.filter(({ theirs }) => theirs.searchSeconds >= 0.1).length,
    within1PercentFirstCall: rows.filter(({ share, theirs }) => share <= 0.01 && theirs.searchSeconds >= 0.1)
      .length,
    within1PercentWarm: rows.filter(
      ({ ours, theirs }) => theirs.searchSeconds >= 0.1 && ours.warmCpuSeconds <= 0.01 * theirs.searchSeconds,
    ).length,
    ourCpuSeconds: rows.reduce((sum, { ours }) => sum + ours.cpuSeconds, 0),
    theirSeconds: rows.reduce((sum, { theirs }) => sum + theirs.searchSeconds, 0),
  };
  console.log(summary);
  const document = {
    date: new Date().toISOString().slice(0, 10),
    machine: { cpu: cpus()[0].model, threads: cpus().length, memoryBytes: totalmem() },
    versions: { node: process.version },
    note:
      "cpuSeconds is the first solve of a fresh process, with the compilation of the code; warmCpuSeconds the " +
      "median of nine more. † in the table, invalid here: the peer's plan does not place each node once.",
    summary,
    rows,
  };
  if (values.output) writeFileAtomic(values.output, serialize(document));
}
