// Plans well-known models on preset clusters and prints step time, proof, processor seconds and peak memory.
//   node bench/plan/run.mjs [-o bench/results/plan/DATE.json]
// Each case runs in a process of its own, start-up included. Build first: npm run build.
import { spawnSync } from "node:child_process";
import { cpus, totalmem } from "node:os";
import { fileURLToPath } from "node:url";
import { writeFileAtomic } from "../../dist/contracts/index.js";

const cases = [
  ["gpt2", "a100-40:8x1", 64, 1024],
  ["llama-3.1-8b", "h100-sxm:8x2", 128, 8192],
  ["llama-3.1-70b", "h100-sxm:8x16", 256, 8192],
  ["qwen2.5-72b", "h100-sxm:8x12", 384, 4096],
  ["mixtral-8x7b", "h100-sxm:8x8", 512, 4096],
  ["qwen3-30b-a3b", "h200-sxm:8x4", 512, 4096],
  ["deepseek-v3", "h100-sxm:8x256", 2048, 4096],
  ["llama-3.1-405b", "h100-sxm:8x256", 2048, 8192],
  ["llama-3.1-405b", "h100-sxm:8x2048", 2048, 8192],
  // More schedules than 1F1B are open to these runtimes.
  ...["megatron", "torch", "any"].flatMap((runtime) => [
    ["llama-3.1-8b", "h100-sxm:8x2", 128, 8192, runtime],
    ["llama-3.1-70b", "a100-80:8x4", 32, 8192, runtime],
    ["llama-3.1-405b", "h100-sxm:8x256", 2048, 8192, runtime],
  ]),
];

const self = fileURLToPath(import.meta.url);

async function one(model, cluster, globalBatch, sequence, runtime = "portable") {
  const { plan, loadModel, loadCluster } = await import("../../dist/index.js");
  const made = await plan({
    model: loadModel(model),
    cluster: loadCluster(cluster),
    job: { globalBatch: Number(globalBatch), sequence: Number(sequence), runtime },
  });
  const { user, system } = process.cpuUsage();
  return {
    model,
    cluster,
    globalBatch: Number(globalBatch),
    sequence: Number(sequence),
    runtime,
    schedule: made.schedule.name,
    degrees: Object.fromEntries(made.mesh.axes.map((axis, i) => [axis, made.mesh.sizes[i]])),
    stepSeconds: made.estimate.stepSeconds,
    mfu: made.estimate.mfu,
    status: made.certificate.status,
    gap: made.certificate.gap,
    candidates: made.certificate.candidates,
    searchSeconds: made.certificate.seconds,
    cpuSeconds: (user + system) / 1e6,
    peakBytes: process.resourceUsage().maxRSS * 1024,
  };
}

if (process.argv[2] === "--case") {
  console.log(JSON.stringify(await one(...process.argv.slice(3))));
} else {
  const results = [];
  console.log("model            cluster          runtime  schedule     step s    MFU   proof     CPU s   MB");
  for (const each of cases) {
    const started = performance.now();
    const done = spawnSync(process.execPath, [self, "--case", ...each.map(String)], { encoding: "utf8" });
    if (done.status !== 0) throw new Error(done.stderr);
    const row = { ...JSON.parse(done.stdout), wallSeconds: (performance.now() - started) / 1000 };
    results.push(row);
    console.log(
      [
        row.model.padEnd(16),
        row.cluster.padEnd(16),
        row.runtime.padEnd(8),
        row.schedule.padEnd(11),
        row.stepSeconds.toPrecision(4).padStart(7),
        `${(row.mfu * 100).toFixed(1)} %`.padStart(7),
        row.status.padEnd(9),
        row.cpuSeconds.toFixed(2).padStart(5),
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
