import { checkDocument, documentHash, noTerms, type Plan } from "../../src/contracts/index.js";
import { scheduleByName, simulate } from "../../src/schedule/index.js";

export interface SampleOptions {
  stages?: number;
  microBatches?: number;
  data?: number;
  tensor?: number;
  layers?: number;
  schedule?: string;
  modelName?: string;
  status?: "optimal" | "feasible";
}

const gib = 2 ** 30;

/**
 * A plan of the shape of Llama-3.1-405B on H100s, consistent in itself: the layers add up, the terms add up
 * to the step, the step is what the simulator says, and the memory follows from the micro-batches in flight.
 */
export function samplePlan(options: SampleOptions = {}): Plan {
  const { stages: p = 16, microBatches: m = 128, data = 16, tensor = 8, schedule = "1f1b" } = options;
  const layers = options.layers ?? Math.max(126, p);
  const modelName = options.modelName ?? "llama-3.1-405b";
  const devices = p * data * tensor;
  const sequence = 8192;
  const globalBatch = m * data;
  const limitBytes = 0.94 * 80e9;
  // Fewer devices train a smaller model, so that memory and utilisation stay plausible.
  const scale = Math.min(1, devices / 1024);

  // The head costs about one layer, so the outer stages hold fewer.
  const sizes = new Array<number>(p).fill(Math.floor(layers / p));
  for (let rest = layers - sizes[0]! * p, i = 1; rest > 0; rest--, i++) sizes[i % p]!++;
  const layerForward = (0.0968 * scale) / tensor;
  const layerBytes = {
    none: (3.36 * scale * gib) / tensor,
    selective: (2.16 * scale * gib) / tensor,
    full: (0.25 * scale * gib) / tensor,
  };
  const overhead = { none: 0, selective: 0.11, full: 1 };

  let start = 0;
  const stages: Plan["stages"] = [];
  const memory: Plan["estimate"]["memory"] = [];
  let recomputeOfSlowest = 0;
  let slowest = 0;
  for (let i = 0; i < p; i++) {
    const count = sizes[i]!;
    const head = i === p - 1;
    const embedding = i === 0;
    const inFlight = schedule === "gpipe" ? m : Math.min(p - i, m);
    const parameters = ((count * 3.19e9 * scale + (head || embedding ? 2.1e9 * scale : 0)) / tensor) * 2;
    const fixed = {
      parameters,
      gradients: parameters * 2,
      optimizer: (parameters * 6) / data,
      logits: head ? 2.9 * gib : 0,
      workspace: 0.75 * gib,
      context: 1.2 * gib,
    };
    const fixedBytes = Object.values(fixed).reduce((a, b) => a + b, 0);
    const fits = (kind: keyof typeof layerBytes) =>
      (fixedBytes + count * inFlight * layerBytes[kind]) * 1.03 <= limitBytes;
    const recompute = fits("none") ? "none" : fits("selective") ? "selective" : "full";
    const activations = count * inFlight * layerBytes[recompute] + (recompute === "full" ? 0.42 * gib : 0);
    const forwardSeconds = count * layerForward + (head ? 0.78 : embedding ? 0.03 : 0) * layerForward;
    const backwardSeconds = forwardSeconds * (2 + overhead[recompute]);
    if (forwardSeconds + backwardSeconds > slowest) {
      slowest = forwardSeconds + backwardSeconds;
      recomputeOfSlowest = forwardSeconds * overhead[recompute];
    }
    const allocatedBytes = fixedBytes + activations;
    stages.push({
      index: i,
      rank: i,
      chunk: 0,
      devices: Array.from({ length: data * tensor }, (_, d) => i * data * tensor + d),
      layers: { start, end: start + count },
      embedding,
      head,
      modules: [
        ...(embedding ? ["model.embed_tokens"] : []),
        ...Array.from({ length: count }, (_, l) => `model.layers.${start + l}`),
        ...(head ? ["model.norm", "lm_head"] : []),
      ],
      recompute,
      forwardSeconds,
      backwardSeconds,
    });
    memory.push({
      pipelineRank: i,
      devices: data * tensor,
      terms: { ...fixed, activations },
      allocatedBytes,
      reservedBytes: allocatedBytes * 1.03,
      limitBytes,
    });
    start += count;
  }

  const pipeline = simulate(scheduleByName(schedule, { ranks: p, microBatches: m }), {
    forwardSeconds: stages.map((stage) => stage.forwardSeconds),
    backwardSeconds: stages.map((stage) => stage.backwardSeconds),
  }).stepSeconds;
  const work = m * slowest;
  const terms = {
    ...noTerms,
    compute: 0.84 * (work - m * recomputeOfSlowest),
    recompute: m * recomputeOfSlowest,
    tensorCommunication: 0.14 * (work - m * recomputeOfSlowest),
    pipelineTransfer: 0.02 * (work - m * recomputeOfSlowest),
    bubble: pipeline - work,
    gradientSynchronisation: 0.31 * scale,
    optimizer: 0.042 * scale,
  };
  const stepSeconds = Object.values(terms).reduce((a, b) => a + b, 0);
  const tokensPerSecond = (globalBatch * sequence) / stepSeconds;
  const parameterCount = Math.round((405_853_388_800 * scale * layers) / 126);
  const mfu = (6 * parameterCount * tokensPerSecond) / (devices * 989e12);
  const status = options.status ?? "optimal";
  const bound = status === "optimal" ? stepSeconds : stepSeconds * 0.968;

  const plan: Plan = {
    schema: "mpopt.plan/1",
    name: `${modelName} on h100-sxm:8x${devices / 8}`,
    model: {
      name: modelName,
      source: `preset ${modelName}`,
      sha256: documentHash(modelName),
      parameterCount,
      blockLayers: layers,
    },
    cluster: {
      name: `h100-sxm:8x${devices / 8}`,
      source: "preset",
      sha256: documentHash("cluster"),
      deviceKind: "h100-sxm",
      deviceType: "cuda",
      devices,
      devicesPerNode: 8,
    },
    job: {
      schema: "mpopt.job/1",
      globalBatch,
      sequence,
      dtypes: { parameters: "bf16", gradients: "f32", optimizer: "f32" },
      optimizer: "adam",
      runtime: "portable",
      pins: {},
      objective: "time",
      limits: { memoryFraction: 0.94, searchSeconds: 60 },
    },
    mesh: { axes: ["pipeline", "data", "tensor"], sizes: [p, data, tensor], sequenceParallel: true },
    rankTable: Array.from({ length: devices }, (_, r) => [
      Math.floor(r / (data * tensor)),
      Math.floor(r / tensor) % data,
      r % tensor,
    ]),
    stages,
    operators: [
      ["attention.qkv", "model.layers.*.self_attn.{q,k,v}_proj", "Shard(1)", "Shard(0)", "Shard(2)"],
      ["attention.core", "model.layers.*.self_attn", "Shard(2)", "Shard(2)", "Shard(2)"],
      ["attention.output", "model.layers.*.self_attn.o_proj", "Shard(2)", "Shard(1)", "Partial"],
      ["mlp.gate_up", "model.layers.*.mlp.{gate,up}_proj", "Shard(1)", "Shard(0)", "Shard(2)"],
      ["mlp.down", "model.layers.*.mlp.down_proj", "Shard(2)", "Shard(1)", "Partial"],
      ["norm", "model.layers.*.input_layernorm", "Shard(1)", "Replicate", "Shard(1)"],
    ].map(([operator, module, x, w, y]) => ({
      block: "decoder",
      operator: operator!,
      modules: [module!],
      sharding: { tensor: { inputs: [x!, w!], outputs: [y!] } },
    })),
    schedule: { name: schedule, microBatches: m },
    batch: { global: globalBatch, micro: 1, sequence },
    optimizer: { name: "adam", zero: 1 },
    estimate: {
      stepSeconds,
      tokensPerSecond,
      mfu,
      hfu: mfu * (1 + recomputeOfSlowest / (slowest - recomputeOfSlowest)),
      provenance: "assumed",
      terms,
      memory,
    },
    certificate: {
      status,
      objective: stepSeconds,
      bound,
      gap: (stepSeconds - bound) / stepSeconds,
      seconds: 3.184,
      space:
        "data, tensor and pipeline degrees that divide the devices, micro-batches 1 to 8, ZeRO 0 and 1, recomputation per stage, uneven stages",
      candidates: 3120,
    },
    rejected: [
      {
        plan: "pipeline 8 × data 32 × tensor 8, micro-batch 1",
        reason: "stage 0 needs more memory than a device has",
        memoryBytes: 96.4e9,
      },
      {
        plan: "pipeline 16 × data 8 × tensor 16, micro-batch 1",
        reason: "slower: tensor parallelism leaves the node",
        stepSeconds: stepSeconds * 1.31,
        memoryBytes: 51.7e9,
      },
      {
        plan: "pipeline 32 × data 8 × tensor 8, micro-batch 1",
        reason: "slower: a larger bubble",
        stepSeconds: stepSeconds * 1.064,
        memoryBytes: 44.2e9,
      },
    ],
    provenance: {
      mpopt: "0.1.0",
      createdAt: "2026-11-22T09:30:00.000Z",
      seed: 0,
      job: documentHash("job"),
    },
    lossyFor: { torch: ["Uneven recomputation within a stage is rounded to whole layers."] },
  };
  return checkDocument("plan", plan, "sample plan");
}
