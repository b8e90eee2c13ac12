#!/usr/bin/env bash
# One sweep on one Slurm node: Ray starts inside the allocation and uses all of it.
#
#   sbatch jobs/slurm_one_node.sh sweep=demo
#   sbatch --gpus=4 jobs/slurm_one_node.sh sweep=mine executor.trial_resources.gpu=1
#
# Submit from the folder that holds .venv, outputs/ and mlflow.db. Slurm's SIGTERM (time limit, preemption) ends the sweep with
# everything finished kept; submit the same line again to continue.
#SBATCH --job-name=posweep
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@60
#SBATCH --output=posweep-%j.log
set -euo pipefail

.venv/bin/posweep "$@" &
sweep=$!
trap 'kill -TERM "$sweep"' TERM
wait "$sweep" || true # a signal ends this wait early; the next one brings the sweep's own exit code
wait "$sweep"
