import { spawnSync } from "node:child_process";
import { chmodSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import type { Plan } from "../../src/contracts/index.js";
import { exportPlan } from "../../src/launch/index.js";
import { megatron, pipelineLayout } from "../../src/launch/megatron.js";
import { loadModel } from "../../src/models/index.js";
import { createPlan } from "../../src/plan/index.js";
import { makePlan } from "./planFactory.js";

/** Layout grammar of Megatron-LM, from its user guide: stages by `|`, `x*n` and `(xy)*n` repeat, commas are cosmetic. */
function parseLayout(layout: string): string[] {
  let text = layout.replaceAll(",", "");
  for (;;) {
    const next = text
      .replace(/\(([^()]*)\)\*(\d+)/, (_all, group: string, n: string) => group.repeat(Number(n)))
      .replace(/([EtmL|])\*(\d+)/, (_all, symbol: string, n: string) => symbol.repeat(Number(n)));
    if (next === text) break;
    text = next;
  }
  return text.split("|");
}

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

  it("gives Llama 3.1 405B on 2,048 GPUs a layout of 126 layers", async () => {
    const plan = await createPlan({
      model: loadModel("llama-3.1-405b"),
      cluster: clusterPreset("h100-sxm:8x256"),
      job: { globalBatch: 2048, sequence: 8192 },
    });
    expect(pipelineLayout(plan).replace(/[^t]/g, "").length).toBe(126);
    expect(plan.lossyFor).toEqual({});
    const flags = flagsOf(recorded(exported(plan).script).words);
    expect(flags.get("--hidden-size")).toBe("16384");
    expect(flags.get("--num-query-groups")).toBe("8");
    expect(flags.has("--untie-embeddings-and-output-weights")).toBe(true);
  });

  it("describes experts and latent attention", async () => {
    const plan = await createPlan({
      model: loadModel("deepseek-v3"),
      cluster: clusterPreset("h100-sxm:8x128"),
      job: { globalBatch: 1024, sequence: 4096 },
    });
    const flags = flagsOf(recorded(exported(plan).script).words);
    expect(flags.get("--num-experts")).toBe("256");
    expect(flags.get("--moe-layer-freq")).toBe("([0]*3+[1]*58)");
    expect(flags.get("--kv-lora-rank")).toBe("512");
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
