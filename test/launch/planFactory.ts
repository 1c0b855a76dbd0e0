import {
  type Architecture,
  type ContextExchange,
  checkDocument,
  noTerms,
  type Offload,
  type OperatorPlacement,
  type Plan,
  type Recompute,
  type Stage,
} from "../../src/contracts/index.js";
import { scheduleShape } from "../../src/schedule/index.js";

/** What a test wants of a plan; everything else follows. */
export interface PlanWishes {
  name?: string;
  family?: "gpt2" | "llama";
  pipeline?: number;
  data?: number;
  tensor?: number;
  /** Stages that each rank holds; the schedule's own number where it is omitted. */
  chunks?: number;
  /** Block layers of each stage, in the order of the forward pass; as even as possible where it is omitted. */
  layersPerStage?: number[];
  layers?: number;
  microBatches?: number;
  micro?: number;
  sequence?: number;
  recompute?: Recompute;
  /** Layers of each stage that are recomputed whole. */
  recomputeLayers?: number;
  zero?: number;
  /** Ranks of one sharding group; all with equal parameters where it is omitted. */
  shards?: number;
  offload?: Offload;
  context?: number;
  contextExchange?: ContextExchange;
  experts?: { expert: number; tensor: number };
  sequenceParallel?: boolean;
  tied?: boolean;
  vocabulary?: number;
  schedule?: string;
  /** The schedule's actions, as CSV rows. */
  actions?: string[];
  deviceType?: "cuda" | "rocm" | "cpu";
  devicesPerNode?: number;
  parameters?: "f32" | "bf16" | "f16";
  /** Types beside that of the parameters; f32 where they are omitted. */
  dtypes?: Partial<Plan["job"]["dtypes"]>;
  architecture?: Partial<Architecture>;
}

/** A small plan built by hand, with the placements of Megatron-style tensor parallelism. */
export function makePlan(wishes: PlanWishes = {}): Plan {
  const { family = "llama", pipeline = 1, data = 1, tensor = 1, microBatches = 4, micro = 2 } = wishes;
  const { sequence = 16, sequenceParallel = false, deviceType = "cpu", context = 1 } = wishes;
  const layers = wishes.layersPerStage?.reduce((sum, n) => sum + n, 0) ?? wishes.layers ?? 2;
  const world = pipeline * data * context * tensor;
  const architecture = makeArchitecture(family, layers, wishes);
  const mesh: Plan["mesh"] = {
    axes: context > 1 ? ["pipeline", "data", "context", "tensor"] : ["pipeline", "data", "tensor"],
    sizes: context > 1 ? [pipeline, data, context, tensor] : [pipeline, data, tensor],
    sequenceParallel,
    ...(context > 1 ? { contextExchange: wishes.contextExchange ?? "ring" } : {}),
    ...(wishes.experts ? { experts: wishes.experts } : {}),
  };
  let rankTable: number[][] = [[]];
  for (const size of mesh.sizes) {
    rankTable = rankTable.flatMap((row) => Array.from({ length: size }, (_, i) => [...row, i]));
  }
  const plan: Plan = {
    schema: "mpopt.plan/1",
    name: wishes.name ?? `${family}-p${pipeline}-d${data}-t${tensor}`,
    model: {
      name: family,
      source: "test",
      sha256: "0".repeat(64),
      parameterCount: countParameters(architecture),
      blockLayers: layers,
      architecture,
    },
    cluster: {
      name: "test",
      source: "test",
      sha256: "0".repeat(64),
      deviceKind: deviceType,
      deviceType,
      devices: world,
      devicesPerNode: wishes.devicesPerNode ?? world,
    },
    job: {
      schema: "mpopt.job/1",
      globalBatch: micro * microBatches * data,
      sequence,
      dtypes: {
        parameters: wishes.parameters ?? "f32",
        gradients: "f32",
        optimizer: "f32",
        ...wishes.dtypes,
      },
      optimizer: "adam",
      runtime: "portable",
      pins: {},
      objective: "time",
      limits: { memoryFraction: 0.94, searchSeconds: 60 },
    },
    mesh,
    rankTable,
    stages: makeStages(family, layers, rankTable, pipeline, wishes),
    operators: makeOperators(family, tensor, sequenceParallel),
    schedule: {
      name: wishes.schedule ?? "1f1b",
      microBatches,
      ...(wishes.actions ? { actions: wishes.actions } : {}),
    },
    batch: { global: micro * microBatches * data, micro, sequence },
    optimizer: {
      name: "adam",
      zero: wishes.zero ?? 0,
      ...(wishes.shards ? { shards: wishes.shards } : {}),
      ...(wishes.offload ? { offload: wishes.offload } : {}),
    },
    estimate: {
      stepSeconds: 0.05,
      tokensPerSecond: 1000,
      mfu: 0.1,
      hfu: 0.1,
      provenance: "assumed",
      terms: { ...noTerms, compute: 0.05 },
      memory: [],
    },
    certificate: {
      status: "feasible",
      objective: 0.05,
      bound: 0,
      gap: 1,
      seconds: 0,
      space: "built by hand",
      candidates: 0,
    },
    rejected: [],
    provenance: {
      mpopt: "0.0.0",
      createdAt: "2026-01-01T00:00:00Z",
      seed: 0,
      job: "0".repeat(64),
    },
    lossyFor: {},
  };
  return checkDocument("plan", plan, "test plan");
}

function makeArchitecture(family: "gpt2" | "llama", layers: number, wishes: PlanWishes): Architecture {
  const gpt2 = family === "gpt2";
  return {
    family,
    hidden: 32,
    ffn: gpt2 ? 128 : 64,
    layers,
    heads: 4,
    keyValueHeads: gpt2 ? 4 : 2,
    headSize: 8,
    vocabulary: wishes.vocabulary ?? 96,
    maxSequence: 64,
    gated: !gpt2,
    activation: gpt2 ? "gelu" : "silu",
    norm: gpt2 ? "layer_norm" : "rms_norm",
    normEpsilon: 1e-5,
    tiedEmbeddings: wishes.tied ?? gpt2,
    positions: gpt2 ? "learned" : "rotary",
    attentionBias: gpt2,
    mlpBias: gpt2,
    ...(gpt2 ? {} : { ropeTheta: 10000 }),
    ...wishes.architecture,
  };
}

function countParameters(a: Architecture): number {
  const attention = a.hidden * a.headSize * (2 * a.heads + 2 * a.keyValueHeads);
  const block = attention + (a.gated ? 3 : 2) * a.hidden * a.ffn + 2 * a.hidden;
  return a.layers * block + (a.tiedEmbeddings ? 1 : 2) * a.vocabulary * a.hidden + a.hidden;
}

function makeStages(
  family: "gpt2" | "llama",
  layers: number,
  rankTable: number[][],
  pipeline: number,
  wishes: PlanWishes,
): Stage[] {
  const [body, list, before, after] =
    family === "gpt2"
      ? ["transformer", "h", ["wte", "wpe"], ["ln_f"]]
      : ["model", "layers", ["embed_tokens"], ["norm"]];
  const ranks = rankOfStages(pipeline, wishes);
  const counts =
    wishes.layersPerStage ??
    ranks.map(
      (_, i) => Math.floor(((i + 1) * layers) / ranks.length) - Math.floor((i * layers) / ranks.length),
    );
  let start = 0;
  return counts.map((count, index): Stage => {
    const embedding = index === 0;
    const head = index === counts.length - 1;
    const blocks = Array.from({ length: count }, (_, i) => `${body}.${list}.${start + i}`);
    const stage: Stage = {
      index,
      rank: ranks[index]!,
      chunk: ranks.slice(0, index).filter((rank) => rank === ranks[index]).length,
      devices: rankTable.flatMap((row, rank) => (row[0] === ranks[index] ? [rank] : [])),
      layers: { start, end: start + count },
      embedding,
      head,
      modules: [
        ...(embedding ? before.map((name) => `${body}.${name}`) : []),
        ...blocks,
        ...(head ? [...after.map((name) => `${body}.${name}`), "lm_head"] : []),
      ],
      recompute: wishes.recompute ?? "none",
      ...(wishes.recomputeLayers ? { recomputeLayers: Math.min(wishes.recomputeLayers, count) } : {}),
      forwardSeconds: 0.001,
      backwardSeconds: 0.002,
    };
    start += count;
    return stage;
  });
}

/** Pipeline rank of every stage, as the schedule lays them out; by turns for a schedule made by hand. */
function rankOfStages(pipeline: number, { schedule = "1f1b", chunks }: PlanWishes): number[] {
  if (schedule === "searched") {
    return Array.from({ length: pipeline * (chunks ?? 1) }, (_, stage) => stage % pipeline);
  }
  const { placement, rankOfStage } = scheduleShape(schedule, pipeline, chunks);
  // The second half of a bidirectional schedule holds copies of the plan's stages.
  return placement === "bidirectional" ? rankOfStage.slice(0, pipeline) : rankOfStage;
}

function makeOperators(
  family: "gpt2" | "llama",
  tensor: number,
  sequenceParallel: boolean,
): OperatorPlacement[] {
  if (tensor === 1) return [];
  const residual = sequenceParallel ? "Shard(1)" : "Replicate";
  const entry = (
    block: string,
    operator: string,
    modules: string[],
    inputs: string[],
    outputs: string[],
  ): OperatorPlacement => ({ block, operator, modules, sharding: { tensor: { inputs, outputs } } });
  const column = (operator: string, modules: string[]) =>
    entry("block", operator, modules, ["Replicate", "Shard(0)"], ["Shard(2)"]);
  const row = (operator: string, modules: string[]) =>
    entry("block", operator, modules, ["Shard(2)", "Shard(1)"], ["Partial"]);
  const norm = (block: string, operator: string, modules: string[]) =>
    entry(block, operator, modules, [residual, "Replicate"], [residual]);
  const head = (vocabularyHead: string[]) =>
    entry("head", "logits", vocabularyHead, ["Replicate", "Shard(0)"], ["Shard(2)"]);
  if (family === "gpt2") {
    const block = "transformer.h.*";
    return [
      entry("embedding", "tokens", ["transformer.wte"], ["Replicate", "Shard(0)"], ["Partial"]),
      entry("embedding", "positions", ["transformer.wpe"], ["Replicate", "Replicate"], ["Replicate"]),
      norm("block", "norm_1", [`${block}.ln_1`]),
      column("qkv", [`${block}.attn.c_attn`]),
      entry("block", "attention", [`${block}.attn`], ["Shard(2)", "Shard(2)", "Shard(2)"], ["Shard(2)"]),
      row("projection", [`${block}.attn.c_proj`]),
      norm("block", "norm_2", [`${block}.ln_2`]),
      column("up", [`${block}.mlp.c_fc`]),
      row("down", [`${block}.mlp.c_proj`]),
      norm("head", "final_norm", ["transformer.ln_f"]),
      head(["lm_head"]),
    ];
  }
  const block = "model.layers.*";
  return [
    entry("embedding", "tokens", ["model.embed_tokens"], ["Replicate", "Shard(0)"], ["Partial"]),
    norm("block", "input_norm", [`${block}.input_layernorm`]),
    column(
      "qkv",
      ["q", "k", "v"].map((name) => `${block}.self_attn.${name}_proj`),
    ),
    entry("block", "attention", [`${block}.self_attn`], ["Shard(2)", "Shard(2)", "Shard(2)"], ["Shard(2)"]),
    row("projection", [`${block}.self_attn.o_proj`]),
    norm("block", "mlp_norm", [`${block}.post_attention_layernorm`]),
    column("gate", [`${block}.mlp.gate_proj`]),
    column("up", [`${block}.mlp.up_proj`]),
    row("down", [`${block}.mlp.down_proj`]),
    norm("head", "final_norm", ["model.norm"]),
    head(["lm_head"]),
  ];
}
