import { clusterPresetNames } from "../cluster/index.js";
import {
  type Dtype,
  type Job,
  type Model,
  MpoptError,
  type Recompute,
  type Scaling,
  type Zero,
} from "../contracts/index.js";
import type { MemoryHabits } from "../cost/memory.js";
import type { Configuration } from "../search/configuration.js";
import type { InputColumn, RunFields } from "./columns.js";
import { hardwareOf } from "./hardware.js";
import { kindKey, prefixOf, type Software, softwareOf } from "./kinds.js";
import { modelOfDimensions } from "./models.js";
import type { RunInputs } from "./types.js";

/** Why a record is no run that can be predicted; the clause follows "because". */
class Refusal extends Error {}

/** Columns without which nothing can be said. */
const needed: readonly InputColumn[] = ["layers", "hidden", "heads", "seq", "gpu", "n_gpus", "tp", "pp"];

/**
 * What a record asks to be predicted.
 * @returns the inputs, or the reason why there is no prediction, as a clause.
 * @throws MpoptError E_FIELD for a field that is no number where one is expected.
 */
export function runInputs(fields: RunFields): RunInputs | string {
  try {
    return readRun(fields);
  } catch (error) {
    if (error instanceof Refusal) return error.message;
    throw error;
  }
}

function readRun(fields: RunFields): RunInputs {
  const missing = needed.filter((column) => fields.text(column) === "");
  if (missing.length > 0) throw new Refusal(`the row does not give ${missing.join(", ")}`);
  const prefix = prefixOf(fields.id);
  const hardware = hardwareOf(fields.text("gpu"), prefix);
  if (!hardware || !clusterPresetNames.includes(hardware.part)) {
    throw new Refusal(`no preset stands for GPU ${fields.text("gpu")}`);
  }
  const software = softwareOf(prefix, hardware.part, fields.text("zero"));
  const degrees = readDegrees(fields);
  const { tensor, pipeline, data, context, devices } = degrees;
  const devicesPerNode = Math.min(fields.count("gpus_per_node") ?? defaultPerNode(hardware.part), devices);
  if (devices % devicesPerNode !== 0) {
    throw new Refusal(`${devices} GPUs are no whole number of nodes of ${devicesPerNode}`);
  }
  const sequence = fields.count("seq")!;
  const { globalBatch, microBatch, microBatches } = readBatch(fields, data);
  const model = readModel(fields, software, { tensor, microBatch });
  const layers = model.layers.filter((layer) => layer.kind === "block").length;
  const schedule = readSchedule(fields, pipeline, layers);
  const sharding = readZero(fields, software, { ranks: data * context, devicesPerNode });
  const recompute = readRecompute(fields, software, layers / (pipeline * schedule.chunks));
  const sequenceParallel = fields.flag("sp") ?? software.sequenceParallel;
  const configuration: Configuration = {
    tensor,
    context,
    contextExchange: software.contextExchange,
    pipeline,
    data,
    ...readExperts(fields, software, tensor * data * context, tensor),
    microBatch,
    microBatches,
    sequenceParallel: tensor > 1 && sequenceParallel,
    ...recompute,
    ...sharding,
    offload: "none",
  };
  const nodes = devices / devicesPerNode;
  const dtypes = readDtypes(fields, software);
  return {
    id: fields.id,
    prefix,
    kind: kindKey(prefix, fields.text("gpu"), software),
    software,
    hardware,
    model,
    clusterReference: `${hardware.part}:${devicesPerNode}x${nodes}`,
    devicesPerNode,
    nodes,
    job: {
      schema: "mpopt.job/1",
      globalBatch,
      sequence,
      dtypes,
      optimizer: "adam",
      ...readDispatch(fields, software),
      // Experts of models so called are padded to their mean.
      ...(/token.?drop/i.test(fields.text("model")) ? { expertCapacity: 1 } : {}),
      runtime: software.runtime,
      pins: {},
      objective: "time",
      // What ran out of memory is what exceeds the device.
      limits: { memoryFraction: 1, searchSeconds: 60 },
    },
    habits: readHabits(fields, software, dtypes),
    configuration,
    recomputeStated: fields.text("recompute") !== "",
    schedule,
    boundaries: cutLayers(layers, pipeline * schedule.chunks, software.shortEnds),
  };
}

function defaultPerNode(part: string): number {
  return /^gb/.test(part) ? 4 : 8;
}

function readDegrees(fields: RunFields) {
  const devices = fields.count("n_gpus")!;
  const tensor = fields.count("tp")!;
  const pipeline = fields.count("pp")!;
  const context = fields.count("cp") ?? 1;
  const data = fields.count("dp") ?? devices / (tensor * pipeline * context);
  if (tensor * pipeline * context * data !== devices) {
    throw new Refusal(
      `tp ${tensor} x pp ${pipeline} x cp ${context} x dp ${fields.text("dp") || "?"} do not make ${devices} GPUs`,
    );
  }
  return { devices, tensor, pipeline, context, data };
}

/** Of the batch, the micro-batch and `micro_num` two give the third; a micro-batch that nothing gives is 1. */
function readBatch(fields: RunFields, data: number) {
  const printed = fields.note("micro_num");
  const micros = /^[1-9]\d*$/.test(printed) ? Number(printed) : undefined;
  const batch = fields.count("global_batch");
  const given = fields.count("micro_batch");
  if (batch === undefined) {
    if (micros === undefined) throw new Refusal("the row does not give global_batch");
    const microBatch = given ?? 1;
    return { globalBatch: data * microBatch * micros, microBatch, microBatches: micros };
  }
  const perStep = micros === undefined ? 1 : batch / (data * micros);
  const microBatch = given ?? (Number.isInteger(perStep) ? perStep : 1);
  const microBatches = batch / (data * microBatch);
  if (!Number.isInteger(microBatches)) {
    throw new Refusal(
      `a global batch of ${batch} is no whole number of micro-batches of ${microBatch} on ${data} replicas`,
    );
  }
  return { globalBatch: batch, microBatch, microBatches };
}

function readModel(
  fields: RunFields,
  software: Software,
  plan: { tensor: number; microBatch: number },
): Model {
  const where = `${fields.where} line ${fields.line}`;
  const dimensions = {
    name: fields.text("model") || "transformer",
    layers: fields.count("layers")!,
    hidden: fields.count("hidden")!,
    ffn: fields.count("ffn"),
    heads: fields.count("heads")!,
    keyValueHeads: fields.count("kv_heads"),
    vocabulary: fields.count("vocab"),
    sequence: fields.count("seq")!,
    experts: fields.count("experts"),
    topK: fields.count("topk"),
  };
  try {
    return modelOfDimensions(dimensions, software, plan, where);
  } catch (error) {
    if (error instanceof MpoptError) throw new Refusal(`its dimensions make no model: ${error.message}`);
    throw error;
  }
}

/**
 * Schedules that rows print, by mpopt's names. Qi et al. (ICLR 2024, section 5) search ZB-1p and ZB-2p under a limit
 * of one and two micro-batches a rank and rank of the pipeline, which the search fills; the orders of ZB-H1 and ZB-H2
 * are as long.
 */
const printedSchedules: Readonly<Record<string, { name: string; heldPerRank?: number }>> = {
  "1F1B": { name: "1f1b" },
  "1F1B-I": { name: "interleaved" },
  "ZB-1p": { name: "zb-h1", heldPerRank: 1 },
  "ZB-2p": { name: "zb-h2", heldPerRank: 2 },
};

function readSchedule(fields: RunFields, pipeline: number, layers: number): RunInputs["schedule"] {
  if (pipeline === 1) return { name: "1f1b", chunks: 1 };
  const printed = fields.note("schedule");
  const known = printed === "" ? undefined : printedSchedules[printed];
  const name = known?.name;
  if (printed !== "" && known === undefined) throw new Refusal(`schedule ${printed} is not known`);
  const text = fields.text("vp");
  let chunks = 1;
  if (/^max\b/.test(text)) chunks = Math.ceil(layers / pipeline);
  else if (text !== "") chunks = fields.count("vp")!;
  if (name !== undefined && name !== "interleaved") {
    const { heldPerRank } = known!;
    return { name, chunks: 1, ...(heldPerRank ? { held: heldPerRank * pipeline } : {}) };
  }
  return chunks > 1 ? { name: "interleaved", chunks } : { name: "1f1b", chunks: 1 };
}

/** `0` to `3`, `1(all dp)`, `1(group 8)`, `bf16opt(~zero1)`, `hsdp`, `fsdp(no reshard after fwd)`. */
function readZero(
  fields: RunFields,
  software: Software,
  { ranks, devicesPerNode }: { ranks: number; devicesPerNode: number },
): { zero: Zero; shards: number } {
  const text = fields.text("zero").toLowerCase();
  const whole = (zero: Zero) => ({ zero, shards: zero === 0 ? 1 : ranks });
  const grouped = (zero: Zero, size: number) => {
    if (ranks % size === 0) return { zero, shards: size };
    // A group wider than the replicas is all of them.
    return { zero, shards: size > ranks ? ranks : 1 };
  };
  if (ranks === 1) return { zero: 0, shards: 1 };
  if (text === "") return whole(software.zero);
  if (text === "hsdp") return grouped(3, Math.min(devicesPerNode, ranks));
  // Parameters that stay after the forward pass are gathered once a step, as in ZeRO-2.
  if (text.startsWith("fsdp(no reshard")) return whole(2);
  if (text.startsWith("bf16opt")) return whole(1);
  const match = /^([0-3])(?:\s*\((all dp|group (\d+))\))?$/.exec(text);
  if (!match) throw new Refusal(`sharding "${fields.text("zero")}" is not known`);
  const zero = Number(match[1]) as Zero;
  const group = Number(match[3] ?? (zero === 3 ? fields.note("FSDP") : ""));
  return group > 0 && zero > 0 ? grouped(zero, group) : whole(zero);
}

/** @param layersPerStage may be a fraction where stages differ. */
function readRecompute(
  fields: RunFields,
  software: Software,
  layersPerStage: number,
): { recompute: Recompute; recomputeLayers: number } {
  const text = fields.text("recompute").toLowerCase();
  // Half of all layers, or half of the products of every layer, run twice.
  const half = { recompute: "none" as const, recomputeLayers: Math.round(layersPerStage / 2) };
  switch (text) {
    case "":
    case "none":
      return { recompute: "none", recomputeLayers: 0 };
    case "full":
      return { recompute: "full", recomputeLayers: 0 };
    case "selective":
      return software.selective === "layers" ? half : { recompute: "selective", recomputeLayers: 0 };
    case "selective(op)":
    case "selective(layer)":
      return half;
    default:
      throw new Refusal(`recomputation "${fields.text("recompute")}" is not known`);
  }
}

/** By operator, torchtitan saves the results of every second product; by layer, every second layer is recomputed. */
function readHabits(fields: RunFields, software: Software, dtypes: Job["dtypes"]): MemoryHabits {
  const habits = software.habits[dtypes.parameters === "f16" ? "f16" : "bf16"];
  return fields.text("recompute").toLowerCase() === "selective(op)"
    ? { ...habits, keeps: "products" }
    : habits;
}

function readExperts(
  fields: RunFields,
  software: Software,
  ranks: number,
  tensor: number,
): { expert: number; expertTensor: number } {
  if (fields.count("experts") === undefined) return { expert: 1, expertTensor: tensor };
  const given = fields.count("ep") ?? 1;
  const expert = given === 1 && software.expertsEverywhere ? ranks : given;
  const wanted = software.expertTensor === "tensor" ? tensor : 1;
  if (ranks % expert !== 0) throw new Refusal(`ep ${expert} does not divide the ${ranks} ranks of a stage`);
  return { expert, expertTensor: ranks % (expert * wanted) === 0 ? wanted : 1 };
}

function readDispatch(
  fields: RunFields,
  { fusedDispatchFrom = Number.POSITIVE_INFINITY }: Software,
): Pick<Job, "expertDispatch"> {
  return (fields.count("topk") ?? 1) >= fusedDispatchFrom ? { expertDispatch: "fused" } : {};
}

function readDtypes(fields: RunFields, software: Software): Job["dtypes"] {
  const text = fields.text("precision").toLowerCase();
  let parameters: Dtype = software.dtype;
  let linear: Dtype | undefined;
  if (/fp4/.test(text)) linear = "fp4";
  else if (/fp8/.test(text)) linear = "fp8";
  if (linear || /bf16/.test(text)) parameters = "bf16";
  else if (/fp16/.test(text)) parameters = "f16";
  else if (/fp32|tf32/.test(text)) parameters = "f32";
  else if (text !== "") throw new Refusal(`precision "${fields.text("precision")}" is not known`);
  let gradients: Dtype = parameters;
  if (parameters === "bf16") gradients = /^amp|fp32 grad/.test(text) ? "f32" : software.bf16Gradients;
  const kept = software.keepsGradients && parameters === "bf16" && gradients === "f32";
  return {
    parameters,
    gradients,
    optimizer: "f32",
    ...(kept ? { microBatchGradients: "bf16" } : {}),
    ...(linear ? { linear, scaling: scalingOf(text) ?? software.scaling } : {}),
  };
}

/** Recipes of narrow products as rows print them: current, delayed, by rows, by blocks. */
const printedScalings: readonly (readonly [RegExp, Scaling])[] = [
  [/row/, "row"],
  [/tensorwise|-cs\b/, "current"],
  [/-ds\b/, "delayed"],
  [/mx|fp4|-sc\b/, "block"],
];

function scalingOf(precision: string): Scaling | undefined {
  return printedScalings.find(([pattern]) => pattern.test(precision))?.[1];
}

/**
 * Boundaries of the block layers of each stage. Layers that do not divide are spread so that the first and the last
 * stage, which hold embedding and head, have one less where that makes the others equal, and evenly otherwise.
 */
export function cutLayers(layers: number, stages: number, shortEnds: boolean): number[] {
  const ends = stages > 1 && (shortEnds || layers % stages !== 0) && (layers + 2) % stages === 0;
  if (ends) {
    const each = (layers + 2) / stages;
    return Array.from({ length: stages + 1 }, (_, i) => (i === 0 ? 0 : i === stages ? layers : i * each - 1));
  }
  return Array.from({ length: stages + 1 }, (_, i) => Math.round((i * layers) / stages));
}
