import { fileURLToPath } from "node:url";
import { axisSize, type Plan, readText, serialize } from "../contracts/index.js";
import type { Exporter } from "./exporter.js";
import { jaxMesh } from "./jaxMesh.js";
import { lostRules, parameterRules, splitsLogits } from "./jaxRules.js";
import { isRowMajor, nodeLayout } from "./layout.js";
import { divisionOf, outsideRuntime } from "./outside.js";
import { shellQuote } from "./shell.js";

/** What plan_sharding.py does with the constants that the exporter writes above it. */
const bodyPath = fileURLToPath(new URL("../../bindings/python/jax_sharding.py", import.meta.url));

/** JAX: one module with the plan's mesh and PartitionSpecs, and the command that starts a process on each host. */
export const jax: Exporter = {
  name: "jax",
  runtime: "jax",
  lossy,
  files: (plan) => ({
    "plan.json": serialize(plan),
    "plan_sharding.py": moduleText(plan),
    "run.sh": runScript(plan),
  }),
};

const dtypeNames = new Map([
  ["f32", "float32"],
  ["bf16", "bfloat16"],
]);

function lossy(plan: Plan): string[] {
  const lost = outsideRuntime(plan, "jax", "plan_sharding.py");
  const { architecture } = plan.model;
  if (plan.stages.length > 1 && axisSize(plan, "pipeline") === 1) {
    lost.push("Layers are divided into stages of one rank, but plan_sharding.py has no pipeline.");
  }
  if (!isRowMajor(plan)) lost.push("The rank table does not number the mesh row by row.");
  if (plan.job.expertCapacity) {
    lost.push("Experts have a capacity, but plan_sharding.py leaves them to the model.");
  }
  if (architecture?.nextTokenPredictions) {
    lost.push("The model predicts further tokens, but plan_sharding.py has one loss.");
  }
  return [...lost, ...lostTypes(plan), ...lostSizes(plan), ...lostRules(plan)];
}

function lostTypes({ job }: Plan): string[] {
  const { parameters, gradients, optimizer, linear, microBatchGradients } = job.dtypes;
  const lost: string[] = [];
  for (const [what, dtype] of Object.entries({ parameters, gradients, "optimizer's states": optimizer })) {
    if (!dtypeNames.has(dtype)) {
      lost.push(`The ${what} are ${dtype}, but plan_sharding.py keeps them in f32 or bf16.`);
    }
  }
  if (linear && linear !== parameters) {
    lost.push(
      `Linear layers compute in ${linear}, but plan_sharding.py leaves them in the parameters' type.`,
    );
  }
  if (microBatchGradients) {
    lost.push("Gradients of one micro-batch stay beside their sums, but plan_sharding.py has sums alone.");
  }
  return lost;
}

/** JAX's arrays are cut into equal parts alone. */
function lostSizes(plan: Plan): string[] {
  const { architecture } = plan.model;
  const tensor = axisSize(plan, "tensor");
  const context = axisSize(plan, "context");
  const lost: string[] = [];
  const sequences = context * (plan.mesh.sequenceParallel ? tensor : 1);
  if (plan.batch.sequence % sequences) {
    lost.push(`${plan.batch.sequence} tokens do not divide over ${sequences} ranks.`);
  }
  if (!architecture) return lost;
  const { zero, shards } = divisionOf(plan);
  if (zero > 0 && architecture.hidden % shards) {
    lost.push(
      `A hidden size of ${architecture.hidden} does not divide over ${shards} ranks of ZeRO-${zero}.`,
    );
  }
  if (tensor * context === 1) return lost;
  const { heads, keyValueHeads, ffn, vocabulary } = architecture;
  if (heads % (tensor * context)) {
    lost.push(`${heads} attention heads do not divide over ${tensor * context} tensor and context ranks.`);
  } else if (keyValueHeads % (tensor * context)) {
    lost.push(
      `${keyValueHeads} key-value heads do not divide over ${tensor * context} tensor and context ranks.`,
    );
  }
  if (ffn % tensor) lost.push(`${ffn} features do not divide over ${tensor} tensor ranks.`);
  if (splitsLogits(plan) && vocabulary % tensor) {
    lost.push(`A vocabulary of ${vocabulary} does not divide over ${tensor} tensor ranks.`);
  }
  return lost;
}

/**
 * Where activations lie, over all replicas: `tokens` [batch, sequence], `residual` [batch, sequence, hidden] between
 * blocks, `heads` [batch, sequence, heads, head size] in attention, `features` [batch, sequence, features] inside a
 * block, `logits` [batch, sequence, vocabulary]. Context-parallel ranks exchange sequence for heads around attention.
 */
function activations(plan: Plan): Record<string, (string | string[] | null)[]> {
  const { mapped, batch, axes } = jaxMesh(plan);
  const join = (...names: string[]) => (names.length > 1 ? names : (names[0] ?? null));
  const over = (axis: string) => (axes.includes(axis) ? [axis] : []);
  const sequences = join(...[...mapped, ...batch]);
  const tokens = join(...over("context"));
  const residual = plan.mesh.sequenceParallel ? join(...over("context"), "tensor") : tokens;
  return {
    tokens: [sequences, tokens],
    residual: [sequences, residual, null],
    heads: [sequences, null, join("tensor", ...over("context")), null],
    features: [sequences, tokens, "tensor"],
    logits: [sequences, tokens, splitsLogits(plan) ? "tensor" : null],
  };
}

/** The module: a docstring, the plan in constants, and the functions that read them. */
function moduleText(plan: Plan): string {
  const { nodes, ranksPerNode } = nodeLayout(plan);
  const { axes, shape, state, mapped, batch } = jaxMesh(plan);
  const { parameters, gradients, optimizer } = plan.job.dtypes;
  const dtype = (name: string) => text(dtypeNames.get(name) ?? "float32");
  const recompute = plan.stages[0]!;
  const rules = parameterRules(plan).map(({ pattern, spec }) => `    (${text(pattern)}, ${tuple(spec)}),`);
  const kinds = Object.entries(activations(plan)).map(([kind, spec]) => `    ${text(kind)}: ${tuple(spec)},`);
  const constants: [string, string][] = [
    ["PLAN", text(plan.name)],
    ["MESH_AXES", tuple(axes)],
    ["MESH_SHAPE", tuple(shape)],
    ["HOSTS", String(nodes)],
    ["DEVICES_PER_HOST", String(ranksPerNode)],
    ["ZERO", String(plan.optimizer.zero)],
    ["STATE_AXES", tuple(state)],
    ["MAPPED_AXES", tuple(mapped)],
    ["BATCH_AXES", tuple(batch)],
    ["GLOBAL_BATCH", String(plan.batch.global)],
    ["MICRO_BATCH", String(plan.batch.micro)],
    ["MICRO_BATCHES", String(plan.schedule.microBatches)],
    ["SEQUENCE", String(plan.batch.sequence)],
    ["LAYERS", String(plan.model.blockLayers)],
    ["REMAT", text(recompute.recompute)],
    ["REMAT_LAYERS", String(recompute.recomputeLayers ?? 0)],
    ["PARAMETER_DTYPE", dtype(parameters)],
    ["GRADIENT_DTYPE", dtype(gradients)],
    ["OPTIMIZER_DTYPE", dtype(optimizer)],
  ];
  return [
    '"""Mesh and shardings of a plan that mpopt made, for JAX; needs jax and numpy. See docs/launchers/jax.md."""',
    "",
    ...constants.map(([name, value]) => `${name} = ${value}`),
    "# Parameters over tensor ranks: a pattern of paths, then the mesh axis of each of the last dimensions.",
    "RULES = (",
    ...rules,
    ")",
    "# Activations over all replicas: the mesh axes of each dimension.",
    "ACTIVATIONS = {",
    ...kinds,
    "}",
    "",
    readText(bodyPath),
  ].join("\n");
}

/** A Python string; JSON's escapes are Python's. */
function text(value: string): string {
  return JSON.stringify(value);
}

/** A Python tuple of strings, numbers, None and tuples of strings. */
function tuple(values: readonly (string | number | null | string[])[]): string {
  const items = values.map((value) => {
    if (value === null) return "None";
    if (typeof value === "number") return String(value);
    return typeof value === "string" ? text(value) : tuple(value);
  });
  return items.length === 1 ? `(${items[0]},)` : `(${items.join(", ")})`;
}

/** Starts this host's process; the devices of a host belong to one process. */
function runScript(plan: Plan): string {
  const { world, nodes, ranksPerNode } = nodeLayout(plan);
  const join =
    nodes === 1
      ? ""
      : `if [ "\${NNODES:-${nodes}}" != ${nodes} ]; then
  echo "Expected ${nodes} nodes of ${ranksPerNode} devices for this plan but found NNODES=$NNODES." >&2
  exit 2
fi
export JAX_PROCESS_ID="\${NODE_RANK:?the index of this node, from 0}"
export JAX_COORDINATOR_ADDRESS="\${MASTER_ADDR:?the first node}:\${MASTER_PORT:-29500}"
`;
  return `#!/bin/sh
# Starts a process for the plan's ${world} devices${nodes === 1 ? "" : ` on each of ${nodes} nodes`}: ./run.sh train.py [arguments]
set -eu
if [ $# -eq 0 ]; then
  echo 'Usage: run.sh train.py [arguments]' >&2
  exit 2
fi
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
printf 'Plan %s: %s devices\\n' ${shellQuote(plan.name)} ${world} >&2
${join}export MPOPT_PLAN="$here/plan.json"
export PYTHONPATH="$here\${PYTHONPATH:+:$PYTHONPATH}"
exec "\${MPOPT_PYTHON:-python3}" "$@"
`;
}
