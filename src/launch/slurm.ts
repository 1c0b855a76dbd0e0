import type { Plan } from "../contracts/index.js";
import type { Exporter } from "./exporter.js";
import { innerExporter, labelOf, lostInside, type NodeExporters, startScript } from "./inner.js";
import { nodeLayout } from "./layout.js";

/**
 * Slurm: a batch script that gives the job whole nodes and starts, once a node, what another exporter writes into `run/`.
 * Ranks are then counted node by node, in the order of the plan's rank table.
 */
export function slurmOver(exporters: NodeExporters): Exporter {
  return {
    name: "slurm",
    runtime: "portable",
    lossy: (plan) => lostInside(plan, innerExporter(plan, exporters)),
    files(plan) {
      const inner = innerExporter(plan, exporters);
      const files = inner.files(plan);
      return {
        "job.sbatch": batchScript(plan, startScript(inner, files)),
        "ranks.csv": rankTable(plan),
        ...Object.fromEntries(Object.entries(files).map(([path, content]) => [`run/${path}`, content])),
      };
    },
  };
}

/** Seconds before the time limit at which the ranks are told to save and stop. */
const secondsToSave = 300;

function batchScript(plan: Plan, script: string): string {
  const { world, nodes, ranksPerNode } = nodeLayout(plan);
  const devices = plan.cluster.deviceType === "cpu" ? [] : [`#SBATCH --gpus-per-node=${ranksPerNode}`];
  const deviceCheck =
    plan.cluster.deviceType === "cpu"
      ? ""
      : `if [ "\${SLURM_GPUS_ON_NODE:-${ranksPerNode}}" != ${ranksPerNode} ]; then
  refuse "${ranksPerNode} GPUs a node" "\${SLURM_GPUS_ON_NODE}"
fi
`;
  return `#!/usr/bin/env bash
#SBATCH --job-name=${labelOf(plan.name)}
#SBATCH --nodes=${nodes}
#SBATCH --ntasks-per-node=1
${[...devices, "#SBATCH --exclusive"].join("\n")}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@${secondsToSave}
# ${world} ranks, ${ranksPerNode} a node. From this folder:
#   sbatch --partition=P --account=A --time=T job.sbatch [arguments of run/]
# sbatch also reads these from SBATCH_PARTITION, SBATCH_ACCOUNT and SBATCH_TIMELIMIT.
set -euo pipefail

# Yours, from the environment: an image for enroot and pyxis with what else it mounts, whether to go on after the time
# limit, the port of rank 0, further options of srun.
CONTAINER_IMAGE="\${CONTAINER_IMAGE:-}"
CONTAINER_MOUNTS="\${CONTAINER_MOUNTS:-}"
REQUEUE="\${REQUEUE:-1}"
MASTER_PORT="\${MASTER_PORT:-29500}"
SRUN_OPTIONS="\${SRUN_OPTIONS:-}"

refuse() {
  echo "Expected $1 for this plan but found $2." >&2
  exit 2
}

# Slurm runs a copy of this file, so that its own path does not tell where the export lies.
folder="\${MPOPT_FOLDER:-\${SLURM_SUBMIT_DIR:-$PWD}}"
start="$folder/run/${script}"
[ -f "$start" ] || refuse "run/${script} beside job.sbatch" "none in $folder (submit from there, or set MPOPT_FOLDER)"
if [ "\${SLURM_JOB_NUM_NODES:-0}" != ${nodes} ]; then
  refuse "${nodes} nodes of ${ranksPerNode} ranks (${world} ranks)" "\${SLURM_JOB_NUM_NODES:-0} nodes"
fi
${deviceCheck}
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
export NNODES=${nodes} MASTER_PORT MASTER_ADDR="\${hosts%%$'\\n'*}"

# One task a node, in the order of the nodes, with all of a node's cores: the ranks below it bind themselves.
options=(--nodes=${nodes} --ntasks=${nodes} --ntasks-per-node=1 --distribution=block:block --cpu-bind=none --kill-on-bad-exit=1)
if [ -n "$CONTAINER_IMAGE" ]; then
  options+=("--container-image=$CONTAINER_IMAGE" "--container-mounts=$folder:$folder\${CONTAINER_MOUNTS:+,$CONTAINER_MOUNTS}")
fi
read -r -a more <<<"$SRUN_OPTIONS"

# What a task does: it checks its place among the nodes, then becomes the script that starts its ranks.
node='
if [ "\${SLURM_NTASKS:?}" != ${nodes} ] || [ "\${SLURM_PROCID:?}" != "\${SLURM_NODEID:?}" ]; then
  echo "Expected task $SLURM_NODEID of ${nodes} on node $SLURM_NODEID but found $SLURM_PROCID of $SLURM_NTASKS." >&2
  exit 2
fi
export NODE_RANK="$SLURM_NODEID"
exec "$0" "$@"
'

# Before the time limit the ranks get SIGTERM, on which training scripts save; then the job queues again.
stopping=0
stop() {
  stopping=1
  signalled=1
  scancel --signal=TERM "$SLURM_JOB_ID"
}
trap stop USR1

srun "\${options[@]}" \${more[@]+"\${more[@]}"} bash -c "$node" "$start" "$@" &
step=$!
# A signal ends the wait, not the step: then it waits again.
signalled=1
while [ "$signalled" = 1 ]; do
  signalled=0
  status=0
  wait "$step" || status=$?
done
if [ "$stopping" = 1 ] && [ "$REQUEUE" = 1 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
`;
}

/** Where each rank runs, and its coordinates in the mesh. */
function rankTable(plan: Plan): string {
  const { ranksPerNode } = nodeLayout(plan);
  const rows = plan.rankTable.map((row, rank) =>
    [rank, Math.floor(rank / ranksPerNode), rank % ranksPerNode, ...row].join(","),
  );
  return `${[["rank", "node", "device", ...plan.mesh.axes].join(","), ...rows].join("\n")}\n`;
}
