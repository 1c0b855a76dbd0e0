import { spawnSync } from "node:child_process";
import { chmodSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Plan } from "../../src/contracts/index.js";
import { exportPlan } from "../../src/launch/index.js";
import { megatron } from "../../src/launch/megatron.js";
import { megatronFlags, parseLayout } from "./megatronFlags.js";
import { makePlan, type PlanWishes } from "./planFactory.js";

/** Runs a script with `torchrun` replaced by a recorder: the words that it would have got, and its environment. */
function recorded(
  script: string,
  env: NodeJS.ProcessEnv = {},
): { words: string[]; status: number | null; stderr: string } {
  const tools = mkdtempSync(join(tmpdir(), "mpopt-tools-"));
  const record = join(tools, "record");
  writeFileSync(join(tools, "torchrun"), `#!/usr/bin/env bash\nprintf '%s\\0' "$@" > '${record}'\n`);
  chmodSync(join(tools, "torchrun"), 0o755);
  const done = spawnSync("bash", [script], {
    env: { PATH: `${tools}:/usr/bin:/bin`, ...env },
    encoding: "utf8",
  });
  const text = done.status === 0 ? readFileSync(record, "utf8") : "";
  return { words: text.split("\0").slice(0, -1), status: done.status, stderr: done.stderr };
}

function flagsOf(words: string[]): Map<string, string> {
  const flags = new Map<string, string>();
  const start = words.findIndex((word) => word.endsWith(".py")) + 1;
  for (let i = start; i < words.length; i++) {
    const next = words[i + 1];
    const takesValue = next !== undefined && !next.startsWith("--");
    flags.set(words[i]!, takesValue ? next : "");
    if (takesValue) i++;
  }
  return flags;
}

function exported(plan: Plan): { script: string; folder: string } {
  const folder = mkdtempSync(join(tmpdir(), "mpopt-megatron-"));
  exportPlan(plan, "megatron", folder);
  return { script: join(folder, "train.sh"), folder };
}

const plans = fc
  .record({
    layersPerStage: fc.array(fc.integer({ min: 0, max: 4 }), { minLength: 1, maxLength: 6 }),
    data: fc.integer({ min: 1, max: 4 }),
    tensor: fc.constantFrom(1, 2, 4),
    microBatches: fc.integer({ min: 1, max: 8 }),
    micro: fc.integer({ min: 1, max: 4 }),
    recompute: fc.constantFrom("none", "selective", "full" as const),
    zero: fc.constantFrom(0, 1),
    sequenceParallel: fc.boolean(),
  })
  .filter(({ layersPerStage }) => layersPerStage.some((n) => n > 0))
  .map((wishes) =>
    makePlan({
      ...wishes,
      recompute: wishes.recompute as "none",
      sequenceParallel: wishes.sequenceParallel && wishes.tensor > 1,
      zero: wishes.data > 1 ? wishes.zero : 0,
      pipeline: wishes.layersPerStage.length,
      deviceType: "cuda",
      parameters: "bf16",
      devicesPerNode: wishes.layersPerStage.length * wishes.data * wishes.tensor,
    }),
  );

describe("the Megatron-LM exporter", () => {
  it("writes flags that an independent parser turns back into the plan, over random plans", () => {
    fc.assert(
      fc.property(plans, (plan) => {
        const { words } = recorded(exported(plan).script);
        const flags = flagsOf(words);
        const number = (name: string) => Number(flags.get(name));
        const [pipeline, data, tensor] = plan.mesh.sizes as [number, number, number];
        expect(number("--tensor-model-parallel-size")).toBe(tensor);
        expect(number("--pipeline-model-parallel-size")).toBe(pipeline);
        const nodes = Number(words[words.indexOf("--nnodes") + 1]);
        const perNode = Number(words[words.indexOf("--nproc-per-node") + 1]);
        expect(nodes * perNode).toBe(pipeline * data * tensor);
        const replicas = (nodes * perNode) / (pipeline * tensor);
        expect(replicas).toBe(data);
        expect(number("--global-batch-size") / (number("--micro-batch-size") * replicas)).toBe(
          plan.schedule.microBatches,
        );
        expect(flags.has("--sequence-parallel")).toBe(plan.mesh.sequenceParallel);
        expect(flags.has("--use-distributed-optimizer")).toBe(plan.optimizer.zero === 1);
        expect(flags.get("--recompute-granularity") ?? "none").toBe(plan.stages[0]!.recompute);
        if (pipeline === 1) {
          expect(flags.has("--pipeline-model-parallel-layout")).toBe(false);
          return;
        }
        const stages = parseLayout(flags.get("--pipeline-model-parallel-layout")!);
        expect(stages.map((stage) => stage.replace(/[^t]/g, "").length)).toEqual(
          plan.stages.map(({ layers }) => layers.end - layers.start),
        );
        expect(stages.join("").replace(/t/g, "")).toBe("EL");
        expect(stages[0]!.startsWith("E") && stages.at(-1)!.endsWith("L")).toBe(true);
        expect(number("--num-layers")).toBe(stages.join("").replace(/[^t]/g, "").length);
      }),
      { numRuns: 120, seed: 5 },
    );
  });

  it("refuses to start on another number of nodes", () => {
    const plan = makePlan({ data: 4, deviceType: "cuda", parameters: "bf16", devicesPerNode: 2 });
    const done = recorded(exported(plan).script, { NNODES: "1" });
    expect(done.status).toBe(2);
    expect(done.stderr).toMatch(/Expected 2 nodes of 2 devices for this plan but found NNODES=1/);
  });

  it("names what it cannot express", () => {
    expect(megatron.lossy(makePlan({ deviceType: "cpu", parameters: "f32" }))).toEqual([
      "The devices are processors, but Megatron-LM trains on GPUs.",
      "Parameters are f32, but these flags train in bf16 or f16.",
    ]);
    const uneven = makePlan({ pipeline: 2, deviceType: "cuda", parameters: "bf16" });
    uneven.stages[1]!.recompute = "full";
    expect(megatron.lossy(uneven)).toHaveLength(1);
    expect(() => exportPlan(uneven, "megatron", join(tmpdir(), "mpopt-never"))).toThrow(/recomputation/);
  });
});

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

describe("the flags of a model", () => {
  const flagsOfModel = (architecture: PlanWishes["architecture"], wishes: PlanWishes = {}) =>
    megatronFlags(makePlan({ ...gpu, ...wishes, architecture }));

  /** Value of a Python list expression of `+`, `*` and brackets. */
  function pythonList(text: string): number[] {
    let rest = text;
    const sum = (): number[] => {
      let list = product();
      while (rest[0] === "+") {
        rest = rest.slice(1);
        list = [...list, ...product()];
      }
      return list;
    };
    const product = (): number[] => {
      let list: number[];
      if (rest[0] === "(") {
        rest = rest.slice(1);
        list = sum();
        expect(rest[0]).toBe(")");
        rest = rest.slice(1);
      } else {
        const [all, items] = /^\[([\d,]*)\]/.exec(rest)!;
        rest = rest.slice(all.length);
        list = items!.split(",").map(Number);
      }
      const times = /^\*(\d+)/.exec(rest);
      if (!times) return list;
      rest = rest.slice(times[0].length);
      return Array.from({ length: Number(times[1]) }, () => list).flat();
    };
    const list = sum();
    expect(rest).toBe("");
    return list;
  }

  it("place experts in the layers that have some", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 40 }),
        fc.nat({ max: 6 }),
        fc.integer({ min: 1, max: 5 }),
        (layers, first, every) => {
          fc.pre(first < layers);
          const experts = { ...mixture, denseLayers: first, every };
          const found = flagsOfModel({ experts }, { layers }).get("--moe-layer-freq");
          const wanted = Array.from({ length: layers }, (_, i) =>
            i >= first && (i - first) % every === 0 ? 1 : 0,
          );
          if (found === undefined) expect(wanted).not.toContain(0);
          else expect(pythonList(found)).toEqual(wanted);
        },
      ),
    );
  });

  it("send tokens to experts as the plan was priced", () => {
    const plan = makePlan({ ...gpu, architecture: { experts: mixture } });
    const flags = (expertDispatch?: "all-to-all" | "fused") =>
      megatronFlags({ ...plan, job: { ...plan.job, expertDispatch } });
    for (const plain of [flags(), flags("all-to-all")]) {
      expect(plain.get("--moe-token-dispatcher-type")).toBe("alltoall");
      expect(plain.has("--moe-flex-dispatcher-backend")).toBe(false);
    }
    expect(flags("fused").get("--moe-token-dispatcher-type")).toBe("flex");
    expect(flags("fused").get("--moe-flex-dispatcher-backend")).toBe("deepep");
  });

  it("say windows, predictions, squared ReLU and routers", () => {
    const windows = flagsOfModel({ slidingWindow: 16, fullAttentionEvery: 6 });
    expect(windows.get("--window-size")).toBe("15,0");
    expect(windows.get("--window-attn-skip-freq")).toBe("6");
    expect([...flagsOfModel({ slidingWindow: 64 }).keys()].filter((name) => name.includes("window"))).toEqual(
      [],
    );
    expect(flagsOfModel({ nextTokenPredictions: 2 }).get("--mtp-num-layers")).toBe("2");
    const piped = flagsOfModel({ nextTokenPredictions: 1 }, { pipeline: 2 });
    expect(piped.get("--pipeline-model-parallel-layout")).toBe("Et|tmL");
    const squared = flagsOfModel({ gated: false, activation: "squared_relu", family: "nemotron" });
    expect(["--squared-relu", "--apply-layernorm-1p"].every((name) => squared.has(name))).toBe(true);
    expect(squared.has("--swiglu") || squared.has("--no-bias-gelu-fusion")).toBe(false);
    const relu = flagsOfModel({ gated: false, activation: "relu2", mlpBias: true, attentionBias: true });
    expect(relu.has("--no-bias-gelu-fusion")).toBe(true);
    const corrected = flagsOfModel({
      family: "deepseek_v3",
      experts: { ...mixture, shared: 1, sharedFfn: 64 },
    });
    expect(corrected.get("--moe-router-score-function")).toBe("sigmoid");
    expect(corrected.get("--moe-shared-expert-intermediate-size")).toBe("64");
    expect(flagsOfModel({ experts: { ...mixture, topK: 1 } }).has("--moe-router-pre-softmax")).toBe(true);
  });

  it("say how operands of fp8 products are scaled, and what experts take", () => {
    const plan = makePlan({ ...gpu, dtypes: { linear: "fp8" }, architecture: { experts: mixture } });
    const flags = (scaling: Plan["job"]["dtypes"]["scaling"], deviceKind = "h100-sxm") =>
      megatronFlags({
        ...plan,
        cluster: { ...plan.cluster, deviceKind },
        job: { ...plan.job, expertCapacity: 1.25, dtypes: { ...plan.job.dtypes, scaling } },
      });
    const recipe = (...args: Parameters<typeof flags>) => flags(...args).get("--fp8-recipe");
    expect([undefined, "delayed", "current", "block"].map((each) => recipe(each as "delayed"))).toEqual([
      "delayed",
      "delayed",
      "tensorwise",
      "blockwise",
    ]);
    expect([recipe("block", "b300"), recipe("block", "gb300")]).toEqual(["mxfp8", "mxfp8"]);
    expect(flags("delayed").get("--moe-expert-capacity-factor")).toBe("1.25");
    expect(flags("delayed").has("--moe-pad-expert-input-to-capacity")).toBe(true);
  });

  it("say in which type gradients are summed", () => {
    const types = (parameters: "bf16" | "f16", gradients: "f32" | "bf16" | "f16") => {
      const names = [...flagsOfModel({}, { parameters, dtypes: { gradients } }).keys()];
      return names.filter((name) => /^--(bf16|fp16|grad-reduce|accumulate)/.test(name));
    };
    expect(types("bf16", "f32")).toEqual(["--bf16"]);
    expect(types("bf16", "bf16")).toEqual(["--bf16", "--grad-reduce-in-bf16"]);
    expect(types("f16", "f32")).toEqual(["--fp16", "--accumulate-allreduce-grads-in-fp32"]);
    expect(types("f16", "f16")).toEqual(["--fp16"]);
  });
});
