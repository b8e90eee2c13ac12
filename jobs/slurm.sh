#!/usr/bin/env bash
# A sweep on a Slurm allocation of one or more nodes (Slurm 20.11 or newer): Ray starts on each of them with all CPUs
# and GPUs that the job has there, the sweep runs on the first.
#
#   sbatch jobs/slurm.sh sweep=demo
#   sbatch --nodes=2 --gpus-per-node=8 --cpus-per-task=64 --mem=400G jobs/slurm.sh sweep=paper
#   sbatch --nodes=2 --gpus-per-node=8 --exclusive --mem=0 jobs/slurm.sh sweep=paper
#
# Arguments are posweep's own. What sbatch is told on the command line wins over the lines below, which ask for little:
#   GPUs    --gpus-per-node, --gres=gpu:N, --gpus or --gpus-per-task; a trial uses one where
#           executor.trial_resources.gpu=1 says so (sweep=paper, small_gpu and own do).
#   CPUs    a trial asks for executor.trial_resources.cpu cores (4 in sweep=paper): 8 GPUs a node need 8 times as many
#           CPUs a node, or some GPUs are idle; posweep says so and starts nothing. --exclusive gives all CPUs of the
#           nodes.
#   memory  --mem is of a node; the default of many clusters is a few GB per CPU. Trials, the driver and Ray share it:
#           count what a trial takes times the trials of a node. --mem=0 gives all memory of the nodes.
#
# Submit from the folder that holds outputs/, on a disk that all nodes share; where they share none, add
# executor.storage=s3://BUCKET/FOLDER. From the environment of sbatch come
#   POSWEEP_ENV      the environment with posweep: a folder with bin/posweep (venv, conda). Without it .venv in that
#                    folder, or what is on the PATH (conda activate, module load before sbatch). Its name is the same on
#                    all nodes.
#   POSWEEP_SECRETS  a file of yours alone (mode 0600) with lines like HF_TOKEN=…: OPENAI_API_KEY,
#                    MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD, AWS_ACCESS_KEY_ID, … Without it
#                    ~/.config/posweep/secrets, if that is there. Never on a command line: everybody on the cluster can
#                    read those.
#   HF_HOME          where weights are kept (~/.cache/huggingface). On a disk that all nodes share, they are fetched
#                    once; elsewhere every node fetches them. Nodes without internet: fetch on the login node (hf
#                    download NAME), and submit with HF_HUB_OFFLINE=1.
#
# MLflow: the default is the file mlflow.db, for one job at a time, on a disk where SQLite can lock. Jobs side by side
# want a server (tracking.uri=http://HOST:5000), or tracking=none, and posweep sync when they have ended.
#
# Slurm's SIGTERM (90 s before the time limit, and before preemption where the cluster sends one) makes trials write
# checkpoints and give up their places; then the job is queued again, under the same id and log, and goes on from there.
# Where a node fails or preemption comes without a signal, Slurm itself queues it again. A sweep that ends by itself,
# well or not, is not queued again; scancel ends it for good. Submitting the same line once more continues it, whatever
# happened. Of what is temporary nothing stays on any node.
#
# One task of a job array is a job of its own and needs a sweep of its own: a script that ends with exec bash
# jobs/slurm.sh "sweep.name=mine-$SLURM_ARRAY_TASK_ID" … (and has the lines below itself) makes it one.
#SBATCH --job-name=posweep
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@90
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=posweep-%j.log
set -euo pipefail

# --- what every node does: these functions also travel to the other nodes

# This job's folders on this node. Names of sockets may have 107 bytes, of which Ray takes 66: TMPDIR is often too long.
name_folders() {
  scratch=/tmp
  if [ -d "${TMPDIR:-}" ] && [ -w "$TMPDIR" ]; then scratch=$TMPDIR; fi
  scratch=$scratch/posweep-job-$SLURM_JOB_ID
  ray_folder=$scratch
  if [ ${#scratch} -gt 40 ]; then ray_folder=/tmp/posweep-job-$SLURM_JOB_ID; fi
}

remove_folders() {
  name_folders
  rm -rf "$scratch" "$ray_folder"
}

# Ray on this node until SIGTERM; the arguments make it a head, or a node that joins one. Ray is told what Slurm gave
# this job here, for by itself it counts the machine: all CPUs, and a third of all memory for objects, of which a sweep
# has few. Ports are the system's choice: Ray's usual ones may belong to another job on this node.
serve_ray() {
  trap '[ -z "${ray:-}" ] || kill "$ray" 2>/dev/null || true' TERM INT
  trap remove_folders EXIT
  name_folders
  for folder in "$scratch" "$ray_folder"; do
    mkdir -m 700 "$folder" 2>/dev/null || true # it is there when this job was queued again
    if [ ! -d "$folder" ] || [ ! -O "$folder" ]; then
      echo "TMPDIR: $folder is no folder of yours on $(hostname); set TMPDIR to one that is on every node." >&2
      exit 2
    fi
  done
  gpus=${SLURM_GPUS_ON_NODE:-}
  if [ -z "$gpus" ] && [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    commas=${CUDA_VISIBLE_DEVICES//[!,]/}
    gpus=$((${#commas} + 1))
  fi
  TMPDIR=$scratch "$bin/ray" start --block "$@" --num-cpus="${SLURM_CPUS_ON_NODE:-$(nproc)}" --num-gpus="${gpus:-0}" \
    --object-store-memory=1000000000 --temp-dir="$ray_folder" \
    --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0 &
  ray=$!
  code=0
  wait "$ray" || code=$?
  while kill -0 "$ray" 2>/dev/null; do wait "$ray" || code=$?; done # the signal ended the first wait, not Ray
  exit "$code"
}

# shellcheck disable=SC2329
join_ray() {
  if [ "${SLURMD_NODENAME:-$(hostname)}" = "$head_node" ]; then exit 0; fi # Ray is there already
  serve_ray --address="$address"
}

# --- what this job has: programs, secrets, nodes

secrets=${POSWEEP_SECRETS:-${HOME:-}/.config/posweep/secrets}
if [ -n "${POSWEEP_SECRETS:-}" ] && [ ! -r "$secrets" ]; then
  echo "POSWEEP_SECRETS: $secrets cannot be read; name a file with lines like HF_TOKEN=…, or unset it." >&2
  exit 2
fi
if [ -r "$secrets" ]; then
  if [ -n "$(find -L "$secrets" -maxdepth 0 -perm /077)" ]; then
    echo "POSWEEP_SECRETS: others may read $secrets; chmod 600 $secrets" >&2
    exit 2
  fi
  set -a +u
  # shellcheck source=/dev/null
  . "$secrets"
  set +a -u
fi

if [ -n "${POSWEEP_ENV:-}" ]; then
  bin=$POSWEEP_ENV/bin
elif [ -x "$PWD/.venv/bin/posweep" ]; then
  bin=$PWD/.venv/bin
else
  bin=$(dirname "$(command -v posweep || echo "$PWD/.venv/bin/posweep")")
fi
for program in posweep ray python; do
  if [ ! -x "$bin/$program" ]; then
    echo "POSWEEP_ENV: no $program in $bin; set it to the environment's folder (the one with bin/posweep), or activate" \
      "that environment before sbatch." >&2
    exit 2
  fi
done

nodes=$SLURM_JOB_NUM_NODES
head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# Whoever reaches a Ray cluster can run anything on it: only processes that know this job's token are let in.
RAY_AUTH_TOKEN=$("$bin/python" -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

# One task on every node, with all that the job has there: all CPUs (a step without --cpus-per-task gets them), the job's
# memory, its GPUs. --overlap: no step waits for what another one holds. What sbatch was told per task would give a part.
on_every_node=(srun --overlap --export=ALL --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --mem=0 --cpu-bind=none
  --wait=0 --kill-on-bad-exit=0)
if [ -n "${SLURM_GPUS_PER_TASK:-}" ] || [[ ${SLURM_TRES_PER_TASK:-} == *gpu* ]]; then
  on_every_node+=(--gpus-per-node="${SLURM_GPUS_ON_NODE:-0}")
fi
unset SLURM_CPUS_PER_TASK SLURM_CPUS_PER_GPU SLURM_TRES_PER_TASK SLURM_GPUS_PER_TASK SLURM_NTASKS_PER_NODE \
  SLURM_NTASKS_PER_GPU SLURM_NTASKS_PER_CORE SLURM_NTASKS_PER_SOCKET SLURM_GPU_BIND SLURM_TRES_BIND SLURM_DISTRIBUTION \
  SLURM_EXACT SLURM_EXCLUSIVE

# --- the job

running=() # Ray on this node, and the step that has it on the others
signalled=
sweep=
trap 'signalled=yes; [ -z "$sweep" ] || kill -TERM "$sweep" 2>/dev/null || true' TERM
trap clean_up EXIT

clean_up() {
  trap - EXIT
  for process in ${running[@]+"${running[@]}"}; do kill "$process" 2>/dev/null || true; done
  for _ in $(seq 100); do # a node that is gone answers no signal
    if [ ${#running[@]} -eq 0 ] || ! kill -0 "${running[@]}" 2>/dev/null; then break; fi
    sleep 0.2
  done
  remove_folders || true
  if [ "$nodes" -gt 1 ]; then # where Ray was killed before it could do this itself
    timeout 30 "${on_every_node[@]}" bash -c "$(declare -f name_folders remove_folders); remove_folders" || true
  fi
}

# Between Ray's usual ports and those that the system gives away; free now, though not for sure when Ray starts.
free_port() {
  "$bin/python" -c '
import random, socket
for port in random.sample(range(20000, 30000), 1000):
    try:
        socket.create_server(("", port)).close()
        break
    except OSError:
        continue
print(port)'
}

name_folders
for _ in 1 2 3; do
  address=$head_node:$(free_port)
  (serve_ray --head --port="${address#*:}" --include-dashboard=false) &
  running=($!)
  for _ in $(seq 600); do # two minutes
    if [ -n "$signalled" ]; then break 2; fi
    # Ray gives itself 30 s for the second of these, after the first, and on a busy node may end for lack of time.
    if (exec 3<>"/dev/tcp/${address/://}") 2>/dev/null && [ -e "$ray_folder/session_latest/sockets/raylet" ]; then break 2; fi
    kill -0 "${running[0]}" 2>/dev/null || break
    sleep 0.2
  done
  kill "${running[0]}" 2>/dev/null || true
  wait "${running[0]}" || true
done
if [ -z "$signalled" ] && ! kill -0 "${running[0]}" 2>/dev/null; then
  echo "Ray did not start on $head_node; its messages are above." >&2
  exit 1
fi
if [ "$nodes" -gt 1 ] && [ -z "$signalled" ]; then
  "${on_every_node[@]}" \
    bash -c "$(declare -p bin head_node address; declare -f name_folders remove_folders serve_ray join_ray); join_ray" &
  running+=($!)
fi

if [ -z "$signalled" ]; then
  TMPDIR=$scratch "$bin/posweep" "$@" "executor.address=$address" &
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

clean_up
if [ -n "$signalled" ] && [ "$code" -ge 130 ]; then # 130 by itself; more where a signal ended it before it could answer
  echo "The sweep was interrupted by Slurm; job $SLURM_JOB_ID is queued again and will go on from here."
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
