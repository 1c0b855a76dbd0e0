import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { Plan, Recompute } from "../../src/contracts/index.js";
import { exportPlan } from "../../src/launch/index.js";
import { megatron } from "../../src/launch/megatron.js";
import { megatronBridge } from "../../src/launch/megatronBridge.js";
import { parseLayout } from "./megatronFlags.js";
import { makePlan, type PlanWishes } from "./planFactory.js";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "mpopt bridge "));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

/** Overrides by field; values in the part of Hydra's grammar that is used: null, numbers, booleans, strings, lists. */
function fieldsOf(text: string): Map<string, unknown> {
  const read = (value: string): unknown => {
    if (value === "null") return null;
    if (/^".*"$/.test(value)) return value.slice(1, -1);
    if (/^\[.*\]$/.test(value)) return value.slice(1, -1).split(",").map(read);
    if (value === "true" || value === "false") return value === "true";
    return Number.isNaN(Number(value)) ? value : Number(value);
  };
  const lines = text.trimEnd().split("\n");
  const fields = new Map(
    lines.map((line) => {
      const [, key, value] = /^([a-z_0-9]+(?:\.[a-z_0-9]+)*)=(.*)$/.exec(line)!;
      return [key!, read(value!)] as const;
    }),
  );
  expect(fields.size).toBe(lines.length); // Hydra takes the last of two, and says nothing.
  return fields;
}

const power = (most: number) => fc.integer({ min: 0, max: most }).map((n) => 2 ** n);
const divisorsOf = (n: number) => Array.from({ length: n }, (_, i) => i + 1).filter((d) => n % d === 0);

const wishes = fc
  .record({
    pipeline: fc.constantFrom(1, 2, 3, 4),
    chunks: fc.integer({ min: 1, max: 3 }),
    layers: fc.integer({ min: 4, max: 16 }),
    data: fc.constantFrom(1, 2, 3, 4, 6),
    context: power(2),
    tensor: power(2),
    exchange: fc.constantFrom("ring", "all-to-all" as const),
    zero: fc.constantFrom(0, 1),
    shard: fc.nat(),
    offload: fc.boolean(),
    recompute: fc.constantFrom<Recompute>("none", "selective", "full"),
    recomputeLayers: fc.constantFrom(0, 0, 1, 2),
    rounds: fc.integer({ min: 1, max: 3 }),
    micro: fc.integer({ min: 1, max: 2 }),
    mixture: fc.boolean(),
    expert: power(4),
    denseLayers: fc.integer({ min: 0, max: 2 }),
    every: fc.integer({ min: 1, max: 3 }),
    predictions: fc.integer({ min: 0, max: 1 }),
    fp8: fc.boolean(),
    window: fc.boolean(),
  })
  .map((w): PlanWishes => {
    const copies = w.data * w.context;
    const shards = divisorsOf(copies)[w.shard % divisorsOf(copies).length]!;
    const interleaved = w.pipeline > 1 && w.chunks > 1;
    return {
      deviceType: "cuda",
      parameters: "bf16",
      pipeline: w.pipeline,
      ...(interleaved ? { schedule: "interleaved", chunks: w.chunks } : {}),
      layers: w.layers,
      data: w.data,
      context: w.context,
      contextExchange: w.exchange,
      tensor: w.tensor,
      sequence: 64,
      sequenceParallel: w.tensor > 1,
      zero: w.zero,
      ...(w.zero === 1 && shards < copies ? { shards } : {}),
      ...(w.offload ? { offload: "optimizer" as const } : {}),
      recompute: w.recompute,
      recomputeLayers: w.recomputeLayers,
      microBatches: w.pipeline * w.rounds,
      micro: w.micro,
      dtypes: w.fp8 ? { linear: "fp8" } : {},
      ...(w.mixture ? { experts: { expert: w.expert, tensor: 1 } } : {}),
      architecture: {
        heads: 16,
        keyValueHeads: 16,
        headSize: 2,
        ...(w.predictions ? { nextTokenPredictions: w.predictions } : {}),
        ...(w.window ? { slidingWindow: 32 } : {}),
        ...(w.mixture
          ? {
              experts: {
                routed: 16,
                topK: 2,
                ffn: 64,
                shared: 0,
                sharedFfn: 0,
                denseLayers: w.denseLayers,
                ...(w.every > 1 ? { every: w.every } : {}),
              },
            }
          : {}),
      },
    };
  });

/** Expects fields that say what the plan says. */
function expectExpressed(plan: Plan, wish: PlanWishes, fields: ReadonlyMap<string, unknown>): void {
  const { tensor = 1, context = 1, pipeline = 1, data = 1, experts, micro, microBatches, zero } = wish;
  const [tp, cp, pp] = ["tensor_model", "context", "pipeline_model"].map(
    (name) => fields.get(`model.${name}_parallel_size`) as number,
  );
  expect([tp, cp, pp]).toEqual([tensor, context, pipeline]);
  expect(plan.rankTable.length % (tp! * cp! * pp!)).toBe(0);
  expect(plan.rankTable.length / (tp! * cp! * pp!)).toBe(data);
  expect(fields.get("model.expert_model_parallel_size")).toBe(experts?.expert ?? 1);
  expect(fields.get("model.sequence_parallel")).toBe(tensor > 1);
  expect(fields.get("train.micro_batch_size")).toBe(micro);
  expect(fields.get("train.global_batch_size")).toBe(micro! * microBatches! * data);
  expect(fields.get("dataset.seq_length")).toBe(plan.batch.sequence);
  if (context > 1) {
    expect(fields.get("model.cp_comm_type")).toBe(wish.contextExchange === "ring" ? "p2p" : "a2a");
  }
  const distributed = zero === 1 || wish.offload !== undefined;
  expect(fields.get("ddp.use_distributed_optimizer")).toBe(distributed);
  expect(fields.get("optimizer.use_distributed_optimizer")).toBe(distributed);
  const instances = fields.get("ddp.num_distributed_optimizer_instances") as number;
  expect((data * context) / instances).toBe(wish.shards ?? data * context);
  expect(fields.get("optimizer.optimizer_cpu_offload") ?? false).toBe(wish.offload !== undefined);
  expect(fields.get("mixed_precision")).toBe(
    wish.dtypes?.linear ? "bf16_with_fp8_delayed_scaling_mixed" : "bf16_mixed",
  );
  const layout = fields.get("model.pipeline_model_parallel_layout");
  const chunks = plan.stages.length / pipeline;
  expect(fields.get("model.virtual_pipeline_model_parallel_size")).toBe(chunks > 1 ? chunks : null);
  if (plan.stages.length === 1) expect(layout).toBeNull();
  else {
    const stages = parseLayout(layout as string);
    const predicted = "m".repeat(plan.model.architecture!.nextTokenPredictions ?? 0);
    expect(stages.join("").replace(/t/g, "")).toBe(`E${predicted}L`);
    expect(stages.map((stage) => stage.split("t").length - 1)).toEqual(
      plan.stages.map(({ layers }) => layers.end - layers.start),
    );
  }
  const { layers, hidden, experts: mixture } = plan.model.architecture!;
  expect(fields.get("model.num_layers")).toBe(layers);
  expect(fields.get("model.hidden_size")).toBe(hidden);
  if (!mixture) return;
  const frequency = fields.get("model.moe_layer_freq");
  const sparse = Array.from({ length: layers }, (_, i) =>
    i < mixture.denseLayers ? 0 : Number((i - mixture.denseLayers) % (mixture.every ?? 1) === 0),
  );
  expect(frequency === 1 ? sparse.map(() => 1) : frequency).toEqual(sparse);
}

test("random plans are refused with Megatron-LM's reasons, or come back from the overrides", () => {
  let expressed = 0;
  fc.assert(
    fc.property(wishes, (wish) => {
      const plan = makePlan(wish);
      const lost = megatronBridge.lossy(plan);
      expect(lost).toEqual(megatron.lossy(plan));
      if (lost.length > 0) return;
      expressed += 1;
      expectExpressed(plan, wish, fieldsOf(megatronBridge.files(plan)["overrides.txt"]!));
    }),
    { numRuns: 2000, seed: 3 },
  );
  expect(expressed).toBeGreaterThan(200);
});

const gpu: PlanWishes = { deviceType: "cuda", parameters: "bf16" };

test.each<[PlanWishes, RegExp]>([
  [{ dtypes: { gradients: "bf16" } }, /summed in bf16/],
  [{ parameters: "f16" }, /summed in f32/],
  [{ dtypes: { linear: "fp8", scaling: "current" } }, /first and last layers in bf16/],
  [
    {
      architecture: {
        latent: { queryRank: 8, keyValueRank: 8, ropeHeadSize: 4, noRopeHeadSize: 4, valueHeadSize: 4 },
      },
    },
    /Latent attention has no fields/,
  ],
])("%j has a flag and no field", (wish, reason) => {
  const plan = makePlan({ ...gpu, ...wish });
  expect(megatron.lossy(plan)).toEqual([]);
  expect(megatronBridge.lossy(plan).join()).toMatch(reason);
});

test("a known model takes its recipe and no dimensions", () => {
  const plan = makePlan({
    ...gpu,
    layers: 80,
    architecture: {
      hidden: 8192,
      heads: 64,
      keyValueHeads: 8,
      headSize: 128,
      ffn: 28672,
      vocabulary: 128256,
      maxSequence: 131072,
    },
  });
  const files = megatronBridge.files(plan);
  expect(files["train.sh"]).toContain("--recipe llama31_70b_pretrain_config ");
  const fields = fieldsOf(files["overrides.txt"]!);
  expect(fields.has("model.hidden_size")).toBe(false);
  expect(fields.get("comm_overlap")).toBeNull();
  plan.model.architecture!.maxSequence = 8192;
  expect(megatronBridge.files(plan)["train.sh"]).toContain("--recipe llama3_70b_pretrain_config ");
  plan.model.architecture!.ffn += 1;
  expect(megatronBridge.files(plan)["train.sh"]).toContain("--recipe vanilla_gpt_pretrain_config ");
});

test("train.sh hands its overrides on whole, whatever the names in the plan, and refuses other nodes", () => {
  const name = "a'; touch pwned; $(touch pwned)\n`touch pwned`";
  const plan = makePlan({ ...gpu, name, pipeline: 2, tensor: 2, sequenceParallel: true, devicesPerNode: 2 });
  plan.model.name = name;
  exportPlan(plan, "megatron-bridge", folder);
  const tools = join(folder, "tools");
  mkdirSync(tools);
  writeFileSync(join(tools, "torchrun"), '#!/bin/sh\nprintf "%s\\n" "$@"\n', { mode: 0o755 });
  const start = (environment: Record<string, string>) =>
    spawnSync("bash", [join(folder, "train.sh"), "optimizer.lr=1e-4"], {
      cwd: folder,
      env: { PATH: `${tools}:${process.env.PATH}`, ...environment },
      encoding: "utf8",
    });
  const words = start({ NODE_RANK: "1" }).stdout.trimEnd().split("\n");
  expect(words).toContain('model.pipeline_model_parallel_layout="Et|tL"');
  expect(words.slice(0, 4)).toEqual(["--nnodes", "2", "--nproc-per-node", "2"]);
  expect(words.at(-1)).toBe("optimizer.lr=1e-4");
  expect(existsSync(join(folder, "pwned"))).toBe(false);
  const refused = start({ NNODES: "1" });
  expect(refused.status).toBe(2);
  expect(refused.stderr).toContain("Expected 2 nodes of 2 devices");
});
