import { describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import { axisSize, type Job, type Plan } from "../../src/contracts/index.js";
import { lossyFor } from "../../src/launch/index.js";
import { loadModel } from "../../src/models/index.js";
import { createPlan } from "../../src/plan/index.js";
import { megatronFlags, parseLayout } from "./megatronFlags.js";

/** A plan that a search for Megatron-LM finds. */
async function found(
  model: string,
  cluster: string,
  job: Partial<Job> & { globalBatch: number },
): Promise<Plan> {
  return createPlan({
    model: loadModel(model),
    cluster: clusterPreset(cluster),
    job: { sequence: 4096, runtime: "megatron", ...job },
    lossyFor,
    plain: true,
  });
}

/** Expects flags that say what the plan says, and stages with all of its layers. */
function expectExpressed(plan: Plan): Map<string, string> {
  expect(plan.lossyFor.megatron).toBeUndefined();
  const flags = megatronFlags(plan);
  const number = (name: string, absent: number) => Number(flags.get(name) ?? absent);
  expect(number("--tensor-model-parallel-size", 1)).toBe(axisSize(plan, "tensor"));
  expect(number("--context-parallel-size", 1)).toBe(axisSize(plan, "context"));
  expect(number("--pipeline-model-parallel-size", 1)).toBe(axisSize(plan, "pipeline"));
  expect(number("--expert-model-parallel-size", 1)).toBe(plan.mesh.experts?.expert ?? 1);
  const layout = flags.get("--pipeline-model-parallel-layout");
  if (layout) {
    const layers = parseLayout(layout).map((stage) => stage.split("t").length - 1);
    expect(layers).toEqual(plan.stages.map((stage) => stage.layers.end - stage.layers.start));
  }
  return flags;
}

describe("plans that a search for Megatron-LM finds", () => {
  it("Llama 3.1 405B on 2,048 GPUs", async () => {
    const plan = await found("llama-3.1-405b", "h100-sxm:8x256", {
      globalBatch: 2048,
      sequence: 8192,
      pins: { tensor: 8, microBatch: 1, context: 2, pipeline: 16 },
    });
    const flags = expectExpressed(plan);
    expect(flags.get("--hidden-size")).toBe("16384");
    expect(flags.get("--num-query-groups")).toBe("8");
    expect(flags.get("--pipeline-model-parallel-layout")?.replace(/[^t]/g, "")).toHaveLength(126);
    expect(flags.has("--untie-embeddings-and-output-weights")).toBe(true);
  });

  it("DeepSeek-V3 with a further prediction on 256 GPUs", async () => {
    const plan = await found("deepseek-v3-mtp", "h100-sxm:8x32", {
      globalBatch: 512,
      pins: { tensor: 1, microBatch: 1, expert: 8 },
    });
    const flags = expectExpressed(plan);
    expect(flags.get("--num-experts")).toBe("256");
    expect(flags.get("--moe-layer-freq")).toBe("([0]*3+[1]*58)");
    expect(flags.get("--kv-lora-rank")).toBe("512");
    expect(flags.get("--mtp-num-layers")).toBe("1");
    expect(parseLayout(flags.get("--pipeline-model-parallel-layout")!).at(-1)).toMatch(/^t*mL$/);
  });

  it("Mixtral with sharding groups, layers by number, offload and all-to-all", async () => {
    const mixtral = (pins: Job["pins"]) =>
      found("mixtral-8x7b", "h100-sxm:8x4", { globalBatch: 128, pins: { microBatch: 1, ...pins } });
    const grouped = expectExpressed(await mixtral({ tensor: 2, expert: 4, zero: 1, shards: 8, pipeline: 1 }));
    expect(grouped.get("--num-distributed-optimizer-instances")).toBe("2");
    const numbered = expectExpressed(await mixtral({ recompute: "none", recomputeLayers: 2, tensor: 2 }));
    expect(numbered.get("--recompute-method")).toBe("block");
    expect(numbered.get("--recompute-num-layers")).toBe("2");
    const offloaded = expectExpressed(await mixtral({ offload: "optimizer", tensor: 1, zero: 1 }));
    expect(offloaded.has("--use-precision-aware-optimizer")).toBe(true);
    const exchanged = expectExpressed(
      await mixtral({ context: 4, contextExchange: "all-to-all", tensor: 1 }),
    );
    expect(exchanged.get("--cp-comm-type")).toBe("a2a");
  });
});
