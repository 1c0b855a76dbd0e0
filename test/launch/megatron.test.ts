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
