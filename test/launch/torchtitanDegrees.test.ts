import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import type { Plan, Recompute } from "../../src/contracts/index.js";
import { findPython } from "../../src/launch/index.js";
import { torchtitan } from "../../src/launch/torchtitan.js";
import { singleDevice } from "../../src/search/configuration.js";
import { groupsOf } from "../../src/search/groups.js";
import { makePlan, type PlanWishes } from "./planFactory.js";
import { type ReadModule, readModules } from "./torchtitanReader.js";

let python: string | undefined;
beforeAll(async () => {
  python = (await findPython())?.executable;
});

const power = (most: number) => fc.integer({ min: 0, max: most }).map((n) => 2 ** n);
const divisorsOf = (n: number) => Array.from({ length: n }, (_, i) => i + 1).filter((d) => n % d === 0);

const latent = { queryRank: 8, keyValueRank: 8, ropeHeadSize: 4, noRopeHeadSize: 4, valueHeadSize: 4 };
const named = {
  "1f1b": "1F1B",
  gpipe: "GPipe",
  interleaved: "Interleaved1F1B",
  "looped-bfs": "LoopedBFS",
  "interleaved-zb": "InterleavedZeroBubble",
  zbv: "ZBVZeroBubble",
  dualpipev: "DualPipeV",
} as const;

/** Plans at random, most of them ones that torchtitan runs. */
const wishes = fc
  .record({
    pipeline: fc.constantFrom(1, 1, 2, 3, 4),
    schedule: fc.constantFrom(...Object.keys(named), "zb-h1", "zb-h2"),
    chunks: fc.integer({ min: 2, max: 4 }),
    layers: fc.integer({ min: 1, max: 14 }),
    data: fc.constantFrom(1, 2, 3, 4, 6, 8),
    tensor: power(2),
    sequenceParallel: fc.boolean(),
    zero: fc.constantFrom(0, 1, 2, 3),
    shard: fc.nat(),
    rounds: fc.integer({ min: 1, max: 3 }),
    micro: fc.integer({ min: 1, max: 2 }),
    recompute: fc.constantFrom<Recompute>("none", "none", "full", "selective"),
    kind: fc.constantFrom("dense", "normed", "biased", "latent", "mixture", "tied"),
    expert: power(3),
    denseLayers: fc.integer({ min: 0, max: 2 }),
    shared: fc.integer({ min: 0, max: 1 }),
    f32: fc.boolean(),
  })
  .map((w): PlanWishes => {
    const { pipeline, data, tensor } = w;
    const schedule = pipeline === 1 ? "1f1b" : w.schedule;
    const loops = ["interleaved", "looped-bfs", "interleaved-zb"].includes(schedule);
    const shards = divisorsOf(data)[w.shard % divisorsOf(data).length]!;
    const expert = w.kind === "mixture" ? w.expert : 1;
    return {
      pipeline,
      schedule,
      ...(loops ? { chunks: w.chunks } : {}),
      layers: w.layers,
      data,
      tensor,
      sequenceParallel: tensor > 1 && w.sequenceParallel,
      sequence: 64,
      zero: w.zero,
      ...(w.zero > 0 && shards < data ? { shards } : {}),
      microBatches: pipeline === 1 ? w.rounds : 2 * pipeline * w.rounds,
      micro: w.micro,
      recompute: w.recompute,
      deviceType: "cuda",
      parameters: w.f32 ? "f32" : "bf16",
      devicesPerNode: 8,
      ...(expert > 1 ? { experts: { expert, tensor: 1 } } : {}),
      tied: w.kind === "tied",
      architecture: {
        heads: 8,
        keyValueHeads: w.kind === "latent" ? 8 : 4,
        headSize: 4,
        ...(w.kind === "normed" ? { family: "qwen3", queryKeyNorm: true } : {}),
        ...(w.kind === "biased" ? { family: "qwen2", attentionBias: true } : {}),
        ...(w.kind === "latent" ? { family: "deepseek_v3", latent } : {}),
        ...(w.kind === "mixture"
          ? {
              family: "mixtral",
              experts: {
                routed: 8,
                topK: 2,
                ffn: 32,
                shared: w.shared,
                sharedFfn: 32 * w.shared,
                denseLayers: w.denseLayers,
              },
            }
          : {}),
      },
    };
  });

/** The arguments of the only call of a name. */
function only(module: ReadModule, name: string): Record<string, unknown> {
  expect(module.calls[name]).toHaveLength(1);
  return module.calls[name]![0]!;
}

/** Ranks with equal coordinates on all axes but those named, of a mesh that counts its last axis fastest. */
function groups(sizes: readonly (readonly [string, number])[], wanted: readonly string[]): string[] {
  const world = sizes.reduce((product, [, size]) => product * size, 1);
  const found = new Map<string, number[]>();
  for (let rank = 0; rank < world; rank++) {
    let rest = rank;
    const others: number[] = [];
    for (const [name, size] of [...sizes].reverse()) {
      others.push(wanted.includes(name) ? -1 : rest % size);
      rest = Math.floor(rest / size);
    }
    found.set(others.join(), [...(found.get(others.join()) ?? []), rank]);
  }
  return [...found.values()].map(String).sort();
}

function strided(world: number, { size, stride }: { size: number; stride: number }): string[] {
  return Array.from({ length: world }, (_, rank) => rank)
    .filter((rank) => Math.floor(rank / stride) % size === 0)
    .map((first) => String(Array.from({ length: size }, (_, i) => first + i * stride)))
    .sort();
}

function expectDegrees(plan: Plan, module: ReadModule, wish: PlanWishes): void {
  const config = only(module, "ParallelismConfig") as Record<string, number>;
  const [pp, replicate, shard, cp, tp, ep] = [
    config.pipeline_parallel_degree!,
    config.data_parallel_replicate_degree!,
    config.data_parallel_shard_degree!,
    config.context_parallel_degree!,
    config.tensor_parallel_degree!,
    config.expert_parallel_degree!,
  ];
  const world = plan.rankTable.length;
  expect(pp * replicate * shard * cp * tp).toBe(world);
  expect(module.constants.WORLD_SIZE).toBe(world);
  // The dense mesh of ParallelDims.build_mesh, and the sparse one.
  const dense = [
    ["pp", pp],
    ["replicate", replicate],
    ["shard", shard],
    ["cp", cp],
    ["tp", tp],
  ] as const;
  const coordinates = plan.rankTable.map((_, rank) => {
    const at: number[] = [];
    let rest = rank;
    for (const [, size] of [...dense].reverse()) {
      at.unshift(rest % size);
      rest = Math.floor(rest / size);
    }
    return [at[0], at[1]! * shard + at[2]!, at[4]];
  });
  expect(coordinates).toEqual(plan.rankTable);
  const { data = 1, tensor = 1, pipeline = 1, experts, zero = 0 } = wish;
  const degrees = { data, tensor, pipeline, expert: experts?.expert ?? 1, zero: zero as 0 | 1 | 2 | 3 };
  const expertTensor = experts?.tensor ?? tensor;
  const planned = groupsOf({ ...singleDevice, ...degrees, expertTensor, shards: wish.shards ?? data });
  expect(strided(world, planned.shards)).toEqual(groups(dense, ["shard"]));
  expect(strided(world, planned.replicas)).toEqual(groups(dense, ["replicate"]));
  if (ep === 1) return;
  expect((shard * cp * tp) % ep).toBe(0);
  const sparse = [
    ["pp", pp],
    ["replicate", replicate],
    ["efsdp", (shard * cp * tp) / ep],
    ["ep", ep],
  ] as const;
  expect(strided(world, planned.expert)).toEqual(groups(sparse, ["ep"]));
  expect(strided(world, planned.expertShards)).toEqual(groups(sparse, ["efsdp"]));
  expect(strided(world, planned.expertReplicas)).toEqual(groups(sparse, ["replicate"]));
}

/** Every module of the model once, in stages that are those of the plan, on the ranks that the schedule puts them on. */
function expectStages(plan: Plan, module: ReadModule, csv: string | undefined): void {
  const config = only(module, "ParallelismConfig");
  const layers = plan.model.architecture!.layers;
  const built = /^\[layer\(index\) for index in range\((\d+)\)\]$/.exec(modelConfig(module).layers as string);
  expect(Number(built![1])).toBe(layers);
  if (plan.stages.length === 1) {
    expect(config.module_fqns_per_model_part).toBeUndefined();
    return;
  }
  const parts = config.module_fqns_per_model_part as string[][];
  const whole = Array.from({ length: layers }, (_, i) => `layers.${i}`);
  expect(parts.flat()).toEqual(["tok_embeddings", ...whole, "norm", "lm_head"]);
  for (const [index, { layers: held }] of plan.stages.entries()) {
    expect(parts[index]!.filter((name) => name.startsWith("layers.")).length).toBe(held.end - held.start);
  }
  // As `_get_pp_rank_to_stage_indices_mapping` of torchtitan/distributed/pipeline_parallel.py places them.
  const pp = config.pipeline_parallel_degree as number;
  const inV = ["ZBVZeroBubble", "DualPipeV"].includes(config.pipeline_parallel_schedule as string);
  expect(plan.stages.map(({ rank }) => rank)).toEqual(
    parts.map((_, k) => (inV && k >= pp ? 2 * pp - 1 - k : k % pp)),
  );
  if (csv === undefined) {
    expect(config.pipeline_parallel_schedule_csv).toBeUndefined();
    expect(config.pipeline_parallel_schedule).toBe(named[plan.schedule.name as keyof typeof named]);
  } else {
    expect(config.pipeline_parallel_schedule_csv).toContain('"schedule.csv"'.replaceAll('"', "'"));
    expectActions(csv, parts.length, config.num_pp_microbatches as number);
  }
}

/** Each stage runs each micro-batch forward once, and back once or in two halves. */
function expectActions(csv: string, stages: number, microBatches: number): void {
  const counts: Record<string, number> = {};
  for (const cell of csv.trimEnd().split(/[\n,]/)) {
    const [, stage, kind, microBatch] = /^(\d+)([FBIW])(\d+)$/.exec(cell)!;
    expect(Number(stage)).toBeLessThan(stages);
    expect(Number(microBatch)).toBeLessThan(microBatches);
    const key = `${stage} ${kind === "F" ? "F" : "B"} ${microBatch}`;
    counts[key] = (counts[key] ?? 0) + (kind === "I" || kind === "W" ? 0.5 : 1);
  }
  expect(Object.values(counts).every((count) => count === 1)).toBe(true);
  expect(Object.keys(counts)).toHaveLength(2 * stages * microBatches);
}

function modelConfig(module: ReadModule): Record<string, unknown> {
  const found = Object.keys(module.calls).filter((name) => /Model\.Config$/.test(name));
  expect(found).toHaveLength(1);
  return only(module, found[0]!);
}

function expectModel(plan: Plan, module: ReadModule): void {
  const architecture = plan.model.architecture!;
  const { hidden, vocabulary, heads, keyValueHeads, headSize, ffn, experts } = architecture;
  const config = modelConfig(module);
  expect([config.dim, config.vocab_size]).toEqual([hidden, vocabulary]);
  expect(config.enable_weight_tying ?? false).toBe(architecture.tiedEmbeddings);
  expect(only(module, "Embedding.Config").num_embeddings).toBe(vocabulary);
  expect(only(module, "Linear.Config").out_features).toBe(vocabulary);
  if (architecture.latent) {
    const attention = only(module, "make_mla_attention_config");
    expect(attention).toMatchObject({ dim: hidden, n_heads: heads, q_lora_rank: 8, kv_lora_rank: 8 });
    expect(attention).toMatchObject({ qk_nope_head_dim: 4, qk_rope_head_dim: 4, v_head_dim: 4 });
  } else {
    const attention = only(module, "make_gqa_config");
    expect(attention).toMatchObject({ dim: hidden, n_heads: heads, head_dim: headSize });
    expect(attention.n_kv_heads).toBe(keyValueHeads);
    expect(attention.qk_norm).toBe(architecture.queryKeyNorm ? `norm(${headSize})` : undefined);
    expect(module.assigned["config.qkv_linear.wqkv.bias"]).toBe(architecture.attentionBias || undefined);
  }
  const widths = (module.calls.make_ffn_config ?? []).map(({ hidden_dim }) => hidden_dim);
  if (!experts) {
    expect(widths).toEqual([ffn]);
    expect(module.calls.make_moe_config).toBeUndefined();
    return;
  }
  const dense = experts.denseLayers > 0 ? [ffn] : [];
  expect(widths).toEqual([...dense, ...(experts.shared > 0 ? [experts.sharedFfn] : [])]);
  expect(only(module, "make_moe_config").num_experts).toBe(experts.routed);
  expect(only(module, "make_router_config").top_k).toBe(experts.topK);
  expect(only(module, "make_routed_experts_config")).toMatchObject({ hidden_dim: experts.ffn, top_k: 2 });
  const sparse = module.assigned.sparse;
  expect(sparse).toBe(experts.denseLayers > 0 ? `index >= ${experts.denseLayers}` : undefined);
}

function expectRest(plan: Plan, module: ReadModule, wish: PlanWishes): void {
  const training = only(module, "TrainingConfig") as Record<string, number>;
  const config = only(module, "ParallelismConfig");
  const { sequence, global } = plan.batch;
  expect(training.max_context_length).toBe(sequence);
  expect(training.num_tokens_per_train_step).toBe(global * sequence);
  const pass =
    training.num_tokens_per_microbatch_per_dp_rank! *
    ((config.num_pp_microbatches as number | undefined) ?? 1) *
    (wish.data ?? 1);
  const passes = (global * sequence) / pass;
  expect(passes).toBe(plan.stages.length > 1 ? 1 : plan.schedule.microBatches);
  expect(training.disable_cuda_graphs).toBe(true);
  expect(training.mixed_precision_param).toBe(wish.parameters === "f32" ? "float32" : "bfloat16");
  expect(config.enable_sequence_parallel).toBe(plan.mesh.sequenceParallel);
  expect(config.fsdp_reshard_after_forward).toBe(wish.zero === 3 ? "always" : "never");
  const recomputed = only(module, "Trainer.Config").activation_checkpoint;
  expect(recomputed).toBe(wish.recompute === "full" ? "FullAC.Config()" : null);
}

describe("plans of every degree", () => {
  test("are refused, or come back from torchtitan's module", () => {
    const expressed: { plan: Plan; wish: PlanWishes; files: Record<string, string> }[] = [];
    let refused = 0;
    fc.assert(
      fc.property(wishes, (wish) => {
        let plan: Plan;
        try {
          plan = makePlan(wish);
        } catch {
          return; // The schedule does not exist for these counts.
        }
        const lost = torchtitan.lossy(plan);
        if (lost.length > 0) refused += 1;
        else expressed.push({ plan, wish, files: torchtitan.files(plan) });
        const stages = plan.stages.length;
        // What torchtitan would refuse or run otherwise, in the words of its own conditions.
        const { zero = 0, tied, recompute = "none", pipeline = 1, tensor = 1, experts } = wish;
        const wrong =
          recompute === "selective" ||
          (tied && stages > 1) ||
          stages > 3 * pipeline ||
          (pipeline > 1 && zero > 1 && wish.data! > 1) ||
          (recompute !== "none" && /zb|dualpipe/.test(wish.schedule!)) ||
          plan.stages.some(
            ({ layers, embedding, head }) => layers.end === layers.start && !embedding && !head,
          ) ||
          (experts !== undefined &&
            (zero === 0
              ? tensor !== experts.expert
              : ((wish.shards ?? wish.data!) * tensor) % experts.expert !== 0));
        if (wrong) expect(lost).not.toEqual([]);
      }),
      { numRuns: 3000, seed: 5 },
    );
    // The property says nothing about plans that are refused.
    expect(expressed.length).toBeGreaterThan(500);
    expect(refused).toBeGreaterThan(500);
    if (!python) return;
    const modules = readModules(
      expressed.map(({ files }) => files["mpopt_plan.py"]!),
      python,
    );
    for (const [i, { plan, wish, files }] of expressed.entries()) {
      const module = modules[i]!;
      expect(module.functions.at(-1)).toBe("plan");
      expectDegrees(plan, module, wish);
      expectStages(plan, module, files["schedule.csv"]);
      expectModel(plan, module);
      expectRest(plan, module, wish);
    }
  });
});
