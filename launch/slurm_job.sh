#!/usr/bin/env bash
# The batch script that launch/gpu_slurm.sh submits: slurm_job.sh ENV_FILE ARGUMENTS…, in the checkout.
# ENV_FILE may be "".
#
# Two minutes before the time limit, and when it preempts with a grace time, SLURM sends SIGTERM to the steps,
# not to this script. The run saves and ends with 143, and the job puts itself back into the queue under its
# number. If a node fails, or it preempts without a grace time, SLURM requeues the job itself. `scancel` sends
# SIGTERM to this script, too, which must then end at once, as it does without a trap: `scontrol requeue`
# would revive a job that is being cancelled.
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append
set -euo pipefail
env_file="$1"
shift

if ! [ -x .venv/bin/python ]; then
  echo "$PWD/.venv/bin/python: not found on $(hostname). The compute nodes must see the checkout." >&2
  exit 1
fi
if [ -n "$env_file" ]; then
  set -a
  # shellcheck disable=SC1090
  source "$env_file"
  set +a
fi

# A proxy does not know the nodes: through it, processes would wait for process 0 until they give up. For
# everything else, such as logging over the network, the proxy stays in use.
if [ -n "${http_proxy:-}${https_proxy:-}${grpc_proxy:-}" ]; then
  hosts="$(scontrol show hostnames "$SLURM_JOB_NODELIST")" others="${no_proxy:-${NO_PROXY:-}}"
  no_proxy="${hosts//$'\n'/,}${others:+,$others}"
  export no_proxy no_grpc_proxy="$no_proxy"
fi

start=$((${SLURM_RESTART_COUNT:-0} + 1))
echo "$(date '+%F %T') job $SLURM_JOB_ID, start $start: $SLURM_NTASKS processes on $SLURM_JOB_NODELIST"
code=0
# Every process must see all GPUs of its node, since JAX uses the one with the process's local number. A
# process that ended must not kill others that are still saving: a run that lost a process ends by itself.
PYTHONUNBUFFERED=1 srun --export=ALL --label --kill-on-bad-exit=0 --gpu-bind=none \
  --cpus-per-task="$SLURM_CPUS_PER_TASK" .venv/bin/python -m electra_jax.pretrain "$@" || code=$?
if [ "$code" -ne 143 ]; then
  echo "$(date '+%F %T') job $SLURM_JOB_ID ended with exit code $code"
  exit "$code"
fi
echo "$(date '+%F %T') job $SLURM_JOB_ID was told to stop and goes back into the queue"
scontrol requeue "$SLURM_JOB_ID" || {
  echo "job $SLURM_JOB_ID could not be requeued. Submit it again with the same arguments to resume it." >&2
  exit 143
}
