import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { axisSize, MpoptError, type Plan, readText, serialize } from "../contracts/index.js";
import type { Exporter } from "./exporter.js";
import { isRowMajor, nodeLayout } from "./layout.js";
import { isPlainSchedule, scheduleCsvOf } from "./schedule.js";
import { shellQuote } from "./shell.js";

/** The Python module that applies a plan; it needs PyTorch alone and ships as it stands in the repository. */
export const applyPlanPath = fileURLToPath(new URL("../../bindings/python/apply_plan.py", import.meta.url));
/** Its parts, beside it. */
const applyPlanParts = [
  "plan_common.py",
  "plan_data.py",
  "plan_recompute.py",
  "plan_schedule.py",
  "plan_sharded.py",
  "plan_tensor.py",
  "plan_ties.py",
];

/** Plain torch.distributed: the plan, the module that applies it, and the command that starts the ranks. */
export const torch: Exporter = {
  name: "torch",
  runtime: "torch",
  lossy,
  files: (plan) => ({
    "plan.json": serialize(plan),
    ...scheduleFile(plan),
    "apply_plan.py": readText(applyPlanPath),
    ...Object.fromEntries(applyPlanParts.map((name) => [name, readText(join(dirname(applyPlanPath), name))])),
    "run.sh": runScript(plan),
    "README.md": readme(plan),
  }),
};

/**
 * The actions that the ranks run, as CSV; undefined where they follow from the schedule's name, and where they cannot
 * be written.
 */
export function scheduleActions(plan: Plan): string | undefined {
  if (plan.stages.length === 1 || isPlainSchedule(plan) || lossySchedule(plan).length) return undefined;
  return scheduleCsvOf(plan);
}

function scheduleFile(plan: Plan): Record<string, string> {
  const actions = scheduleActions(plan);
  return actions === undefined ? {} : { "schedule.csv": actions };
}

/** Everything that `apply_plan.py` refuses or would run otherwise than planned. */
function lossy(plan: Plan): string[] {
  const lost = [...lossySchedule(plan), ...lossyState(plan), ...lossyTypes(plan)];
  if (!isRowMajor(plan)) lost.push("The rank table does not number the mesh row by row.");
  if (axisSize(plan, "context") > 1) {
    lost.push("Sequences are divided over context-parallel ranks, but apply_plan.py keeps them whole.");
  }
  if (plan.mesh.experts) {
    lost.push("Experts are divided over ranks, but apply_plan.py leaves them to the model.");
  }
  if (plan.job.expertCapacity) {
    lost.push("Experts have a capacity, but apply_plan.py leaves them to the model.");
  }
  if (plan.model.architecture?.nextTokenPredictions) {
    lost.push("The model predicts further tokens, but apply_plan.py runs one head on the last stage.");
  }
  return [...lost, ...lossyTensor(plan)];
}

/** Where parameters, gradients and the optimizer's state live. */
function lossyState(plan: Plan): string[] {
  const { zero, shards, offload = "none" } = plan.optimizer;
  const lost: string[] = [];
  if (zero > 1 && (plan.stages.length > axisSize(plan, "pipeline") || splitsBackwards(plan))) {
    lost.push(
      `Parameters or gradients are sharded (ZeRO-${zero}) under the schedule ${plan.schedule.name}, but apply_plan.py shards them where each rank has one stage and whole backward passes.`,
    );
  }
  const data = axisSize(plan, "data");
  if (zero > 0 && shards && data % shards) {
    lost.push(`Sharding groups of ${shards} ranks do not divide the ${data} data ranks.`);
  }
  if (offload !== "none") {
    lost.push(
      `Host memory takes what is not used (offload ${offload}), but apply_plan.py leaves all on the device.`,
    );
  }
  return lost;
}

/** Whether some backward passes run in two halves. */
function splitsBackwards(plan: Plan): boolean {
  return /\d[IW]\d/.test(scheduleActions(plan) ?? "");
}

function lossyTypes({ job }: Plan): string[] {
  const { parameters, gradients, optimizer, linear, microBatchGradients } = job.dtypes;
  const lost: string[] = [];
  for (const [what, dtype] of Object.entries({ parameters, gradients, "optimizer's states": optimizer })) {
    if (dtype !== "f32" && dtype !== "bf16") {
      lost.push(`The ${what} are ${dtype}, but apply_plan.py keeps them in f32 or bf16.`);
    }
  }
  if (linear && linear !== parameters) {
    lost.push(`Linear layers compute in ${linear}, but apply_plan.py leaves them in the parameters' type.`);
  }
  if (microBatchGradients) {
    lost.push("Gradients of one micro-batch stay beside their sums, but apply_plan.py has sums alone.");
  }
  return lost;
}

function lossySchedule(plan: Plan): string[] {
  const { stages, schedule } = plan;
  const pipeline = axisSize(plan, "pipeline");
  const held = Array.from({ length: pipeline }, (_, r) => stages.filter(({ rank }) => rank === r).length);
  if (held.some((count) => count === 0 || count !== held[0])) {
    return [
      `Pipeline ranks hold ${held.join(", ")} stages, but PyTorch's runtime wants equally many on each.`,
    ];
  }
  if (stages.length === 1 || isPlainSchedule(plan)) return [];
  try {
    scheduleCsvOf(plan);
    return [];
  } catch (error) {
    if (!(error instanceof MpoptError)) throw error;
    return [`PyTorch's runtime cannot run the schedule ${schedule.name}: ${error.message}`];
  }
}

function lossyTensor(plan: Plan): string[] {
  const tensor = axisSize(plan, "tensor");
  if (tensor === 1) return [];
  const lost: string[] = [];
  const architecture = plan.model.architecture;
  if (architecture) {
    const { heads, keyValueHeads, experts } = architecture;
    if (heads % tensor) lost.push(`${heads} attention heads do not divide over ${tensor} tensor ranks.`);
    else if (keyValueHeads % tensor) {
      lost.push(`${keyValueHeads} key-value heads do not divide over ${tensor} tensor ranks.`);
    }
    if (experts)
      lost.push("Experts are split over tensor ranks, but apply_plan.py splits dense layers only.");
  }
  if (plan.mesh.sequenceParallel && plan.batch.sequence % tensor) {
    lost.push(`${plan.batch.sequence} tokens do not divide over ${tensor} tensor ranks.`);
  }
  for (const { operator, sharding } of plan.operators) {
    const placements = sharding.tensor;
    // Activations are [batch, sequence, features...]: their axis 0 is the batch.
    if (placements?.outputs.includes("Shard(0)")) {
      lost.push(
        `Operator ${operator} splits the batch over tensor ranks, but apply_plan.py splits features.`,
      );
    }
  }
  return lost;
}

function runScript(plan: Plan): string {
  const { world, nodes, ranksPerNode } = nodeLayout(plan);
  const rendezvous =
    nodes === 1
      ? `  --standalone --nnodes 1 \\`
      : `  --nnodes ${nodes} --node-rank "\${NODE_RANK:?the index of this node, from 0}" \\
  --rdzv-backend c10d --rdzv-endpoint "\${MASTER_ADDR:?the first node}:\${MASTER_PORT:-29500}" --rdzv-id mpopt \\`;
  return `#!/bin/sh
# Starts the plan's ${world} ranks${nodes === 1 ? "" : `, ${ranksPerNode} a node`}: ./run.sh train.py [arguments]
set -eu
if [ $# -eq 0 ]; then
  echo 'Usage: run.sh train.py [arguments]' >&2
  exit 2
fi
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
printf 'Plan %s: %s ranks\\n' ${shellQuote(plan.name)} ${world} >&2
export MPOPT_PLAN="$here/plan.json"
unset MPOPT_SCHEDULE
export PYTHONPATH="$here\${PYTHONPATH:+:$PYTHONPATH}"
export OMP_NUM_THREADS="\${OMP_NUM_THREADS:-1}"
exec "\${MPOPT_PYTHON:-python3}" -m torch.distributed.run \\
${rendezvous}
  --nproc-per-node ${ranksPerNode} "$@"
`;
}

function readme(plan: Plan): string {
  const { world, nodes, ranksPerNode } = nodeLayout(plan);
  const mesh = plan.mesh.axes.map((axis, i) => `${axis} ${plan.mesh.sizes[i]}`).join(" x ");
  const start =
    nodes === 1
      ? "    ./run.sh train.py"
      : `On each of ${nodes} nodes, with ${ranksPerNode} devices each:

    NODE_RANK=0 MASTER_ADDR=first-node ./run.sh train.py`;
  return `# Plan for torch.distributed

Mesh: ${mesh}, ${world} ranks. ${plan.schedule.microBatches} micro-batches of ${plan.batch.micro} sequences,
${plan.stages.length} stage(s), schedule ${plan.schedule.name}, ZeRO-${plan.optimizer.zero}.

- \`plan.json\`: the plan (mpopt.plan/1).
${scheduleActions(plan) === undefined ? "" : "- `schedule.csv`: what each pipeline rank does, one row a rank, in PyTorch's form.\n"}- \`apply_plan.py\` with its parts \`plan_*.py\`: applies it to a model; needs PyTorch and nothing else.
- \`run.sh\`: starts the ranks through torchrun.

In \`train.py\`:

\`\`\`python
from apply_plan import Planned

planned = Planned.from_file()           # $MPOPT_PLAN, which run.sh sets
planned.setup(
    model,                              # built alike on every rank
    loss_fn,                            # loss_fn(logits, targets): mean over one micro-batch
    optimizer=lambda named: torch.optim.AdamW(named.values(), lr=3e-4),
)
for inputs, targets in batches:         # ${plan.batch.global} sequences of ${plan.batch.sequence} tokens
    loss = planned.train_step(planned.local_batch(inputs), planned.local_batch(targets))
\`\`\`

The model's modules carry the names in \`plan.json\` under \`stages[].modules\`. Start it:

${start}
`;
}
