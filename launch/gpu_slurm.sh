#!/usr/bin/env bash
# Submit pre-training to SLURM from the login node. `bash launch/gpu_slurm.sh --help` explains; the job is launch/slurm_job.sh.
set -euo pipefail
# shellcheck disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/options.sh"

usage() {
  cat <<'END'
Pre-train on the GPUs of a SLURM cluster. On the login node:

    bash launch/gpu_slurm.sh --nodes=2 --gpus_per_node=8 --partition=gpu --time=24:00:00 -- \
        --config=configs/electra.py:size=base --config.data.datasets=/scratch/corpus --workdir=/scratch/runs/base --distributed

installs the environment into .venv (jax[cuda12]; once, here, since compute nodes often have no network and would do it all
at the same time), submits the job and prints its number. What follows -- are the arguments of `python -m electra_jax.pretrain`.
Checkout, datasets and run directory must lie where the compute nodes see them.

    --nodes=N           (default 1)
    --gpus_per_node=G   (default 1); there is one process for every GPU. More than one in all need --distributed
    --cpus_per_gpu=C    (default 4) for reading data and compiling
    --partition=P --account=A --time=T   default: the cluster's
    --job_name=NAME     default: the name of the run directory
    --env_file=FILE     secrets for the run: a shell file of NAME=VALUE lines with mode 600, seen by the compute nodes. It is
                        read there, when the job starts; its values are in no command line
    --sbatch=OPTION     any other option of sbatch, and instead of those above: --sbatch=--qos=long --sbatch=--gres=gpu:a100:8
    --dry_run           print the commands, run none

The log is RUN_DIRECTORY/slurm-JOB.log; `squeue --job=JOB` shows the job.

    scancel JOB                  ends it for good. It saves, if it can within the cluster's KillWait (often 30 seconds)
    scancel --signal=TERM JOB    it saves, goes back into the queue, and later on from there
    the same command again       goes on from the newest checkpoint

Two minutes before its time limit, and when it is preempted, the run is told to stop: it saves, and the job goes back into the
queue under the same number. Where two minutes are not enough to save: --sbatch=--signal=TERM@600. A job that fails is not
started again.

No real cluster has run this yet. It is tested with stand-ins for SLURM's commands, which run the job's processes on one
machine.
END
}

# number OPTION VALUE
number() { [[ "$2" =~ ^[1-9][0-9]{0,4}$ ]] || fail "$1: got '$2', expected a whole number from 1."; }

nodes=1 gpus=1 cpus=4 job_name="" env_file="" dry_run=false workdir="" is_distributed=false
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
options=("--chdir=$root")

# What sbatch would refuse only after the environment is installed, or what would go wrong in the queue.
read_options() {
  local value limit='^[0-9]+(-[0-9]+)?(:[0-9]+){0,2}$' minutes='^0*[0-9](:[0-9]+)?$|^0+:0*[0-9]:[0-9]+$'
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    value="${1#*=}"
    case "$1" in
      --help) usage; exit ;;
      --nodes=*) number --nodes "$value"; nodes="$value" ;;
      --gpus_per_node=*) number --gpus_per_node "$value"; gpus="$value" ;;
      --cpus_per_gpu=*) number --cpus_per_gpu "$value"; cpus="$value" ;;
      --partition=?* | --account=?*) options+=("$1") ;;
      --time=*)
        [[ "$value" =~ $limit ]] || fail "--time: got '$value', expected a time limit as 24:00:00 or 7-00."
        # The notice comes two to three minutes before: such a job would be put back again and again before it has begun.
        [[ "$value" =~ $minutes ]] && fail "--time: got '$value', expected ten minutes or more. For less: --sbatch=$1."
        options+=("$1") ;;
      --job_name=?*) job_name="$value" ;;
      --env_file=*) check_secrets "$value"; env_file="$(realpath "$value")" ;;
      --sbatch=-?*) options+=("$value") ;;
      --dry_run) dry_run=true ;;
      *) fail "$1: not an option with a value that fits, expected such as --nodes=2, then -- and the run's arguments." ;;
    esac
    shift
  done
  [ $# -gt 1 ] || fail "got no arguments of the run, expected some after --: -- --config=… --workdir=…."
}

# check_arguments ARGUMENTS…: those that the job itself depends on.
check_arguments() {
  read_arguments "$@"
  [ -n "$workdir" ] || fail "--workdir: missing among the run's arguments, expected the directory of the run."
  if [ $((nodes * gpus)) -gt 1 ] && ! "$is_distributed"; then
    fail "--distributed: missing among the run's arguments, without which $((nodes * gpus)) processes would each train alone."
  fi
}

read_options "$@"
while [ "$1" != -- ]; do shift; done
shift
check_arguments "$@"
cd "$root"
[[ "$workdir" == /* ]] || workdir="$root/$workdir"

"$dry_run" || command -v sbatch >/dev/null || fail "sbatch: not found on PATH, expected it on a login node of a SLURM cluster."
run source launch/environment.sh
run make_environment cuda,formats
run mkdir -p "$workdir" # for the log: SLURM would not make it, and the job end without a word
# In the log's name % has a meaning, doubled it has none. Of an option given twice the last one counts: those of --sbatch.
command=(sbatch --parsable --job-name="${job_name:-$(basename "$workdir")}" --output="${workdir//%/%%}/slurm-%j.log"
  --nodes="$nodes" --ntasks-per-node="$gpus" --gres="gpu:$gpus" --cpus-per-task="$cpus" "${options[@]}"
  launch/slurm_job.sh "$env_file" "$@")
if "$dry_run"; then
  run "${command[@]}"
  exit
fi
job="$("${command[@]}")" || fail "sbatch refused the job, and says why above."
job="${job%%;*}" # a cluster's name may follow
echo "Submitted job $job. Its log: $workdir/slurm-$job.log"
