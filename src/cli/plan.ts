import { loadCluster } from "../cluster/index.js";
import {
  defaultMemoryFraction,
  type Job,
  MpoptError,
  serialize,
  writeFileAtomic,
} from "../contracts/index.js";
import { lossyFor } from "../launch/index.js";
import { loadModel } from "../models/index.js";
import { createPlan } from "../plan/index.js";
import { renderPlan } from "../report/index.js";
import { defineCommand, positiveInteger, positiveNumber } from "./context.js";
import { version } from "./version.js";

interface PlanOptions {
  model: string;
  cluster: string;
  globalBatch: number;
  seq?: number;
  runtime: Job["runtime"];
  objective: string;
  timeLimit: number;
  memoryFraction: number;
  dtype: "bf16" | "f16" | "f32";
  data?: number;
  tensor?: number;
  pipeline?: number;
  microBatch?: number;
  recompute?: Job["pins"]["recompute"];
  zero?: string;
  sequenceParallel?: boolean;
  schedule?: string;
  chunks?: number;
  output?: string;
}

const choices = {
  runtime: ["portable", "megatron", "torch", "any"],
  objective: ["time"],
  dtype: ["bf16", "f16", "f32"],
  recompute: ["none", "selective", "full"],
  zero: ["0", "1"],
};

export const planCommand = () =>
  defineCommand(
    "plan",
    "find the fastest plan that fits, with a proof",
    "mpopt plan --model llama-3.1-70b --cluster h100-sxm:8x16 --global-batch 256 --seq 8192 -o plan.json",
    async (context, _args, given) => {
      const options = given as unknown as PlanOptions;
      for (const [name, allowed] of Object.entries(choices)) {
        const value = given[name] as string | undefined;
        if (value !== undefined && !allowed.includes(value)) {
          throw new MpoptError(
            "E_USAGE",
            `Expected --${name} to be one of ${allowed.join(", ")} but found "${value}".`,
          );
        }
      }
      const model = loadModel(options.model);
      const cluster = loadCluster(options.cluster);
      const onCpu = cluster.devices.every((device) => device.type === "cpu");
      const parameters = options.dtype ?? (onCpu ? "f32" : "bf16");
      const plan = await createPlan({
        model,
        cluster,
        job: {
          globalBatch: options.globalBatch,
          sequence: options.seq ?? model.reference.sequence,
          dtypes: { parameters, gradients: "f32", optimizer: "f32" },
          runtime: options.runtime,
          pins: {
            data: options.data,
            tensor: options.tensor,
            pipeline: options.pipeline,
            microBatch: options.microBatch,
            recompute: options.recompute,
            zero: options.zero === undefined ? undefined : options.zero === "1" ? 1 : 0,
            sequenceParallel: options.sequenceParallel,
            schedule: options.schedule,
            chunks: options.chunks,
          },
          limits: { memoryFraction: options.memoryFraction, searchSeconds: options.timeLimit },
        },
        seed: context.seed,
        version,
        lossyFor,
        signal: context.signal,
        onProgress: context.progress,
      });
      if (options.output) writeFileAtomic(options.output, serialize(plan));
      context.print(renderPlan(plan));
      if (options.output) context.print(`\nWritten to ${options.output}.`);
      context.result(plan);
    },
  )
    .requiredOption("--model <model>", "preset, config.json, folder with one, or mpopt.model/1 file")
    .requiredOption("--cluster <cluster>", "cluster file, or PART:GPUSxNODES")
    .requiredOption("--global-batch <n>", "sequences in one step over all devices", positiveInteger)
    .option("--seq <n>", "tokens in one sequence (default: the model's own, up to 4096)", positiveInteger)
    .option("--runtime <runtime>", `what must be able to run it: ${choices.runtime.join(", ")}`, "portable")
    .option("--objective <objective>", "what to minimise: time", "time")
    .option("--dtype <dtype>", "type of parameters and activations (default: bf16, on CPUs f32)")
    .option("--time-limit <s>", "seconds for the search", positiveNumber, 60)
    .option(
      "--memory-fraction <x>",
      "share of device memory that may be filled",
      positiveNumber,
      defaultMemoryFraction,
    )
    .option("--data <n>", "pin the data-parallel degree", positiveInteger)
    .option("--tensor <n>", "pin the tensor-parallel degree", positiveInteger)
    .option("--pipeline <n>", "pin the number of pipeline ranks", positiveInteger)
    .option("--schedule <name>", "pin the pipeline schedule: 1f1b, interleaved, zbv, ...")
    .option("--chunks <n>", "pin the stages that each pipeline rank holds", positiveInteger)
    .option("--micro-batch <n>", "pin the sequences of one micro-batch", positiveInteger)
    .option("--recompute <kind>", "pin recomputation: none, selective, full")
    .option("--zero <stage>", "pin ZeRO: 0 or 1")
    .option("--sequence-parallel", "pin sequence parallelism on")
    .option("--no-sequence-parallel", "pin sequence parallelism off")
    .option("-o, --output <file>", "where to write the plan");
