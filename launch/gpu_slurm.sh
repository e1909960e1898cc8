#!/usr/bin/env bash
# Submit pre-training to SLURM from the login node: see `bash launch/gpu_slurm.sh --help`. The job is
# launch/slurm_job.sh.
set -euo pipefail
# shellcheck disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/options.sh"

usage() {
  cat <<'END'
Pre-train on the GPUs of a SLURM cluster. On the login node,

    bash launch/gpu_slurm.sh --nodes=2 --gpus_per_node=8 --partition=gpu --time=24:00:00 -- \
        --config=configs/electra.py:size=base --config.data.datasets=/scratch/corpus \
        --config.model.dtype=bfloat16 --config.train.layers=scanned --workdir=/scratch/runs/base \
        --distributed

installs the environment into .venv (with jax[cuda13]; here and once, since compute nodes often have no
network and would all install it at the same time), submits the job and prints its number. The arguments
after -- are those of `python -m electra_jax.pretrain`; the last line of `bash launch/compile_only.sh plan …`
has the settings for your GPUs. The compute nodes must see the checkout, the datasets
and the run directory. ~ is your home directory here, also behind = in an argument of the run.

    --nodes=N           (default 1)
    --gpus_per_node=G   (default 1) one process for every GPU. More than one process needs --distributed
    --cpus_per_gpu=C    (default 4) for reading data and compiling
    --partition=P --account=A --time=T   default: the cluster's
    --job_name=NAME     default: the name of the run directory
    --env_file=FILE     secrets for the run: a shell file of NAME=VALUE lines with mode 600, which the compute
                        nodes must see. It is read when the job starts; its values are in no command line
    --sbatch=OPTION     any other option of sbatch; overrides those above:
                        --sbatch=--qos=long --sbatch=--gres=gpu:a100:8
    --dry_run           print the commands, run none

The log is RUN_DIRECTORY/slurm-JOB.log, or, for a run in a bucket (gs://…), in the checkout. `squeue
--job=JOB` shows the job.

    scancel JOB                  ends it for good. It saves, if it can within KillWait (often 30 seconds)
    scancel --signal=TERM JOB    it saves, goes back into the queue, and resumes later
    the same command again       resumes from the newest checkpoint

Two minutes before its time limit, and when it is preempted, the run is told to stop: it saves, and the job
goes back into the queue under the same number. If two minutes are not enough to save, give
--sbatch=--signal=TERM@600. A job that fails is not restarted.

Not yet run on a real cluster. The tests use simulated SLURM commands, which run the job's processes on one
machine.
END
}

# check_number OPTION VALUE
check_number() { [[ "$2" =~ ^[1-9][0-9]{0,4}$ ]] || fail "$1: got '$2', expected a whole number from 1."; }

nodes=1 gpus=1 cpus=4 job_name="" env_file="" dry_run=false workdir="" is_distributed=false arguments=()
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
options=("--chdir=$root")

# Finds errors that sbatch would report only after the environment is installed, or that would show in the
# queue.
read_options() {
  local value limit='^[0-9]+(-[0-9]+)?(:[0-9]+){0,2}$' minutes='^0*[0-9](:[0-9]+)?$|^0+:0*[0-9]:[0-9]+$'
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    value="${1#*=}"
    case "$1" in
      --help) usage; exit ;;
      --nodes=*) check_number --nodes "$value"; nodes="$value" ;;
      --gpus_per_node=*) check_number --gpus_per_node "$value"; gpus="$value" ;;
      --cpus_per_gpu=*) check_number --cpus_per_gpu "$value"; cpus="$value" ;;
      --partition=?* | --account=?*) options+=("$1") ;;
      --time=*)
        [[ "$value" =~ $limit ]] || fail "--time: got '$value', expected a time limit as 24:00:00 or 7-00."
        # SLURM signals a job two to three minutes before its limit: a short one would be requeued before it
        # works.
        [[ "$value" =~ $minutes ]] &&
          fail "--time: got '$value', expected ten minutes or more. For less: --sbatch=$1."
        options+=("$1") ;;
      --job_name=?*) job_name="$value" ;;
      --env_file=*)
        expand_home --env_file "$value"
        check_secrets "$expanded"
        env_file="$(realpath "$expanded")" ;;
      --sbatch=-?*) expand_word "$value"; options+=("$expanded") ;;
      --dry_run) dry_run=true ;;
      *)
        fail "$1: not an option, or not a valid value. Expected options like --nodes=2, then -- and \
the run's arguments." ;;
    esac
    shift
  done
  [ $# -gt 1 ] || fail "got no arguments of the run, expected some after --: -- --config=… --workdir=…."
}

# check_arguments ARGUMENTS…: the arguments of the run that the job depends on; sets arguments to all of them.
check_arguments() {
  local word
  for word in "$@"; do
    expand_word "$word"
    arguments+=("$expanded")
  done
  read_arguments "$@"
  expand_home --workdir "$workdir"
  workdir="$expanded"
  [ -n "$workdir" ] || fail "--workdir: missing among the run's arguments, expected the directory of the run."
  if [ $((nodes * gpus)) -gt 1 ] && ! "$is_distributed"; then
    fail "--distributed: missing among the run's arguments; without it each of $((nodes * gpus)) processes \
would train alone."
  fi
  check_s3 $((nodes * gpus))
}

read_options "$@"
while [ "$1" != -- ]; do shift; done
shift
check_arguments "$@"
cd "$root"
case "$workdir" in
  /*) logs="$workdir" ;;
  *://*) logs="$root" ;; # SLURM cannot write into a bucket
  *) logs="$root/$workdir" ;;
esac

"$dry_run" || command -v sbatch >/dev/null ||
  fail "sbatch: not found on PATH. Run this on a login node of a SLURM cluster."
run source launch/environment.sh
run make_environment "cuda,formats$(bucket_extra "${arguments[@]}")"
run mkdir -p "$logs" # for the log: without it the job would end without a message
# In the log's name %% stands for %. If an option is given twice, the last one counts: those of --sbatch come
# last.
command=(sbatch --parsable --job-name="${job_name:-$(basename "$workdir")}"
  --output="${logs//%/%%}/slurm-%j.log"
  --nodes="$nodes" --ntasks-per-node="$gpus" --gres="gpu:$gpus" --cpus-per-task="$cpus" "${options[@]}"
  launch/slurm_job.sh "$env_file" "${arguments[@]}")
if "$dry_run"; then
  run "${command[@]}"
  exit
fi
job="$("${command[@]}")" || fail "sbatch refused the job; see its message above."
job="${job%%;*}" # the cluster's name may follow
echo "Submitted job $job. Its log: $logs/slurm-$job.log"
