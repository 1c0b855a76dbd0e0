import { type Command, Option } from "commander";
import {
  type Cluster,
  defaultMemoryFraction,
  type Job,
  type Model,
  MpoptError,
  runtimeSchema,
} from "../contracts/index.js";
import { parseWhatIf, type WhatIfChange } from "../plan/whatIf.js";
import { nonNegativeInteger, positiveInteger, positiveNumber } from "./context.js";

/** Options of `mpopt plan` as commander gives them. */
export interface PlanCommandOptions {
  model: string;
  cluster: string;
  globalBatch: number;
  seq?: number;
  runtime: Job["runtime"];
  objective: "time";
  timeLimit: number;
  memoryFraction: number;
  dollarsPerHour?: number;
  dtype?: "bf16" | "f16" | "f32";
  fp8?: boolean;
  expertCapacity?: number;
  expertDispatch?: Job["expertDispatch"];
  tensor?: number;
  sequenceParallel?: boolean;
  context?: number;
  contextExchange?: Job["pins"]["contextExchange"];
  pipeline?: number;
  schedule?: string;
  chunks?: number;
  data?: number;
  expert?: number;
  expertTensor?: number;
  microBatch?: number;
  zero?: string;
  shards?: number;
  recompute?: Job["pins"]["recompute"];
  recomputeLayers?: number;
  offload?: Job["pins"]["offload"];
  frontier?: boolean;
  devices?: string;
  whatIf?: WhatIfChange[];
  output?: string;
}

const choices = {
  runtime: runtimeSchema.options,
  objective: ["time"],
  dtype: ["bf16", "f16", "f32"],
  recompute: ["none", "selective", "full"],
  zero: ["0", "1", "2", "3"],
  contextExchange: ["ring", "all-to-all"],
  offload: ["none", "optimizer", "activations", "both"],
} as const;

const oneOf = (name: keyof typeof choices) => choices[name].join(", ");

/** Adds the options, in groups that --help shows. */
export function addPlanOptions(command: Command): Command {
  return command
    .optionsGroup("What is trained, and where:")
    .requiredOption("--model <model>", "preset, config.json, folder with one, or mpopt.model/1 file")
    .requiredOption("--cluster <cluster>", "cluster file, or PART:GPUSxNODES")
    .requiredOption("--global-batch <n>", "sequences in one step over all devices", positiveInteger)
    .option("--seq <n>", "tokens in one sequence (default: the model's own, up to 4096)", positiveInteger)
    .option("--runtime <runtime>", `what must be able to run it: ${oneOf("runtime")}`, "portable")
    .option("--dtype <dtype>", "type of parameters and activations (default: bf16, on CPUs f32)")
    .option("--fp8", "run the products of linear layers in fp8")
    .option(
      "--expert-capacity <x>",
      "tokens that an expert takes over the mean, padded and dropped to that (default: all reach theirs)",
      positiveNumber,
    )
    .addOption(
      new Option("--expert-dispatch <how>", "how tokens reach their experts (default: all-to-all)").choices([
        "all-to-all",
        "fused",
      ]),
    )
    .option(
      "--memory-fraction <x>",
      "share of device memory that may be filled",
      positiveNumber,
      defaultMemoryFraction,
    )
    .option("--dollars-per-hour <x>", "price of one device (default: the cluster's)", positiveNumber)
    .optionsGroup("What is asked:")
    .option("--objective <objective>", "what to minimise: time", "time")
    .option("--time-limit <s>", "seconds for each search", positiveNumber, 60)
    .option("--frontier", "also the best trades of step time, memory, devices and money")
    .option("--devices <list>", "device counts of the frontier: 64,128,256, or powers of two 64..256")
    .option(
      "--what-if <change>",
      "plan again with gpus=64,128, batch=512, sequence=32768, link=x0.5,node:x2 or gpu=b200,gb200:4; may be repeated",
      (text: string, before: WhatIfChange[] = []) => [...before, ...parseWhatIf(text)],
    )
    .option("-o, --output <file>", "where to write the plan")
    .optionsGroup("Degrees to pin (searched unless given):")
    .option("--tensor <n>", "tensor-parallel ranks", positiveInteger)
    .option("--sequence-parallel", "sequence parallelism on")
    .option("--no-sequence-parallel", "sequence parallelism off")
    .option("--context <n>", "context-parallel ranks, which share the tokens of a sequence", positiveInteger)
    .option("--context-exchange <kind>", `how they exchange keys: ${oneOf("contextExchange")}`)
    .option("--pipeline <n>", "pipeline ranks", positiveInteger)
    .option("--schedule <name>", "pipeline schedule: 1f1b, interleaved, zbv, ...")
    .option("--chunks <n>", "stages that each pipeline rank holds", positiveInteger)
    .option("--data <n>", "data-parallel replicas", positiveInteger)
    .option("--expert <n>", "expert-parallel ranks, which share the experts of a layer", positiveInteger)
    .option("--expert-tensor <n>", "tensor-parallel ranks of one expert", positiveInteger)
    .option("--micro-batch <n>", "sequences of one micro-batch", positiveInteger)
    .optionsGroup("Memory choices to pin (searched unless given):")
    .option("--zero <stage>", `ZeRO stage: ${oneOf("zero")}`)
    .option("--shards <n>", "ranks that a ZeRO state is sharded over (hybrid sharding)", positiveInteger)
    .option("--recompute <kind>", `recomputation of activations: ${oneOf("recompute")}`)
    .option(
      "--recompute-layers <n>",
      "layers of each stage that are recomputed whole whatever --recompute says",
      nonNegativeInteger,
    )
    .option("--offload <what>", `what lives in host memory: ${oneOf("offload")}`)
    .optionsGroup("Output:");
}

/**
 * Refuses values that no choice has, and options that need another one.
 * @throws MpoptError E_USAGE.
 */
export function checkPlanOptions(options: PlanCommandOptions): void {
  for (const [name, allowed] of Object.entries(choices)) {
    const value = options[name as keyof typeof choices];
    if (value === undefined || (allowed as readonly string[]).includes(value)) continue;
    const flag = name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    throw new MpoptError(
      "E_USAGE",
      `Expected --${flag} to be one of ${allowed.join(", ")} but found "${value}".`,
    );
  }
  if (options.devices !== undefined && !options.frontier) {
    throw new MpoptError("E_USAGE", "Expected --frontier beside --devices but found none.", [
      "To plan for other numbers of devices without a frontier, use --what-if gpus=...",
    ]);
  }
}

/**
 * The job that the options describe.
 * @throws MpoptError E_USAGE for fp8 on devices that have no such products.
 */
export function jobOfOptions(options: PlanCommandOptions, model: Model, cluster: Cluster) {
  const onCpu = cluster.devices.every((device) => device.type === "cpu");
  const without = cluster.devices.find((device) => !device.peakFlopsPerSecond.fp8);
  if (options.fp8 && without) {
    throw new MpoptError(
      "E_USAGE",
      `Expected devices with products in fp8 for --fp8 but found ${without.kind}.`,
    );
  }
  return {
    globalBatch: options.globalBatch,
    sequence: options.seq ?? model.reference.sequence,
    dtypes: {
      parameters: options.dtype ?? (onCpu ? ("f32" as const) : ("bf16" as const)),
      gradients: "f32" as const,
      optimizer: "f32" as const,
      ...(options.fp8 && { linear: "fp8" as const }),
    },
    ...(options.expertCapacity !== undefined && { expertCapacity: options.expertCapacity }),
    ...(options.expertDispatch !== undefined && { expertDispatch: options.expertDispatch }),
    runtime: options.runtime,
    objective: options.objective,
    pins: {
      tensor: options.tensor,
      sequenceParallel: options.sequenceParallel,
      context: options.context,
      contextExchange: options.contextExchange,
      pipeline: options.pipeline,
      schedule: options.schedule,
      chunks: options.chunks,
      data: options.data,
      expert: options.expert,
      expertTensor: options.expertTensor,
      microBatch: options.microBatch,
      zero: options.zero === undefined ? undefined : (Number(options.zero) as Job["pins"]["zero"]),
      shards: options.shards,
      recompute: options.recompute,
      recomputeLayers: options.recomputeLayers,
      offload: options.offload,
    },
    limits: { memoryFraction: options.memoryFraction, searchSeconds: options.timeLimit },
  };
}

/**
 * Reads `64,128,256`, or `64..256`: the powers of two from the first number up to the second.
 * @throws MpoptError E_USAGE.
 */
export function parseDevices(text: string): number[] {
  const range = /^(\d+)\.\.(\d+)$/.exec(text);
  if (range) {
    const [first, last] = [Number(range[1]), Number(range[2])];
    const counts: number[] = [];
    for (let count = first; count >= 1 && count <= last; count *= 2) counts.push(count);
    if (counts.length > 0) return counts;
  } else if (/^\d+(,\d+)*$/.test(text)) {
    const counts = text.split(",").map(Number);
    if (counts.every((count) => count >= 1)) return counts;
  }
  throw new MpoptError(
    "E_USAGE",
    `Expected device counts such as 64,128,256 or 64..256 for --devices but found "${text}".`,
  );
}
