import { describe, expect, it } from "vitest";
import { plainHabits } from "../../src/cost/memory.js";
import { runRecords } from "../../src/validate/columns.js";
import { parseCsv, readCsv } from "../../src/validate/csv.js";
import { deepSpeedBrain, deepSpeedHalf, shardedHabits } from "../../src/validate/habits.js";
import { cutLayers, runInputs } from "../../src/validate/row.js";
import type { RunInputs } from "../../src/validate/types.js";
import { measuredRuns, readRuns } from "../../src/validate/validate.js";

const table = readCsv(new URL("../data/validation/runs.csv", import.meta.url).pathname);
const { runs, unpredicted } = readRuns(table);
const run = (id: string) => runs.find((each) => each.id === id)!;

/** Inputs of one made-up row: 4 GPUs unless told. */
function made(columns: Record<string, string | number>, id = "X-1"): RunInputs | string {
  const all = {
    id,
    layers: 8,
    hidden: 512,
    heads: 8,
    seq: 1024,
    gpu: "H100-SXM-80GB",
    n_gpus: 4,
    tp: 1,
    pp: 1,
    global_batch: 16,
    ...columns,
  };
  const text = [Object.keys(all), Object.values(all)]
    .map((row) => row.map((cell) => `"${cell}"`).join(","))
    .join("\n");
  return runInputs(runRecords(parseCsv(text, "made.csv"))[0]!.fields);
}
const configured = (columns: Record<string, string | number>, id?: string) =>
  (made(columns, id) as RunInputs).configuration;

describe("a row of runs", () => {
  it("becomes model, cluster, job, configuration and schedule", () => {
    const { model, clusterReference, kind, job, configuration, schedule, software } = run("BLOOM-0085");
    expect(kind).toBe("BLOOM/A100-SXM-80GB");
    expect(clusterReference).toBe("a100-80:8x48");
    expect(model.architecture).toMatchObject({
      layers: 78,
      hidden: 13824,
      heads: 96,
      ffn: 55296,
      gated: false,
    });
    // 250,880 tokens are a multiple of 128 x 4 already.
    expect(model.architecture!.vocabulary).toBe(250_880);
    expect(software).toMatchObject({ attention: "materialized", dropout: true });
    expect(job).toMatchObject({
      globalBatch: 2048,
      sequence: 2048,
      dtypes: { parameters: "f16", gradients: "f16" },
    });
    expect(configuration).toMatchObject({
      tensor: 4,
      pipeline: 12,
      data: 8,
      microBatch: 2,
      microBatches: 128,
      sequenceParallel: false,
      recompute: "full",
      zero: 1,
      shards: 8,
    });
    expect(schedule).toEqual({ name: "1f1b", chunks: 1 });
  });

  it("takes the software's facts by the prefix of its id", () => {
    expect(run("TITAN-0026").configuration).toMatchObject({ sequenceParallel: true, zero: 3, shards: 8 });
    expect(run("TITAN-0026").model.operators.some((each) => each.attributes?.materialized)).toBe(false);
    expect(run("VTS-0384").model.operators.some((each) => each.attributes?.materialized)).toBe(true);
    // Megatron pads 50,257 tokens to a multiple of 128 for each tensor rank.
    expect(run("VTS-0384").model.architecture!.vocabulary).toBe(50_257);
    expect(run("VTS-0031").model.architecture!.vocabulary).toBe(50_688);
    expect(configured({}, "NEMO-1")).toMatchObject({ zero: 1, tensor: 1, sequenceParallel: false });
    expect(configured({ tp: 2 }, "NEMO-1")).toMatchObject({ zero: 1, tensor: 2, sequenceParallel: true });
  });

  it("prices a single-node run on as many devices as it has, a tray of GB300 on trays", () => {
    expect(run("VTS-0031")).toMatchObject({ clusterReference: "a100-80:4x1", devicesPerNode: 4, nodes: 1 });
    expect(made({ gpu: "GB200", n_gpus: 16 })).toMatchObject({ clusterReference: "gb200:4x4" });
  });

  it("reads printed schedules and stages of one layer less at both ends", () => {
    const zeroBubble = run("ZB-0020");
    expect(zeroBubble.schedule).toEqual({ name: "zb-h1", chunks: 1, held: 16 });
    expect(zeroBubble.boundaries.slice(0, 3)).toEqual([0, 2, 5]);
    expect(zeroBubble.boundaries.slice(-2)).toEqual([44, 46]);
    const interleaved = run("ZB-0045");
    expect(interleaved.schedule).toEqual({ name: "interleaved", chunks: 3 });
    expect(interleaved.boundaries).toHaveLength(49);
    expect(interleaved.boundaries.slice(0, 3)).toEqual([0, 0, 1]);
    expect(run("KOR22-0004").schedule).toEqual({ name: "interleaved", chunks: 3 });
  });

  it("cuts layers that do not divide as evenly as it can", () => {
    expect(cutLayers(8, 4, false)).toEqual([0, 2, 4, 6, 8]);
    expect(cutLayers(70, 12, false).slice(0, 3)).toEqual([0, 5, 11]);
    expect(cutLayers(70, 12, false).at(-2)).toBe(65);
    const uneven = cutLayers(78, 12, false);
    const counts = uneven.slice(1).map((end, i) => end - uneven[i]!);
    expect(counts.reduce((sum, count) => sum + count, 0)).toBe(78);
    expect(new Set(counts)).toEqual(new Set([6, 7]));
  });

  it.each([
    ["", { zero: 0, shards: 1 }],
    ["0", { zero: 0, shards: 1 }],
    ["1", { zero: 1, shards: 16 }],
    ["2", { zero: 2, shards: 16 }],
    ["3", { zero: 3, shards: 16 }],
    ["1(all dp)", { zero: 1, shards: 16 }],
    ["1(group 4)", { zero: 1, shards: 4 }],
    ["bf16opt(~zero1)", { zero: 1, shards: 16 }],
    ["hsdp", { zero: 3, shards: 8 }],
    ["fsdp(no reshard after fwd)", { zero: 2, shards: 16 }],
  ])("reads sharding %j", (zero, wanted) => {
    expect(configured({ zero, n_gpus: 16 })).toMatchObject(wanted);
  });

  it("reads the group of FSDP, micro-batches and nothing else from the notes", () => {
    const notes = "FSDP=4, LBS=2; OOM; schedule=1F1B; HFU=0.5";
    expect(configured({ zero: 3, n_gpus: 16, notes })).toMatchObject({ zero: 3, shards: 4 });
    expect(configured({ notes: "micro_num=2", dp: 4, global_batch: "", micro_batch: 2 })).toMatchObject({
      microBatches: 2,
      microBatch: 2,
    });
  });

  it.each([
    ["", "none", 0],
    ["none", "none", 0],
    ["full", "full", 0],
    ["selective", "selective", 0],
    ["selective(op)", "none", 4],
    ["selective(layer)", "none", 4],
  ])("reads recomputation %j", (recompute, kind, layers) => {
    expect(configured({ recompute })).toMatchObject({ recompute: kind, recomputeLayers: layers });
  });

  it("holds what the software does, by type and by what checkpointing keeps", () => {
    const habits = (fields: Record<string, string | number>, id?: string) =>
      (made(fields, id) as RunInputs).habits;
    expect(habits({ recompute: "selective(op)" }, "TITAN-1")).toEqual({
      ...shardedHabits,
      keeps: "products",
    });
    expect(habits({ recompute: "selective(layer)" }, "TITAN-1")).toEqual(shardedHabits);
    expect(habits({ precision: "fp16" }, "BLOOM-1")).toEqual(deepSpeedHalf);
    expect(habits({ precision: "bf16(fp32 grad acc)" }, "BLOOM-1")).toEqual(deepSpeedBrain);
    expect(habits({}, "NEMO-1").fusedWeightGradients).toBe(true);
    expect(habits({}, "X-1")).toEqual(plainHabits);
  });

  it("reads selective recomputation as the software means it", () => {
    expect(configured({ recompute: "selective" }, "FMS-1")).toMatchObject({
      recompute: "none",
      recomputeLayers: 4,
    });
  });

  it.each([
    ["", { parameters: "bf16", gradients: "f32" }],
    ["fp16", { parameters: "f16", gradients: "f16" }],
    ["BF16", { parameters: "bf16", gradients: "f32" }],
    ["FP8-MX", { parameters: "bf16", linear: "fp8" }],
    ["fp8(linear, fp8 all-gather)", { parameters: "bf16", linear: "fp8" }],
    ["NVFP4", { parameters: "bf16", linear: "fp4" }],
  ])("reads precision %j", (precision, wanted) => {
    expect((made({ precision }) as RunInputs).job.dtypes).toMatchObject(wanted);
  });

  it("tells mixed precision from pure bf16 where the software does", () => {
    const gradients = (precision: string) => (made({ precision }, "MPT-1") as RunInputs).job.dtypes.gradients;
    expect(gradients("amp_bf16")).toBe("f32");
    expect(gradients("bf16")).toBe("bf16");
    expect((made({ precision: "bf16(fp32 grad acc)" }, "MPT-1") as RunInputs).job.dtypes.gradients).toBe(
      "f32",
    );
  });

  it("divides devices into the degrees that are given and data parallelism", () => {
    expect(configured({ tp: 2, n_gpus: 16, cp: 2 })).toMatchObject({
      tensor: 2,
      context: 2,
      data: 4,
      microBatches: 4,
    });
    expect(made({ tp: 2, dp: 4 })).toBe("tp 2 x pp 1 x cp 1 x dp 4 do not make 4 GPUs");
    expect(made({ global_batch: 6 })).toMatch(/^a global batch of 6 is no whole number of micro-batches/);
    expect(made({ n_gpus: 12, gpus_per_node: 8 })).toBe("12 GPUs are no whole number of nodes of 8");
  });

  it("gives a mixture its experts, and expert-tensor parallelism as the software has it", () => {
    const columns = { experts: 8, topk: 2, ffn: 1024, model: "Mixtral", tp: 2, n_gpus: 16, ep: 4 };
    expect(configured(columns)).toMatchObject({ expert: 4, expertTensor: 2 });
    expect(configured(columns, "NEMO-1")).toMatchObject({ expert: 4, expertTensor: 1 });
    expect(made({ ...columns, ep: 3 })).toBe("ep 3 does not divide the 16 ranks of a stage");
    const { architecture } = (made(columns) as RunInputs).model;
    expect(architecture!.experts).toMatchObject({ routed: 8, topK: 2, ffn: 1024 });
  });

  it("takes the widths that blank columns stand for", () => {
    expect((made({}) as RunInputs).model.architecture).toMatchObject({
      ffn: 2048,
      keyValueHeads: 8,
      gated: false,
    });
    const llama = made({ model: "Llama-7B", hidden: 768, kv_heads: 2 }) as RunInputs;
    expect(llama.model.architecture).toMatchObject({ ffn: 2048, keyValueHeads: 2, gated: true });
  });

  it("shares the model between rows of equal dimensions", () => {
    const members = runs.filter((each) => each.id.startsWith("ZB-"));
    expect(new Set(members.map((each) => each.model)).size).toBeLessThan(members.length);
    expect(run("ZB-0020").model).toBe(run("ZB-0021")?.model ?? run("ZB-0020").model);
  });

  it("is not predicted where it lacks what is needed, with the reason", () => {
    const reasons = new Map(unpredicted.map(({ id, reason }) => [id, reason]));
    expect(reasons.get("NEMO-0030")).toBe("the row does not give layers, hidden, heads");
    expect(reasons.get("INTERNMEM-0014")).toMatch(/^the row does not give layers, hidden, heads/);
    expect(made({ gpu: "TPUv4" })).toBe("no preset stands for GPU TPUv4");
    expect(made({ zero: "4" })).toBe('sharding "4" is not known');
    expect(made({ recompute: "some" })).toBe('recomputation "some" is not known');
    expect(made({ precision: "int3" })).toBe('precision "int3" is not known');
    expect(made({ heads: 7 })).toMatch(
      /^its dimensions make no model: transformer: expected field heads to divide/,
    );
  });

  it("names file, line and column of what is no number", () => {
    const fails = (columns: Record<string, string>) => () => made(columns);
    expect(fails({ tp: "two" })).toThrow(
      'made.csv line 2: expected a positive whole number for column tp but found "two".',
    );
    expect(fails({ layers: "1.5" })).toThrow('for column layers but found "1.5".');
    expect(fails({ sp: "yes" })).toThrow('made.csv line 2: expected 0 or 1 for column sp but found "yes".');
    expect(fails({ step_time_s: "-1" })).toThrow(
      'made.csv line 2: expected a number above 0 for column step_time_s but found "-1".',
    );
    const twice = "id,tp\na,1\na,2";
    expect(() => runRecords(parseCsv(twice, "made.csv"))).toThrow(
      'made.csv line 3: expected an id other than that of line 2 for column id but found "a".',
    );
    expect(() => runRecords(parseCsv("a,b\n1,2", "made.csv"))).toThrow(
      "made.csv: expected columns such as layers, hidden, n_gpus, tp and pp but found a, b.",
    );
  });

  it("does not let measured values reach a prediction", () => {
    const measured = [
      "step_time_s",
      "tokens_per_s_per_gpu",
      "tflops_per_gpu",
      "mfu",
      "memory_GiB",
      "params_B",
    ];
    const other = {
      ...table,
      rows: table.rows.map(({ line, values }) => ({
        line,
        values: {
          ...values,
          ...Object.fromEntries(measured.map((name) => [name, ""])),
          choice_group: "",
          tier: "",
          source: "",
          notes: values.notes!.replace(/\bOOM\b/g, "").replace(/SimuMax predicted[^;]*/, ""),
        },
      })),
    };
    const plain = (list: readonly RunInputs[]) =>
      list.map(({ model, ...rest }) => ({ ...rest, model: model.name }));
    expect(plain(readRuns(other).runs)).toEqual(plain(runs));
  });

  it("hands a fit what was measured of each run", () => {
    const measured = measuredRuns(readRuns(table));
    expect(measured.find((each) => each.run.id === "ZB-0020")).toMatchObject({
      stepSeconds: 2.395,
      memoryGiB: 33,
      outOfMemory: false,
      choiceGroup: "ZB:GPT-14.6B:g16:b64",
    });
    expect(measured.filter((each) => each.outOfMemory)).toHaveLength(2);
  });

  it("ran under the software that its sharding tells, where a source compares two", () => {
    const plan = { gpu: "A100-SXM-80GB", n_gpus: 16, dp: 16 };
    const megatron = made({ ...plan, zero: 0 }, "SC21T2-1") as RunInputs;
    const sharded = made({ ...plan, zero: 3 }, "SC21T2-2") as RunInputs;
    expect(megatron.kind).toBe("SC21T2/A100-SXM-80GB");
    expect(sharded.kind).toBe("SC21T2-ZeRO3/A100-SXM-80GB");
    expect(sharded.software.name).not.toBe(megatron.software.name);
    expect([megatron.job.runtime, sharded.job.runtime]).toEqual(["megatron", "torch"]);
  });

  it("spreads the experts of NeMo Automodel over all ranks where no degree is given", () => {
    const mixture = { model: "Qwen3 30B", experts: 16, topk: 2, ffn: 256, zero: 3 };
    expect(configured(mixture, "AUTOM-1").expert).toBe(4);
    expect(configured({ ...mixture, ep: 1 }, "AUTOM-1").expert).toBe(4);
    expect(configured({ ...mixture, ep: 2 }, "AUTOM-1").expert).toBe(2);
    expect(configured(mixture, "NEMO-1").expert).toBe(1);
  });
});
