#!/usr/bin/env bash
# Pre-train on Google Kubernetes Engine through XPK: see `bash launch/gke_xpk.sh --help`.
set -euo pipefail
# shellcheck disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/options.sh"

usage() {
  cat <<'END'
Pre-train on TPUs or GPUs of a Kubernetes cluster that XPK created (`pip install xpk`, `xpk cluster create`),
from your own machine:

    on="--cluster=my-cluster --workload=base --project=my-project --zone=us-west4-a"
    bash launch/gke_xpk.sh create $on --tpu_type=v5litepod-16 --storage=my-storage -- \
        --config=configs/electra.py:size=base --config.data.datasets=/data/corpus --workdir=/data/runs/base \
        --distributed
    bash launch/gke_xpk.sh status $on
    bash launch/gke_xpk.sh stop $on      # it saves, and is deleted; the same `create` again resumes it

The arguments after -- are those of `python -m electra_jax.pretrain`. Datasets and run directory must be in a
storage that the cluster mounts, since a container's own disk is deleted with it. Attach one with
`xpk storage attach my-storage --type=gcsfuse --mount-point=/data …`. Use a bucket with hierarchical
namespace: it renames a directory in one operation, and whole checkpoints are renamed.

    --cluster=C --workload=W      required. W names pods and hosts: at most 40 lower-case letters, digits and
                                  hyphens
    --project=P --zone=Z          default: gcloud's own
    --dry_run                     print the commands, run none

With `create`:

    --tpu_type=T --num_slices=N   TPUs, for example v5litepod-16; N slices of them (default 1)
    --gpu_type=T --num_nodes=N    or GPUs, for example h100-80gb-8 (xpk's --device-type); N nodes (default 1)
    --base_docker_image=IMAGE     (default python:3.12) the last commit of this checkout is put on top of it;
                                  every container installs it with its environment at each start, which takes
                                  minutes
    --docker_image=IMAGE          or an image that contains everything; its working directory is the checkout:
                                      FROM python:3.12
                                      WORKDIR /app
                                      COPY . .
                                      RUN pip install -e '.[tpu,formats,buckets]'      (or cuda)
    --storage=NAME                of `xpk storage`, mounted in the containers; may be given several times
    --max_restarts=N              (default 20) restarts after a preemption and, with --distributed, after a
                                  failure as well, since every process fails when a host is lost
    --env_file=FILE               NAME=VALUE lines for the run's environment, with mode 600. The values are in
                                  no command line, but xpk writes them into the workload, which other users of
                                  the cluster may be able to read
    --xpk=OPTION                  any other option of `xpk workload create`: --xpk=--spot
                                  --xpk=--priority=high

Not yet run on a real cluster. The options, and how a command reaches a container, follow xpk 1.16, as seen in
the manifests that it writes. The tests use a simulated xpk that does the same.
END
}

verb="" cluster="" workload="" device_type="" accelerator="" count=1 count_of="" base_image="" docker_image=""
workdir=""
is_distributed=false dry_run=false
common=() options=(--termination-grace-period-seconds=120) # xpk's 30 seconds may be too short to save

# Arrays are never expanded while they are empty: bash 3.2, which macOS has, takes them for unset.
read_options() {
  local value
  case "${1:-}" in
    --help) usage; exit ;;
    create | status | stop) verb="$1" ;;
    *) fail "got '${1:-}', expected create, status or stop as the first word." ;;
  esac
  shift
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    value="${1#*=}"
    case "$1" in
      --help) usage; exit ;;
      --cluster=*) check_name --cluster "$value"; cluster="$value"; common+=("$1") ;;
      --workload=*) check_name --workload "$value"; workload="$value"; common+=("$1") ;;
      --project=?* | --zone=?*) common+=("$1") ;;
      --dry_run) dry_run=true ;;
      *)
        [ "$verb" = create ] ||
          fail "$1: not an option of $verb, expected --cluster, --workload, --project or --zone."
        read_choice "$1" "$value" ;;
    esac
    shift
  done
  [ -n "$cluster" ] || fail "--cluster: missing, expected the name of a cluster that xpk created."
  [ -n "$workload" ] || fail "--workload: missing, expected a name for this run."
  if [ "$verb" = create ]; then
    check_choices
    [ $# -gt 1 ] ||
      fail "got no arguments of the run, expected some after --: -- --config=… --workdir=/…."
  else
    [ $# = 0 ] || fail "$verb: got arguments of a run, expected them only with create."
  fi
}

# read_choice OPTION VALUE: an option of create.
read_choice() {
  case "$1" in
    --tpu_type=?* | --gpu_type=?*)
      [ -z "$device_type" ] || fail "$1: got a second type, expected one --tpu_type or --gpu_type."
      device_type="$2" accelerator="${1%%_type=*}" accelerator="${accelerator#--}" ;;
    --num_slices=* | --num_nodes=*) check_number "$1" "$2"; count="$2" count_of="${1%%=*}" ;;
    --base_docker_image=?*) base_image="$2" ;;
    --docker_image=?*) docker_image="$2" ;;
    --storage=?*) options+=("$1") ;;
    --max_restarts=*) check_number "$1" "$2"; options+=("--max-restarts=$2") ;;
    --env_file=*) check_env_file "$2"; options+=("--env-file=$2") ;;
    --xpk=-?*) options+=("$2") ;;
    *)
      fail "$1: not an option, or not a valid value. Expected options like --num_slices=2, then -- and \
the run's arguments." ;;
  esac
}

check_name() {
  local LC_ALL=C
  [[ "$2" =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    fail "$1: got '$2', expected at most 40 lower-case letters, digits and hyphens, with a letter first and \
no hyphen last."
}

check_number() { [[ "$2" =~ ^(0|[1-9][0-9]{0,4})$ ]] || fail "${1%%=*}: got '$2', expected a whole number."; }

check_choices() {
  [ -n "$device_type" ] || fail "--tpu_type: missing, expected it or --gpu_type."
  case "$accelerator$count_of" in
    tpu--num_nodes) fail "--num_nodes: got it with --tpu_type, expected --num_slices." ;;
    gpu--num_slices) fail "--num_slices: got it with --gpu_type, expected --num_nodes." ;;
  esac
  [ "$count" -gt 0 ] || fail "$count_of: got 0, expected a whole number from 1."
  [ -z "$base_image" ] || [ -z "$docker_image" ] ||
    fail "--docker_image: got it with --base_docker_image, expected one."
}

# xpk does not interpret the lines: it would keep quotes, fail at the other characters, and skip other lines.
check_env_file() {
  local line number=0 form=$'^[A-Za-z_][A-Za-z0-9_]*=[^"\'\\\\$]*$'
  check_secrets "$1"
  while IFS= read -r line || [ -n "$line" ]; do
    number=$((number + 1))
    [[ -z "$line" || "$line" == \#* || ("$line" =~ $form && "$line" != *[[:cntrl:]]*) ]] ||
      fail "--env_file: line $number of '$1' is not NAME=VALUE without quotes, backslashes and dollar signs, \
as xpk needs it."
  done < "$1"
}

# check_arguments ARGUMENTS…: the arguments of the run that the workload depends on.
check_arguments() {
  read_arguments "$@"
  [[ "$workdir" == /* || "$workdir" == gs://?*/?* ]] ||
    fail "--workdir: got '$workdir', on a container's own disk, expected a directory in a mounted storage, \
/data/runs/base, or a bucket, gs://BUCKET/runs/base."
  # The last number of a TPU type counts chips or cores; a host has at most eight.
  local num_hosts="$count"
  if [[ "$accelerator" = tpu && "$device_type" =~ -(9|[1-9][0-9]+)$ ]]; then num_hosts=several; fi
  if ! "$is_distributed" && [ "$num_hosts" != 1 ]; then
    fail "--distributed: missing among the run's arguments; without it each host of $device_type would train \
alone."
  fi
}

# container_command ARGUMENTS…: the command of a container, as a line of bash. xpk writes it between
# parentheses into a script within YAML, for GPUs also into a quoted string, and Kubernetes replaces $(…) and
# $$: the line must contain nothing that is special to one of them. `exec` makes the run the process that
# receives SIGTERM.
container_command() {
  local LC_ALL=C word words="" extra=tpu plain='^[A-Za-z0-9_@%+=:,./-]+$' safe='^[A-Za-z0-9_@%+=:,./$; -]+$'
  if [ "$accelerator" = gpu ]; then extra=cuda; fi
  if [ -z "$docker_image" ]; then
    words="set -e; source launch/environment.sh; make_environment $extra,formats,buckets; "
  fi
  words+="exec env PYTHONUNBUFFERED=1 python -m electra_jax.pretrain"
  for word in "$@"; do
    [[ "$word" =~ $plain ]] || printf -v word '%q' "$word"
    words+=" $word"
  done
  if "$is_distributed" && [ "$accelerator" = gpu ]; then # JAX finds other hosts by itself only on TPUs
    # shellcheck disable=SC2016 # xpk sets these variables in the container
    words+=' --coordinator=$JAX_COORDINATOR_ADDRESS:$JAX_COORDINATOR_PORT'
    # shellcheck disable=SC2016
    words+=' --num_processes=$NNODES --process_id=$NODE_RANK'
  fi
  if ! [[ "$words" =~ $safe ]]; then
    words="source <(echo $(printf %s "$words" | base64 | tr -d '\n') | base64 --decode)"
  fi
  printf %s "$words"
}

# send_checkout: write the last commit into a directory, which xpk puts on the base image.
send_checkout() {
  local directory="${TMPDIR:-/tmp}/electra_jax.DIRECTORY"
  if ! "$dry_run"; then
    if [ -n "$(git -C "$root" status --porcelain)" ]; then
      echo "Uncommitted changes of this checkout are not sent, only its last commit." >&2
    fi
    directory="$(mktemp -d "${TMPDIR:-/tmp}/electra_jax.XXXXXX")"
    # shellcheck disable=SC2064
    trap "rm -rf $(printf %q "$directory")" EXIT
  fi
  run git -C "$root" archive --format=tar "--output=$directory/code.tar" HEAD ||
    fail "$root: expected a git checkout with a commit to send."
  run mkdir "$directory/code"
  run tar -xf "$directory/code.tar" -C "$directory/code"
  options+=("--base-docker-image=${base_image:-python:3.12}" "--script-dir=$directory/code")
}

create() {
  check_arguments "$@"
  # When a host is lost, the others fail with exit code 1. 143, told to stop, is in xpk's own list.
  if "$is_distributed"; then options=(--restart-on-exit-codes=1 "${options[@]}"); fi
  options=(--max-restarts=20 "${options[@]}") # if an option is given twice, the last one counts
  if [ "$accelerator" = tpu ]; then
    options+=("--tpu-type=$device_type" "--num-slices=$count")
  else
    options+=("--device-type=$device_type" "--num-nodes=$count")
  fi
  if [ -n "$docker_image" ]; then options+=("--docker-image=$docker_image"); else send_checkout; fi
  run xpk workload create "${common[@]}" "${options[@]}" "--command=$(container_command "$@")"
}

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
read_options "$@"
while [ $# -gt 0 ] && [ "$1" != -- ]; do shift; done
"$dry_run" || command -v xpk >/dev/null || fail "xpk: not found on PATH. Run \`pip install xpk\`."
case "$verb" in
  create) shift; create "$@" ;;
  status) run xpk workload list "${common[@]/#--workload=/--filter-by-job=}" ;;
  stop) run xpk workload delete "${common[@]}" ;;
esac
