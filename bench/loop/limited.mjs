// Four ranks behind limited links: each in a network namespace of its own, joined by a bridge, their cards limited by
// `tc tbf`. Plans are predicted from this machine's profile with the limit as the network's bandwidth, and measured.
//   sudo node bench/loop/limited.mjs [--rate 400] [--runs 3] [--steps 6] [-o bench/results/loop/limited-DATE.json]
// Rates are Mbit/s. Needs root, iproute2 and PyTorch. Build first: npm run build.
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { pythonFacts } from "../../dist/cli/python.js";
import { findPython, loadModel, plan, profile, serialize, writeFileAtomic } from "../../dist/index.js";
import { fourRanks, nameOf, pinsOf } from "./cases.mjs";
import { median, scoreOf } from "./score.mjs";

const { values } = parseArgs({
  options: {
    rate: { type: "string", default: "400" },
    model: { type: "string", default: "tiny-gpt" },
    runs: { type: "string", default: "3" },
    steps: { type: "string", default: "6" },
    batch: { type: "string", default: "16" },
    seq: { type: "string", default: "128" },
    output: { type: "string", short: "o" },
  },
});
const ranks = 4;
const megabits = Number(values.rate);
const main = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));
const example = fileURLToPath(new URL("../../examples/train_gpt.py", import.meta.url));
const prefix = `mpopt${process.pid % 1000}`;
const hosts = Array.from({ length: ranks }, (_, i) => ({
  space: `${prefix}-${i}`,
  outside: `${prefix}o${i}`,
  inside: `${prefix}i${i}`,
  address: `10.77.0.${i + 1}`,
}));
const python = await findPython();
if (!python?.torch || process.getuid() !== 0) {
  console.error("Expected root and a Python with PyTorch (MPOPT_PYTHON).");
  process.exit(2);
}

function ip(...words) {
  const done = spawnSync(words[0] === "tc" ? "tc" : "ip", words[0] === "tc" ? words.slice(1) : words, {
    encoding: "utf8",
  });
  if (done.status !== 0) throw new Error(`${words.join(" ")}: ${done.stderr}`);
}

function join4() {
  ip("link", "add", `${prefix}br`, "type", "bridge");
  ip("link", "set", `${prefix}br`, "up");
  for (const { space, outside, inside, address } of hosts) {
    ip("netns", "add", space);
    ip("link", "add", outside, "type", "veth", "peer", "name", inside);
    ip("link", "set", inside, "netns", space);
    ip("link", "set", outside, "master", `${prefix}br`);
    ip("link", "set", outside, "up");
    ip("netns", "exec", space, "ip", "addr", "add", `${address}/24`, "dev", inside);
    ip("netns", "exec", space, "ip", "link", "set", inside, "up");
    ip("netns", "exec", space, "ip", "link", "set", "lo", "up");
    const limit = ["root", "tbf", "rate", `${megabits}mbit`, "burst", "256kb", "latency", "50ms"];
    ip("netns", "exec", space, "tc", "qdisc", "add", "dev", inside, ...limit);
    ip("tc", "qdisc", "add", "dev", outside, ...limit);
  }
}

function part() {
  for (const { space, outside } of hosts) {
    spawnSync("ip", ["link", "del", outside]);
    spawnSync("ip", ["netns", "del", space]);
  }
  spawnSync("ip", ["link", "del", `${prefix}br`]);
}

/** The machine's profile with its ranks on hosts of their own. */
async function measureCluster() {
  const facts = await pythonFacts();
  const cluster = await profile({
    backend: "cpu",
    devices: ranks,
    pythonSites: facts?.sites ?? [],
    blasLibrary: facts?.torchLibrary,
    torchPython: python.executable,
    onProgress: ({ message }) => process.stderr.write(`\r\x1b[K${message.slice(0, 100)}`),
  });
  const [host] = cluster.topology.levels;
  const link = {
    latencySeconds: host.link.latencySeconds,
    points: [],
    bytesPerSecond: {
      value: (megabits * 1e6) / 8,
      provenance: "assumed",
      source: `limit of tc tbf, ${megabits} Mbit/s`,
    },
  };
  return {
    ...cluster,
    topology: {
      levels: [
        { name: "host", groupSize: 1, link },
        { name: "network", groupSize: ranks, link },
      ],
    },
  };
}

/** Median step of one launch over all hosts. */
async function train(path) {
  const one = ({ space, inside }, i) =>
    new Promise((done, fail) => {
      const words = [
        ...["netns", "exec", space, process.execPath, main, "launch", path, "--json", "--quiet"],
        ...["--node-rank", String(i), "--rendezvous", `${hosts[0].address}:29533`, "--timeout", "300"],
        ...["--", "python", example, "--steps", values.steps],
      ];
      const child = spawn("ip", words, {
        env: { ...process.env, GLOO_SOCKET_IFNAME: inside, TP_SOCKET_IFNAME: inside },
      });
      let text = "";
      child.stdout.on("data", (data) => {
        text += data;
      });
      child.once("exit", (code) =>
        code === 0 ? done(JSON.parse(text)) : fail(new Error(`host ${i}: ${text.slice(-1000)}`)),
      );
    });
  const records = await Promise.all(hosts.map(one));
  return records.map((record) => record.medianStepSeconds).find((seconds) => seconds !== null);
}

const folder = mkdtempSync(join(tmpdir(), "mpopt-limited-"));
const record = {
  date: new Date().toISOString(),
  node: process.version,
  torch: python.torch,
  machine: { processor: cpus()[0].model, cores: cpus().length },
  model: values.model,
  megabitsPerSecond: megabits,
  job: { globalBatch: Number(values.batch), sequence: Number(values.seq) },
  rows: [],
};
try {
  const cluster = await measureCluster();
  for (const [i, wishes] of fourRanks.entries()) {
    const made = await plan({
      model: loadModel(values.model),
      cluster,
      job: {
        ...record.job,
        dtypes: { parameters: "f32", gradients: "f32", optimizer: "f32" },
        runtime: "torch",
        pins: pinsOf(wishes),
      },
      plain: true,
    });
    const path = join(folder, `plan-${i}.json`);
    writeFileAtomic(path, serialize(made));
    record.rows.push({ plan: nameOf(wishes), predictedSeconds: made.estimate.stepSeconds, path, runs: [] });
  }
  join4();
  for (let run = 0; run < Number(values.runs); run++) {
    for (const row of record.rows) {
      row.runs.push(await train(row.path));
      console.log(
        `${run + 1}/${values.runs} ${row.plan}: ${row.predictedSeconds.toFixed(3)} s predicted, ${row.runs.at(-1).toFixed(3)} s`,
      );
    }
  }
} finally {
  part();
  rmSync(folder, { recursive: true, force: true });
}
for (const row of record.rows) {
  row.measuredSeconds = median(row.runs);
  delete row.path;
}
record.score = scoreOf(record.rows);
const { meanAbsoluteError, kendallTau } = record.score;
console.log(
  `Kendall's tau ${kendallTau.toFixed(2)} (bar 0.6), mean absolute error ${(100 * meanAbsoluteError).toFixed(1)} %`,
);
if (values.output) writeFileAtomic(values.output, `${JSON.stringify(record, null, 1)}\n`);
