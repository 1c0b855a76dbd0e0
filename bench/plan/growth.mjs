// How the search grows with devices, layers and space: processor seconds and peak memory of whole processes.
//   node bench/plan/growth.mjs [-o bench/results/plan/growth-DATE.json]
// The last case is the size of Calculon's (Isaev et al., SC'23), 530 billion parameters on 5,128 GPUs, which its
// exhaustive search takes about a minute for on its authors' machine; 5,120 here, as plans use all devices. Build first: npm run build.
import { spawnSync } from "node:child_process";
import { cpus, totalmem } from "node:os";
import { fileURLToPath } from "node:url";
import { clusterPreset, loadModel, plan, transformerModel, writeFileAtomic } from "../../dist/index.js";

const runtimes = ["portable", "megatron", "any"];
const growing = (what, list) =>
  list.flatMap((each) => runtimes.map((runtime) => ({ what, runtime, ...each })));

const cases = [
  ...growing(
    "devices",
    [8, 64, 512, 2048, 8192]
      .map((nodes) => ({
        model: "llama-3.1-405b",
        cluster: `h100-sxm:8x${Math.max(nodes, 64)}`,
        batch: 2048,
        sequence: 8192,
      }))
      .filter((each, i, all) => all.findIndex((other) => other.cluster === each.cluster) === i),
  ),
  ...growing("devices", [
    { model: "llama-3.1-405b", cluster: "h100-sxm:8x12800", batch: 12_800, sequence: 8192 },
  ]),
  ...growing(
    "layers",
    [32, 64, 128, 256].map((layers) => ({ layers, cluster: "h100-sxm:8x64", batch: 512, sequence: 4096 })),
  ),
  ...growing("mixture", [{ model: "deepseek-v3", cluster: "h100-sxm:8x256", batch: 4096, sequence: 4096 }]),
  ...growing("calculon", [{ model: "mt-nlg-530b", cluster: "a100-80:8x640", batch: 5120, sequence: 2048 }]),
];

function modelOf({ model, layers }) {
  if (model) return loadModel(model);
  return transformerModel({
    name: `llama-${layers}-layers`,
    layers,
    hidden: 8192,
    ffn: 28_672,
    heads: 64,
    keyValueHeads: 8,
    vocabulary: 128_256,
    sequence: 4096,
    gated: true,
    activation: "silu",
    norm: "rms_norm",
    positions: "rotary",
    tiedEmbeddings: false,
    biases: false,
  });
}

async function one(number) {
  const { runtime, cluster, batch, sequence, ...rest } = cases[number];
  const started = performance.now();
  const made = await plan({
    model: modelOf(rest),
    cluster: clusterPreset(cluster),
    job: { globalBatch: batch, sequence, runtime },
    plain: true,
  });
  const { user, system } = process.cpuUsage();
  return {
    ...cases[number],
    stepSeconds: made.estimate.stepSeconds,
    gap: made.certificate.gap,
    candidates: made.certificate.candidates,
    mesh: made.mesh.sizes,
    seconds: (performance.now() - started) / 1000,
    cpuSeconds: (user + system) / 1e6,
    peakBytes: process.resourceUsage().maxRSS * 1024,
  };
}

if (process.argv[2] === "--case") {
  console.log(JSON.stringify(await one(Number(process.argv[3]))));
} else {
  const self = fileURLToPath(import.meta.url);
  const results = [];
  console.log("what      model            cluster           runtime   step s    gap %  CPU s  wall s    MB");
  for (const number of cases.keys()) {
    const done = spawnSync(process.execPath, [self, "--case", String(number)], { encoding: "utf8" });
    if (done.status !== 0) throw new Error(done.stderr);
    const row = JSON.parse(done.stdout);
    results.push(row);
    console.log(
      [
        row.what.padEnd(9),
        (row.model ?? `${row.layers} layers`).padEnd(16),
        row.cluster.padEnd(17),
        row.runtime.padEnd(8),
        row.stepSeconds.toPrecision(4).padStart(7),
        (row.gap * 100).toFixed(1).padStart(8),
        row.cpuSeconds.toFixed(2).padStart(6),
        row.seconds.toFixed(2).padStart(7),
        (row.peakBytes / 1e6).toFixed(0).padStart(5),
      ].join(" "),
    );
  }
  const at = process.argv.indexOf("-o");
  if (at > 0) {
    const machine = { processor: cpus()[0].model, cores: cpus().length, memoryBytes: totalmem() };
    const record = { date: new Date().toISOString(), node: process.version, machine, results };
    writeFileAtomic(process.argv[at + 1], `${JSON.stringify(record, null, 1)}\n`);
  }
}
