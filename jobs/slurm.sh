#!/usr/bin/env bash
# A sweep on a Slurm allocation of one or more nodes: Ray starts on each of them, the sweep runs on the first.
#
#   sbatch jobs/slurm.sh sweep=demo
#   sbatch --nodes=4 --gpus-per-node=8 --cpus-per-task=32 jobs/slurm.sh sweep=mine executor.trial_resources.gpu=1
#
# Submit from the folder that holds .venv, outputs/ and mlflow.db, on a disk that all nodes share; where they share none, add
# executor.storage=s3://BUCKET/FOLDER. Arguments are posweep's own.
#
# Slurm's SIGTERM (90 s before the time limit, and before preemption where the cluster sends one) makes trials write checkpoints
# and give up their places; then the job is queued again, under the same id and log, and goes on from there. Where a node fails
# or preemption comes without a signal, Slurm itself queues it again. A sweep that ends by itself, well or not, is not queued
# again; scancel ends it for good. Submitting the same line once more continues it, whatever happened.
#SBATCH --job-name=posweep
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@90
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=posweep-%j.log
set -euo pipefail

bin=$PWD/.venv/bin
cpus=${SLURM_CPUS_PER_TASK:-1}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$head:$((20000 + SLURM_JOB_ID % 10000)) # two jobs on a node get different ports
ray_folder=${TMPDIR:-/tmp}/ray-$SLURM_JOB_ID

# Whoever reaches a Ray cluster can run anything on it: only processes that know this job's token are let in.
RAY_AUTH_TOKEN=$("$bin/python" -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

steps=()
signalled=
sweep=
trap 'signalled=yes; [ -z "$sweep" ] || kill -TERM "$sweep" 2>/dev/null || true' TERM
trap '[ ${#steps[@]} -eq 0 ] || kill "${steps[@]}" 2>/dev/null || true; wait; rm -rf "$ray_folder"' EXIT

# Ray is told what Slurm gave this job: by itself it would count the whole machine.
srun --nodes=1 --ntasks=1 --nodelist="$head" --cpus-per-task="$cpus" \
  "$bin/ray" start --block --head --port="${address#*:}" --num-cpus="$cpus" \
  --temp-dir="$ray_folder" --include-dashboard=false &
steps+=($!)
for _ in $(seq 120); do
  if [ -n "$signalled" ] || (exec 3<>"/dev/tcp/${address/:/\/}") 2>/dev/null; then break; fi
  if ! kill -0 "${steps[0]}" 2>/dev/null; then
    echo "Ray did not start on $head; its messages are above." >&2
    exit 1
  fi
  sleep 1
done
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ] && [ -z "$signalled" ]; then
  others=$((SLURM_JOB_NUM_NODES - 1))
  srun --nodes="$others" --ntasks="$others" --ntasks-per-node=1 --exclude="$head" --cpus-per-task="$cpus" \
    "$bin/ray" start --block --address="$address" --num-cpus="$cpus" &
  steps+=($!)
fi

if [ -z "$signalled" ]; then
  "$bin/posweep" "$@" "executor.address=$address" &
  sweep=$!
  code=0
  wait "$sweep" || code=$? # a signal ends this wait before the sweep has ended; another one brings the sweep's own code
  while kill -0 "$sweep" 2>/dev/null; do
    code=0
    wait "$sweep" || code=$?
  done
else
  code=130
fi

if [ -n "$signalled" ] && [ "$code" -ge 130 ]; then # 130 by itself; more where a signal ended it before it could answer
  echo "The sweep was interrupted by Slurm; job $SLURM_JOB_ID is queued again and will go on from here."
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
