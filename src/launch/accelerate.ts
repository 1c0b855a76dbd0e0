import { axisSize, type Plan, serialize } from "../contracts/index.js";
import type { Exporter } from "./exporter.js";
import { lostRankOrder, nodeLayout } from "./layout.js";
import { divisionOf, outsideRuntime } from "./outside.js";
import { pythonString } from "./pythonText.js";
import { shellQuote } from "./shell.js";

/**
 * Hugging Face Accelerate: the file that `accelerate launch --config_file` reads, a module that makes the Accelerator, and
 * the command that starts the ranks.
 */
export const accelerate: Exporter = {
  name: "accelerate",
  runtime: "accelerate",
  lossy,
  files: (plan) => ({
    "plan.json": serialize(plan),
    "accelerate.yaml": yaml(configuration(plan)),
    "plan_accelerate.py": module(plan),
    "run.sh": runScript(plan),
  }),
};

function lossy(plan: Plan): string[] {
  const lost = [...outsideRuntime(plan, "accelerate", "Accelerate"), ...lostTypes(plan)];
  const tensor = axisSize(plan, "tensor");
  const { architecture } = plan.model;
  lost.push(...lostRankOrder(plan, "Accelerate"));
  if (plan.stages.length > 1 && axisSize(plan, "pipeline") === 1) {
    lost.push("Layers are divided into stages of one rank, but Accelerate has no pipeline.");
  }
  if (plan.job.expertCapacity) {
    lost.push("Experts have a capacity, but Accelerate leaves them to the model.");
  }
  if (tensor > 1 && architecture) {
    const { heads, keyValueHeads, ffn } = architecture;
    for (const [what, size] of Object.entries({ "attention heads": heads, features: ffn })) {
      if (size % tensor) lost.push(`${size} ${what} do not divide over ${tensor} tensor ranks.`);
    }
    if (heads % tensor === 0 && keyValueHeads % tensor) {
      lost.push(`${keyValueHeads} key-value heads do not divide over ${tensor} tensor ranks.`);
    }
  }
  return lost;
}

function lostTypes({ job, optimizer: { zero } }: Plan): string[] {
  const { parameters, gradients, optimizer, linear, microBatchGradients } = job.dtypes;
  const lost: string[] = [];
  if (!["f32", "bf16", "f16"].includes(parameters)) {
    lost.push(`Parameters are ${parameters}, but Accelerate's mixed precision has f32, bf16 and f16.`);
  }
  // Master weights are f32 and so are their gradients, sharded or not.
  if (gradients !== "f32") {
    lost.push(`Gradients are ${gradients}, but under Accelerate those of f32 master weights are summed.`);
  }
  if (optimizer !== "f32") {
    lost.push(`The optimizer's state is ${optimizer}, but Accelerate keeps that of f32 master weights.`);
  }
  if (linear && linear !== parameters) {
    lost.push(`Linear layers compute in ${linear}, but this export leaves them in the parameters' type.`);
  }
  if (microBatchGradients && zero > 0) {
    lost.push("Gradients of one micro-batch stay beside their sums, which FSDP2 does not do.");
  }
  return lost;
}

interface Settings {
  [key: string]: string | number | boolean | Settings;
}

function configuration(plan: Plan): Settings {
  const { world, nodes } = nodeLayout(plan);
  const { zero, shards, data, tensor } = divisionOf(plan);
  const precision = { f32: "no", bf16: "bf16", f16: "fp16" }[plan.job.dtypes.parameters as "f32"] ?? "no";
  const sharded = zero > 0;
  return {
    compute_environment: "LOCAL_MACHINE",
    debug: false,
    distributed_type: sharded ? "FSDP" : world > 1 ? "MULTI_GPU" : "NO",
    downcast_bf16: "no",
    enable_cpu_affinity: false,
    machine_rank: 0,
    main_training_function: "main",
    mixed_precision: precision,
    num_machines: nodes,
    num_processes: world,
    rdzv_backend: nodes > 1 ? "c10d" : "static",
    same_network: true,
    use_cpu: false,
    ...(sharded
      ? {
          fsdp_config: {
            fsdp_version: 2,
            fsdp_auto_wrap_policy: "TRANSFORMER_BASED_WRAP",
            fsdp_reshard_after_forward: zero === 3,
            fsdp_activation_checkpointing: plan.stages[0]!.recompute === "full",
            fsdp_offload_params: false,
            fsdp_cpu_ram_efficient_loading: true,
            fsdp_state_dict_type: "SHARDED_STATE_DICT",
          },
          parallelism_config: {
            parallelism_config_dp_replicate_size: data / shards,
            parallelism_config_dp_shard_size: shards,
            parallelism_config_tp_size: tensor,
            parallelism_config_cp_size: 1,
            parallelism_config_sp_size: 1,
          },
        }
      : {}),
  };
}

/** JSON's scalars are YAML's. */
function yaml(settings: Settings, indent = ""): string {
  return Object.entries(settings)
    .map(([key, value]) =>
      typeof value === "object"
        ? `${indent}${key}:\n${yaml(value, `${indent}  `)}`
        : `${indent}${key}: ${JSON.stringify(value)}\n`,
    )
    .join("");
}

function module(plan: Plan): string {
  const { world } = nodeLayout(plan);
  const checkpointing = plan.optimizer.zero === 0 && plan.stages[0]!.recompute === "full";
  return `"""The Accelerator of a plan that mpopt made. See docs/launchers/accelerate.md."""

import os

from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin

PLAN = ${pythonString(plan.name)}
WORLD_SIZE = ${world}
# Sequences of one micro-batch on one replica, and micro-batches of one step.
MICRO_BATCH = ${plan.batch.micro}
MICRO_BATCHES = ${plan.schedule.microBatches}
GLOBAL_BATCH = ${plan.batch.global}
SEQUENCE = ${plan.batch.sequence}
# Whether the model has to recompute its layers by itself; FSDP does so by its configuration.
RECOMPUTE_IN_MODEL = ${checkpointing ? "True" : "False"}


def accelerator(**options):
    """An Accelerator for the plan's ranks, which sums gradients over its micro-batches."""
    found = int(os.environ.get("WORLD_SIZE", "1"))
    if found != WORLD_SIZE:
        raise SystemExit(f"Expected {WORLD_SIZE} ranks for the plan {PLAN} but found WORLD_SIZE={found}.")
    # Sharded gradients are reduced with every micro-batch, or they would be whole in between.
    plugin = GradientAccumulationPlugin(num_steps=MICRO_BATCHES, sync_each_batch=${plan.optimizer.zero > 0 ? "True" : "False"})
    return Accelerator(gradient_accumulation_plugin=plugin, **options)


def prepare_model(model):
    """Turns recomputation on where the configuration does not; call it before Accelerator.prepare."""
    if RECOMPUTE_IN_MODEL:
        model.gradient_checkpointing_enable()
    return model
`;
}

function runScript(plan: Plan): string {
  const { world, nodes } = nodeLayout(plan);
  const meeting =
    nodes === 1
      ? ""
      : ` --machine_rank "\${NODE_RANK:-0}" \\
  --main_process_ip "\${MASTER_ADDR:-127.0.0.1}" --main_process_port "\${MASTER_PORT:-29500}"`;
  return `#!/bin/sh
# Starts the plan's ${world} ranks${nodes === 1 ? "" : ", on every node with NODE_RANK, MASTER_ADDR and MASTER_PORT"}: ./run.sh [train.py [arguments]]
set -eu
[ $# -gt 0 ] || set -- train.py
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
printf 'Plan %s: %s ranks\\n' ${shellQuote(plan.name)} ${world} >&2
export MPOPT_PLAN="$here/plan.json"
export PYTHONPATH="$here\${PYTHONPATH:+:$PYTHONPATH}"
exec accelerate launch --config_file "$here/accelerate.yaml"${meeting} "$@"
`;
}
