#!/usr/bin/env bash
# A site's settings in one place, for every plan: submit.sh FOLDER [arguments of run/]
# FOLDER is what `mpopt export plan.json --to slurm -o FOLDER` wrote.
set -euo pipefail

# Yours; empty ones are left to Slurm's defaults.
PARTITION="${PARTITION:-}"
ACCOUNT="${ACCOUNT:-}"
TIME="${TIME:-}"
export CONTAINER_IMAGE="${CONTAINER_IMAGE:-}"
export CONTAINER_MOUNTS="${CONTAINER_MOUNTS:-}"
# Where ranks start: the folder of Megatron-LM or of your training script.
WORK="${WORK:-$PWD}"

if [ $# -eq 0 ]; then
  echo 'Usage: submit.sh FOLDER [arguments]' >&2
  exit 2
fi
folder=$(cd -- "$1" && pwd)
shift
export MPOPT_FOLDER="$folder"
exec sbatch --chdir="$WORK" ${PARTITION:+--partition="$PARTITION"} ${ACCOUNT:+--account="$ACCOUNT"} \
  ${TIME:+--time="$TIME"} "$folder/job.sbatch" "$@"
