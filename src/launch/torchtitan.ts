import { axisSize, MpoptError, type Plan, type Stage, serialize } from "../contracts/index.js";
import type { Exporter } from "./exporter.js";
import { lostPlacements, lostRankOrder, nodeLayout } from "./layout.js";
import { outsideRuntime } from "./outside.js";
import { type Literal, pythonCall, pythonLiteral } from "./pythonText.js";
import { scheduleCsvOf } from "./schedule.js";
import { lostModel } from "./torchtitanModel.js";
import { modelImports, modelSource } from "./torchtitanSource.js";

/**
 * torchtitan of August 2026: a Python module whose function `plan` returns the `Trainer.Config`, which
 * `torchtitan.train --module mpopt_plan --config plan` runs. Options on its command line are frozen and will go
 * (torchtitan/config/README.md), so that none are used.
 */
export const torchtitan: Exporter = {
  name: "torchtitan",
  runtime: "torchtitan",
  lossy,
  files: (plan) => ({
    "mpopt_plan.py": configModule(plan),
    ...(needsCsv(plan) ? { "schedule.csv": scheduleCsvOf(plan) } : {}),
    "run.sh": runScript(plan),
    "plan.json": serialize(plan),
  }),
};

/** Names that `get_schedule_class` of torch.distributed.pipelining knows. */
const scheduleClasses: Readonly<Record<string, string>> = {
  "1f1b": "1F1B",
  gpipe: "GPipe",
  interleaved: "Interleaved1F1B",
  "looped-bfs": "LoopedBFS",
  "interleaved-zb": "InterleavedZeroBubble",
  zbv: "ZBVZeroBubble",
  dualpipev: "DualPipeV",
};

function lossy(plan: Plan): string[] {
  const lost = [...lostModel(plan), ...outsideRuntime(plan, "torchtitan", "torchtitan")];
  if (plan.cluster.deviceType === "cpu") {
    lost.push("The devices are processors, but torchtitan's optimizer and attention run on GPUs.");
  }
  return [
    ...lost,
    ...lostRankOrder(plan, "torchtitan"),
    ...lostPlacements(plan, "torchtitan"),
    ...lostStages(plan),
    ...lostTokens(plan),
    ...lostTypes(plan),
  ];
}

/** What the pipeline loses: stages by turns or in a V, an order of actions that PyTorch's runtime reads. */
function lostStages(plan: Plan): string[] {
  const { stages } = plan;
  const ranks = axisSize(plan, "pipeline");
  if (stages.length === 1) return [];
  const lost: string[] = [];
  if (ranks === 1) lost.push(`${stages.length} stages share the only pipeline rank.`);
  else if (stages.length % ranks) {
    lost.push(`num_stages ${stages.length} must be evenly divisible by pp_degree ${ranks} in torchtitan.`);
  }
  const empty = stages.find((stage) => partsOf(stage).length === 0);
  if (empty) {
    lost.push(`Stage ${empty.index} has no parameters, for which torchtitan builds no optimizer.`);
  }
  try {
    scheduleCsvOf(plan);
  } catch (error) {
    if (!(error instanceof MpoptError)) throw error;
    lost.push(`PyTorch's pipeline runtime cannot run the schedule ${plan.schedule.name}: ${error.message}`);
    return lost;
  }
  const turns = stages.every(({ rank }, index) => rank === index % ranks);
  if (!turns && !isV(plan)) {
    lost.push("Stages lie on pipeline ranks neither by turns nor in a V, as torchtitan places them.");
  }
  return lost;
}

/** Two stages a rank, up the ranks and back. */
function isV(plan: Plan): boolean {
  const ranks = axisSize(plan, "pipeline");
  const { stages } = plan;
  if (stages.length !== 2 * ranks) return false;
  return stages.every(({ rank }, index) => rank === (index < ranks ? index : 2 * ranks - 1 - index));
}

/** Token counts as `Trainer.__init__` divides them. */
function lostTokens(plan: Plan): string[] {
  const { micro, global, sequence } = plan.batch;
  const tensor = axisSize(plan, "tensor");
  const data = axisSize(plan, "data");
  const lost: string[] = [];
  if (plan.mesh.sequenceParallel && (micro * sequence) % tensor) {
    lost.push(`The number of tokens per micro-batch (${micro * sequence}) must be divisible by ${tensor}.`);
  }
  if (micro * plan.schedule.microBatches * data !== global) {
    lost.push(
      `${plan.schedule.microBatches} micro-batches of ${micro} on ${data} data ranks are not the batch of ${global}.`,
    );
  }
  return lost;
}

/**
 * Types that FSDP2 keeps: shards in f32, gathered as bf16 or f32, gradients reduced in f32 (`TrainingConfig`), and the
 * optimizer's moments in f32, or beside f32 in bf16 (`fused_opt_states_bf16`).
 */
function lostTypes({ job }: Plan): string[] {
  const { parameters, gradients, optimizer, linear, microBatchGradients } = job.dtypes;
  const lost: string[] = [];
  if (parameters !== "bf16" && parameters !== "f32") {
    lost.push(`Parameters are ${parameters}, but torchtitan computes with them in bf16 or f32.`);
  }
  if (gradients !== "f32") lost.push(`Gradients are ${gradients}, but torchtitan reduces them in f32.`);
  if (optimizer !== "f32" && !(optimizer === "bf16" && parameters === "f32")) {
    lost.push(
      `The optimizer's state is ${optimizer}, but torchtitan keeps f32 shards of parameters with moments in f32.`,
    );
  }
  if (linear && linear !== parameters) {
    lost.push(
      `Linear layers compute in ${linear}, but the module written here leaves them in the parameters' type.`,
    );
  }
  if (microBatchGradients) {
    lost.push("Gradients of one micro-batch stay beside their sums, which torchtitan does not do.");
  }
  if (job.optimizer !== "adam") {
    lost.push(`The optimizer is ${job.optimizer}, but torchtitan has Adam, AdamW and Muon.`);
  }
  if (job.expertCapacity) {
    lost.push("Experts have a capacity, but torchtitan's routers send them every token.");
  }
  return lost;
}

/** Modules of a stage by the names that torchtitan's decoders give them. */
function partsOf({ embedding, layers, head }: Stage): string[] {
  const blocks = Array.from({ length: layers.end - layers.start }, (_, i) => `layers.${layers.start + i}`);
  return [...(embedding ? ["tok_embeddings"] : []), ...blocks, ...(head ? ["norm", "lm_head"] : [])];
}

/** Whether the schedule's order of actions goes into a file, since it has no name in PyTorch. */
function needsCsv({ stages, schedule }: Plan): boolean {
  return stages.length > 1 && (schedule.actions !== undefined || !scheduleClasses[schedule.name]);
}

/** Arguments of `ParallelismConfig`, as literals. */
function parallelism(plan: Plan): Record<string, Literal> {
  const { zero, shards } = plan.optimizer;
  const copies = axisSize(plan, "data");
  const shard = zero > 0 ? (shards ?? copies) : 1;
  const ranks = axisSize(plan, "pipeline");
  const values: Record<string, Literal> = {
    data_parallel_replicate_degree: copies / shard,
    data_parallel_shard_degree: shard,
    fsdp_reshard_after_forward: zero === 3 ? "always" : "never",
    tensor_parallel_degree: axisSize(plan, "tensor"),
    enable_sequence_parallel: plan.mesh.sequenceParallel,
    context_parallel_degree: axisSize(plan, "context"),
    expert_parallel_degree: plan.mesh.experts?.expert ?? 1,
    pipeline_parallel_degree: ranks,
  };
  if (plan.stages.length === 1) return values;
  // A schedule from a file still takes from the name how stages lie on ranks.
  const placement = isV(plan) ? "ZBVZeroBubble" : "Interleaved1F1B";
  return {
    ...values,
    pipeline_parallel_schedule: needsCsv(plan) ? placement : scheduleClasses[plan.schedule.name]!,
    num_pp_microbatches: plan.schedule.microBatches,
    module_fqns_per_model_part: plan.stages.map(partsOf),
  };
}

function configModule(plan: Plan): string {
  const { architecture } = plan.model;
  if (!architecture) {
    throw new MpoptError(
      "E_LOSSY",
      `Expected a model whose architecture is known for torchtitan but found ${plan.model.name} without one.`,
    );
  }
  const { world } = nodeLayout(plan);
  const { micro, global, sequence } = plan.batch;
  const { parameters, optimizer } = plan.job.dtypes;
  const recomputed = plan.stages.some(({ recompute }) => recompute === "full");
  const imports = [
    "from torchtitan.components.data import ConcatThenSplitPackingConfig, GrainDataLoader",
    "from torchtitan.components.loss import ChunkedLossWrapper, CrossEntropyLoss",
    "from torchtitan.components.optimizer import default_adamw",
    "from torchtitan.config import ParallelismConfig, TrainingConfig",
    ...(recomputed ? ["from torchtitan.distributed.activation_checkpoint import FullAC"] : []),
    "from torchtitan.hf_datasets.text_datasets import DATASETS",
    "from torchtitan.trainer import Trainer",
    ...modelImports(architecture),
  ];
  const degrees = Object.entries(parallelism(plan)).map(([name, value]) => [name, pythonLiteral(value, 12)]);
  const csv = 'os.path.join(os.path.dirname(os.path.abspath(__file__)), "schedule.csv")';
  if (needsCsv(plan)) degrees.push(["pipeline_parallel_schedule_csv", csv]);
  const training = {
    num_tokens_per_microbatch_per_dp_rank: String(micro * sequence),
    num_tokens_per_train_step: String(global * sequence),
    max_context_length: String(sequence),
    steps: 'int(os.environ.get("STEPS", "1000"))',
    // Kernels start one by one, as they are priced; pipelines and most experts want it so.
    disable_cuda_graphs: "True",
    dtype: '"float32"',
    mixed_precision_param: parameters === "bf16" ? '"bfloat16"' : '"float32"',
    mixed_precision_reduce: '"float32"',
  };
  const config = pythonCall(
    "Trainer.Config",
    {
      model_spec: "model_spec",
      hf_assets_path: 'os.environ.get("HF_ASSETS_PATH", "./tests/assets/tokenizer")',
      loss: "ChunkedLossWrapper.Config(loss_fn=CrossEntropyLoss.Config(global_vocab_size=vocabulary))",
      dataloader: "GrainDataLoader.Config(dataset=data)",
      optimizer: "optimizer",
      training: pythonCall("TrainingConfig", training, 8),
      parallelism: pythonCall("ParallelismConfig", Object.fromEntries(degrees), 8),
      activation_checkpoint: recomputed ? "FullAC.Config()" : "None",
    },
    4,
  );
  const moments = optimizer === "bf16" ? '    optimizer.implementation = "fused_opt_states_bf16"\n' : "";
  return `"""A plan of mpopt for torchtitan: \`plan\` returns the Trainer.Config that torchtitan.train runs."""

import os
from functools import partial

${imports.sort().join("\n")}

WORLD_SIZE = ${world}


${modelSource(architecture, plan)}

def plan() -> Trainer.Config:
    world = int(os.environ.get("WORLD_SIZE", WORLD_SIZE))
    if world != WORLD_SIZE:
        raise ValueError(f"Expected {WORLD_SIZE} ranks for this plan but found WORLD_SIZE={world}.")
    model_spec = model()
    vocabulary = ${architecture.vocabulary}
    # Data and learning rate are yours: set them here, or in a function of your own that calls this one.
    data = ConcatThenSplitPackingConfig(dataset=DATASETS[os.environ.get("DATASET", "c4")])
    optimizer = default_adamw(lr=float(os.environ.get("LEARNING_RATE", "3e-4")))
${moments}    return ${config}
`;
}

/** A script that starts the ranks of one node, where their number is the plan's. */
function runScript(plan: Plan): string {
  const { world, nodes, ranksPerNode } = nodeLayout(plan);
  return `#!/usr/bin/env bash
# torchtitan on ${world} devices: run on every node. Set NODE_RANK, MASTER_ADDR and MASTER_PORT where there are several
# nodes; MODULE and CONFIG for a function of your own around mpopt_plan.plan.
set -euo pipefail
NODES="\${NNODES:-${nodes}}"
if [ "$NODES" != ${nodes} ]; then
  echo "Expected ${nodes} nodes of ${ranksPerNode} devices for this plan but found NNODES=$NODES." >&2
  exit 2
fi
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
export PYTHONPATH="$here\${PYTHONPATH:+:$PYTHONPATH}"
export PYTORCH_ALLOC_CONF="\${PYTORCH_ALLOC_CONF:-expandable_segments:True}"
exec torchrun --nnodes ${nodes} --nproc-per-node ${ranksPerNode} --node-rank "\${NODE_RANK:-0}" \\
  --master-addr "\${MASTER_ADDR:-127.0.0.1}" --master-port "\${MASTER_PORT:-29500}" \\
  -m torchtitan.train --module "\${MODULE:-mpopt_plan}" --config "\${CONFIG:-plan}"
`;
}
