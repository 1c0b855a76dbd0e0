import { describe, expect, it } from "vitest";
import type { Plan } from "../../src/contracts/index.js";
import { megatron } from "../../src/launch/megatron.js";
import { makePlan, type PlanWishes } from "./planFactory.js";

const gpu: PlanWishes = { deviceType: "cuda", parameters: "bf16", sequence: 64 };
const mixture = { routed: 8, topK: 2, ffn: 64, shared: 0, sharedFfn: 0, denseLayers: 0 };
const split = { tensor: 2, sequenceParallel: true };

describe("what Megatron-LM has no flag for", () => {
  const cases: [string, PlanWishes, RegExp][] = [
    ["ZeRO-2", { data: 2, zero: 2 }, /ZeRO-2.* stop at ZeRO-1/],
    ["sharded parameters", { data: 2, zero: 3 }, /ZeRO-3.* stop at ZeRO-1/],
    ["layers whole beside selective", { recompute: "selective", recomputeLayers: 1 }, /one or the other/],
    ["offloaded activations", { offload: "activations" }, /Activations .* offloaded/],
    ["an offloaded replicated state", { data: 2, offload: "optimizer" }, /replicated optimizer state/],
    ["groups that do not divide", { data: 6, zero: 1, shards: 4 }, /groups of 4 .* the 6 ranks/],
    [
      "groups that do not divide experts' replicas",
      { data: 8, zero: 1, shards: 2, experts: { expert: 8, tensor: 1 }, architecture: { experts: mixture } },
      /1 ranks with equal experts .* 4 sharding groups/,
    ],
    [
      "experts that do not divide",
      { data: 3, experts: { expert: 3, tensor: 1 }, architecture: { experts: mixture } },
      /8 experts do not divide over 3/,
    ],
    ["experts without any", { data: 2, experts: { expert: 2, tensor: 1 } }, /the model has none/],
    [
      "experts and split features of whole sequences",
      { tensor: 2, architecture: { experts: mixture } },
      /need sequence parallelism/,
    ],
    ["a ring with windows", { context: 2, architecture: { slidingWindow: 16 } }, /ring .* sliding windows/],
    [
      "too few key-value heads for all-to-all",
      { ...split, context: 2, contextExchange: "all-to-all" },
      /1 key-value heads .* 2 context-parallel/,
    ],
    [
      "a sequence that does not halve",
      { context: 4, sequence: 60 },
      /60 tokens do not divide into two pieces for each of 4/,
    ],
    [
      "sequence parallel pieces that do not divide",
      { tensor: 4, sequenceParallel: true, context: 2, sequence: 60 },
      /30 tokens do not divide over 4 tensor/,
    ],
    ["heads that do not divide", { tensor: 3 }, /4 attention heads do not divide over 3/],
    [
      "key-value heads that do not divide",
      { tensor: 3, architecture: { heads: 6, keyValueHeads: 2 } },
      /2 key-value heads neither/,
    ],
    ["positions by ALiBi", { architecture: { positions: "alibi" } }, /ALiBi/],
    ["pieces of the sequence", { architecture: { attentionChunk: 8 } }, /pieces of the sequence/],
    ["parallel branches", { architecture: { parallelResidual: true } }, /side by side/],
    ["a gate with gelu", { architecture: { activation: "gelu" } }, /An MLP with gelu and a gate/],
    ["ReLU", { architecture: { gated: false, activation: "relu" } }, /An MLP with relu has/],
    ["biases in MLPs alone", { architecture: { mlpBias: true } }, /Biases in MLPs/],
    [
      "a bias behind attention alone",
      { architecture: { attentionBias: true } },
      /bias of attention's output/,
    ],
    [
      "predictions with learned positions",
      { family: "gpt2", architecture: { nextTokenPredictions: 1 } },
      /predicts further tokens/,
    ],
    [
      "split experts with biases",
      { ...split, architecture: { experts: mixture, mlpBias: true, attentionBias: true } },
      /Experts with biases/,
    ],
    ["Gemma 3", { architecture: { family: "gemma3_text" } }, /Gemma 3/],
    ["GPT-OSS", { architecture: { family: "gpt_oss" } }, /GPT-OSS/],
    ["Llama 4", { architecture: { family: "llama4_text", attentionChunk: 8 } }, /Llama 4/],
    ["f8 gradients", { dtypes: { gradients: "fp8" } }, /Gradients are fp8/],
    ["a narrow optimizer", { dtypes: { optimizer: "bf16" } }, /optimizer's state is bf16/],
    ["unsummed gradients", { dtypes: { microBatchGradients: "bf16" } }, /beside their sums/],
    ["products scaled by row", { dtypes: { linear: "fp8", scaling: "row" } }, /scaled by row/],
    ["fp4 products", { dtypes: { linear: "fp4" } }, /Linear layers compute in fp4/],
  ];

  it.each(cases)("%s", (_title, wishes, reason) => {
    const lost = megatron.lossy(makePlan({ ...gpu, ...wishes }));
    expect(lost).toHaveLength(1);
    expect(lost[0]).toMatch(reason);
  });

  it("norms that the architecture does not name, and latent attention all-to-all", () => {
    const plan = makePlan({ ...gpu, ...split });
    const lost = (change: Partial<Plan>) => megatron.lossy({ ...plan, ...change });
    expect(lost({})).toEqual([]);
    const [embedding, norm, ...rest] = plan.operators;
    const module = "decoder.layers.*.post_mlp_layernorm";
    expect(lost({ operators: [...plan.operators, { ...norm!, modules: [module] }] })).toEqual([
      "Norms behind each branch have no flag in Megatron-LM.",
    ]);
    expect(lost({ operators: [{ ...norm!, block: "embedding", operator: "layer_norm" }, ...rest] })).toEqual([
      "A norm behind the embedding has no flag in Megatron-LM.",
    ]);
    const sharding = { tensor: { inputs: ["Shard(0)"], outputs: ["Shard(0)"] } };
    expect(lost({ operators: [{ ...embedding!, sharding }, ...rest] })[0]).toMatch(
      /as Megatron-LM splits it/,
    );
    expect(lost({ rankTable: [...plan.rankTable].reverse() })[0]).toMatch(/rank table/);
    const mesh = {
      ...plan.mesh,
      axes: ["tensor", "data", "pipeline"] as Plan["mesh"]["axes"],
      sizes: [2, 2, 1],
    };
    expect(lost({ mesh })[0]).toMatch(/ordered by tensor, data, pipeline/);
    const latent = { queryRank: 0, keyValueRank: 8, ropeHeadSize: 4, noRopeHeadSize: 4, valueHeadSize: 4 };
    const exchanged = {
      ...gpu,
      context: 2,
      contextExchange: "all-to-all" as const,
      architecture: { latent },
    };
    expect(megatron.lossy(makePlan(exchanged))).toEqual([
      "Latent attention is not exchanged all-to-all in Megatron-LM; a ring is.",
    ]);
    expect(megatron.lossy(makePlan({ ...exchanged, contextExchange: "ring" }))).toEqual([]);
  });
});
