// Published plans: each has to be inside the space, and the plan that mpopt chooses for the same job at least as fast.
//   node bench/plan/published.mjs [-o bench/results/plan/published-DATE.json]
// Plans are those of table 2 of Brakel, Odyurt and Varbanescu (2024) whose degrees multiply to the devices, of Llama 3
// (2024, table 4) and of DeepSeek-V3 (2024, section 3.2). Clusters are presets; TPUs are stood in for by A100s. Build
// first: npm run build.
import { clusterPreset, loadModel, plan, transformerModel, writeFileAtomic } from "../../dist/index.js";

const megatron = {
  gated: false,
  activation: "gelu",
  norm: "layer_norm",
  positions: "learned",
  tiedEmbeddings: true,
  biases: true,
  vocabulary: 51_200,
};
const shoeybi = () =>
  transformerModel({
    ...megatron,
    name: "megatron-8.3b",
    layers: 72,
    hidden: 3072,
    ffn: 12_288,
    heads: 32,
    keyValueHeads: 32,
    sequence: 1024,
  });

const cases = [
  {
    name: "Shoeybi 2020, 8.3B",
    model: shoeybi,
    cluster: "v100-32:16x32",
    batch: 512,
    sequence: 1024,
    pins: { tensor: 8, pipeline: 1, data: 64 },
  },
  {
    name: "Narayanan 2021, 1T",
    model: "megatron-1t",
    cluster: "a100-80:8x384",
    batch: 3072,
    sequence: 2048,
    pins: { tensor: 8, pipeline: 64, data: 6 },
  },
  {
    name: "MT-NLG 2022, 530B",
    model: "mt-nlg-530b",
    cluster: "a100-80:8x420",
    batch: 1920,
    sequence: 2048,
    pins: { tensor: 8, pipeline: 35, data: 12 },
  },
  {
    name: "Korthikanti 2023, 1T",
    model: "megatron-1t",
    cluster: "a100-80:8x64",
    batch: 512,
    sequence: 2048,
    pins: { tensor: 8, pipeline: 64, data: 1 },
  },
  {
    name: "PaLM 2022, 540B",
    model: "palm-540b",
    cluster: "a100-80:12x512",
    batch: 2048,
    sequence: 2048,
    pins: { tensor: 12, pipeline: 1, data: 512 },
  },
  {
    name: "Llama 3 2024, 405B, 8 k tokens",
    model: "llama-3.1-405b",
    cluster: "h100-sxm:8x2048",
    batch: 2048,
    sequence: 8192,
    pins: { tensor: 8, pipeline: 16, context: 1, data: 128 },
  },
  {
    name: "Llama 3 2024, 405B, 128 k tokens",
    model: "llama-3.1-405b",
    cluster: "h100-sxm:8x2048",
    batch: 128,
    sequence: 131_072,
    pins: { tensor: 8, pipeline: 16, context: 16, data: 8 },
  },
  {
    name: "DeepSeek-V3 2024, 671B",
    model: "deepseek-v3",
    cluster: "h100-sxm:8x256",
    batch: 15_360,
    sequence: 4096,
    pins: { tensor: 1, pipeline: 16, context: 1, data: 128, expert: 64 },
  },
];

const results = [];
console.log("plan                               pinned s   free s  faster %  chosen");
for (const { name, model, cluster: reference, batch, sequence, pins } of cases) {
  const made = typeof model === "string" ? loadModel(model) : model();
  const cluster = clusterPreset(reference);
  const runtime = name.startsWith("PaLM") || name.startsWith("Shoeybi") ? "any" : "megatron";
  // Every layer whose state leaves no room may be recomputed or offloaded: the papers do not say what fits here.
  const job = (extra) => ({ globalBatch: batch, sequence, runtime, pins: extra });
  const before = process.cpuUsage();
  const pinned = await plan({ model: made, cluster, job: job(pins), plain: true });
  const free = await plan({ model: made, cluster, job: job({}), plain: true });
  const { user, system } = process.cpuUsage(before);
  const faster = (pinned.estimate.stepSeconds / free.estimate.stepSeconds - 1) * 100;
  const degrees = Object.fromEntries(free.mesh.axes.map((axis, i) => [axis, free.mesh.sizes[i]]));
  results.push({
    name,
    cluster: reference,
    globalBatch: batch,
    sequence,
    runtime,
    pins,
    pinnedStepSeconds: pinned.estimate.stepSeconds,
    stepSeconds: free.estimate.stepSeconds,
    fasterPercent: faster,
    chosen: {
      ...degrees,
      experts: free.mesh.experts,
      schedule: free.schedule.name,
      microBatch: free.batch.micro,
    },
    gap: free.certificate.gap,
    cpuSeconds: (user + system) / 1e6,
  });
  console.log(
    `${name.padEnd(34)} ${pinned.estimate.stepSeconds.toFixed(3).padStart(8)} ${free.estimate.stepSeconds.toFixed(3).padStart(8)} ${faster.toFixed(1).padStart(9)}  ${free.mesh.sizes.join("x")} ${free.schedule.name}`,
  );
}
const at = process.argv.indexOf("-o");
if (at > 0) {
  writeFileAtomic(
    process.argv[at + 1],
    `${JSON.stringify({ date: new Date().toISOString(), node: process.version, results }, null, 2)}\n`,
  );
}
if (results.some((each) => each.fasterPercent < -1e-6)) {
  console.error("A published plan is predicted faster than the chosen one.");
  process.exit(1);
}
