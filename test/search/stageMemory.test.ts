import { describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import type { Job } from "../../src/contracts/index.js";
import { type MemoryHabits, MemoryModel, plainHabits } from "../../src/cost/memory.js";
import { transformerModel } from "../../src/models/transformer.js";
import { type Configuration, singleDevice } from "../../src/search/configuration.js";
import { costModels } from "../../src/search/joint.js";
import { LayerChains } from "../../src/search/layerChains.js";
import { StageCosts } from "../../src/search/stageCosts.js";
import { shardedHabits } from "../../src/validate/habits.js";

const [hidden, ffn, sequence, vocabulary, layers] = [4096, 14_336, 8192, 128_256, 32];
const model = transformerModel(
  {
    name: "llama-3.1-8b",
    layers,
    hidden,
    ffn,
    heads: 32,
    keyValueHeads: 8,
    vocabulary,
    sequence,
    gated: true,
    activation: "silu",
    norm: "rms_norm",
    positions: "rotary",
    tiedEmbeddings: false,
    biases: false,
  },
  { loss: "inPlace" },
);

const job: Job = {
  schema: "mpopt.job/1",
  globalBatch: 8,
  sequence,
  dtypes: { parameters: "bf16", gradients: "f32", optimizer: "f32" },
  optimizer: "adam",
  runtime: "megatron",
  pins: {},
  objective: "time",
  limits: { memoryFraction: 1, searchSeconds: 10 },
};
const cluster = clusterPreset("h100-sxm:8x4");
const torchtitanHabits = { ...shardedHabits, keeps: "products" } as const;
const fused = { ...plainHabits, fusedWeightGradients: true };

async function costs(part: Partial<Configuration>, habits: MemoryHabits): Promise<StageCosts> {
  const memory = new MemoryModel(cluster, cluster.devices[0]!, job, habits);
  const models = { ...costModels(cluster, job), memory };
  const configuration = { ...singleDevice, microBatches: 8, ...part };
  const chain = await new LayerChains(model, models).chain(configuration);
  return new StageCosts(configuration, chain!, models);
}

/** Bytes of a token's hidden state over the micro-batch. */
const stream = 2 * sequence * hidden;

describe("memory inside a stage", () => {
  it.each([1, 2, 8])(
    "holds a stand-in for each shape of weight, over %i tensor-parallel ranks",
    async (tensor) => {
      const part = { tensor, sequenceParallel: tensor > 1 };
      const [with_, without] = [await costs(part, fused), await costs(part, plainHabits)];
      const heads = 4096 + 2 * 1024;
      const shapes = hidden * heads + hidden * 4096 + 2 * ffn * hidden + ffn * hidden;
      const standIns = [...with_.chain.blocks[0]!.standIns.values()];
      expect(standIns.reduce((sum, bytes) => sum + bytes, 0)).toBe((2 * shapes) / tensor);
      // Otherwise the gradient of the largest weight is whole beside its sum.
      expect(without.chain.blocks[0]!.standIns.size).toBe(0);
      expect(without.chain.blocks[0]!.workspace - with_.chain.blocks[0]!.workspace).toBe(
        (2 * 2 * ffn * hidden) / tensor,
      );
      // At the ends it is in any case.
      expect(with_.chain.head.at(-1)!.workspace).toBe(without.chain.head.at(-1)!.workspace);
      expect(with_.chain.head.at(-1)!.workspace).toBeGreaterThanOrEqual((2 * vocabulary * hidden) / tensor);
    },
  );

  it("keeps every second product and attention's output of a layer, and nothing else of the ends", async () => {
    const kept = await costs({ recomputeLayers: layers / 2 }, torchtitanHabits);
    // Input, query, value, attention and its f32 statistics of each head, gate; the last product's result is only added
    // to the residual stream.
    const each = stream * (1 + 1 + 1 / 4 + 1 + ffn / hidden) + 4 * 32 * sequence;
    expect(kept.chain.blocks[0]!.saved).toBe(each);
    expect(kept.chain.whole![0]!.saved).toBe(each);
    expect(kept.footprint(0, 0, layers).savedBytes).toBeCloseTo(layers * each + 2 * stream, -7);
    const plain = await costs({ recomputeLayers: layers / 2 }, plainHabits);
    expect(plain.chain.whole![0]!.saved).toBe(stream);
    expect((await costs({}, torchtitanHabits)).chain.blocks[0]!.saved).toBe(plain.chain.blocks[0]!.saved);
  });

  it("keeps attention's result twice where it is exchanged for the whole sequence of some heads", async () => {
    const part = { context: 4, tensor: 2, sequenceParallel: true };
    const saved = async (exchange: Configuration["contextExchange"], recompute: Configuration["recompute"]) =>
      (await costs({ ...part, contextExchange: exchange, recompute }, fused)).chain.blocks[0]!;
    const [ring, all] = [await saved("ring", "none"), await saved("all-to-all", "none")];
    // A quarter of the tokens with half of the heads, or all tokens with an eighth of them.
    expect(all.saved - ring.saved).toBe(stream / 4 / 2);
    const [whole, repeated] = [await saved("ring", "full"), await saved("all-to-all", "full")];
    expect(repeated.saved).toBe(whole.saved);
    expect(repeated.recomputed - whole.recomputed).toBe(stream / 4 / 2);
  });

  it("counts the fuller of two moments: the logits', or the recomputed layer's", async () => {
    const whole = await costs({ recompute: "full" }, plainHabits);
    const [block] = whole.chain.blocks;
    const head = whole.chain.head.at(-1)!;
    const foot = whole.footprint(0, 0, layers);
    const within = foot.logitsBytes + foot.workspaceBytes + foot.recomputedBytes;
    const moments = [head.logitsBytes + head.workspace, block!.recomputed + block!.workspace];
    expect(within).toBeCloseTo(Math.max(...moments), -3);
    // A first stage has no logits; its embedding goes backward after its blocks have given theirs back.
    const first = await costs({ recompute: "full", pipeline: 2 }, plainHabits);
    const stage = first.footprint(0, 0, layers / 2);
    expect(stage.logitsBytes).toBe(0);
    const embedding = first.chain.embedding[0]!;
    const own = block!.recomputed + block!.workspace;
    expect(stage.workspaceBytes + stage.recomputedBytes).toBeCloseTo(
      Math.max(own, embedding.workspace - stage.savedBytes),
      -3,
    );
  });

  it("is one number for searches and a sum of terms for reports", async () => {
    for (const habits of [plainHabits, fused, torchtitanHabits]) {
      for (const part of [
        { pipeline: 4 },
        { pipeline: 2, recompute: "full" },
        { data: 8, shards: 8, zero: 3 },
      ]) {
        const stages = await costs(part as Partial<Configuration>, habits);
        const { pipeline } = stages.configuration;
        for (let stage = 0; stage < pipeline; stage++) {
          const range = [(stage * layers) / pipeline, ((stage + 1) * layers) / pipeline] as const;
          const terms = stages.memory(stage, ...range);
          expect(stages.reservedBytes(stage, ...range) / stages.reserved(terms)).toBeCloseTo(1, 9);
        }
      }
    }
  });
});
