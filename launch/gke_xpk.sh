#!/usr/bin/env bash
# Pre-train on Google Kubernetes Engine through XPK. `bash launch/gke_xpk.sh --help` explains.
set -euo pipefail
# shellcheck disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/options.sh"

usage() {
  cat <<'END'
Pre-train on TPUs or GPUs of a Kubernetes cluster that XPK made (`pip install xpk`, `xpk cluster create …`), from your own
machine:

    on="--cluster=my-cluster --workload=base --project=my-project --zone=us-west4-a"
    bash launch/gke_xpk.sh create $on --tpu_type=v5litepod-16 --storage=my-storage -- --config=configs/electra.py:size=base \
        --config.data.datasets=/data/corpus --workdir=/data/runs/base --distributed
    bash launch/gke_xpk.sh status $on
    bash launch/gke_xpk.sh stop $on      # it saves and is deleted; the same `create` again goes on from there

What follows -- are the arguments of `python -m electra_jax.pretrain`. Datasets and run directory must lie in a storage that
the cluster mounts, for a container's own disk goes with it, as with
`xpk storage attach my-storage --type=gcsfuse --mount-point=/data …`. Take a bucket with hierarchical namespace, in which a
directory is renamed at once, as whole checkpoints are.

    --cluster=C --workload=W      always. W becomes the name of pods and hosts: at most 40 lower-case letters, digits, hyphens
    --project=P --zone=Z          default: gcloud's own
    --dry_run                     print the commands, run none

and with `create`:

    --tpu_type=T --num_slices=N   TPUs, for example v5litepod-16; N slices of them (default 1)
    --gpu_type=T --num_nodes=N    or GPUs, for example h100-80gb-8 (xpk's --device-type); N nodes of them (default 1)
    --base_docker_image=IMAGE     (default python:3.12) the last commit of this checkout is put on top of it, and every
                                  container installs it with its environment when it starts: minutes, at every restart
    --docker_image=IMAGE          or an image with all of it, whose working directory is the checkout:
                                      FROM python:3.12
                                      WORKDIR /app
                                      COPY . .
                                      RUN pip install -e '.[tpu,formats]'      (or cuda)
    --storage=NAME                of `xpk storage`, mounted in the containers; may be given several times
    --max_restarts=N              (default 20) how often it may begin anew, which it does after it was taken away; with
                                  --distributed also after a failure, for every process fails when a host is lost
    --env_file=FILE               NAME=VALUE lines for the run's environment, with mode 600. The values are in no command line,
                                  but xpk writes them into the workload, which other users of the cluster may be able to read
    --xpk=OPTION                  any other option of `xpk workload create`: --xpk=--spot --xpk=--priority=high

No real cluster has run this yet. Options, and what happens to a command on its way into a container, are those of xpk 1.16, as
seen in the manifests that it writes; the tests' stand-in for xpk does the same.
END
}

deed="" cluster="" workload="" device="" kind="" count=1 count_of="" base_image="" docker_image="" workdir=""
is_distributed=false dry_run=false
common=() options=(--termination-grace-period-seconds=120) # xpk's 30 seconds may be too few for saving

# Arrays are never expanded while they are empty, which bash 3.2, the one of macOS, takes for unset.
read_options() {
  local value
  case "${1:-}" in
    --help) usage; exit ;;
    create | status | stop) deed="$1" ;;
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
        [ "$deed" = create ] || fail "$1: not an option of $deed, expected --cluster, --workload, --project or --zone."
        read_choice "$1" "$value" ;;
    esac
    shift
  done
  [ -n "$cluster" ] || fail "--cluster: missing, expected the name of a cluster that xpk made."
  [ -n "$workload" ] || fail "--workload: missing, expected a name for this run."
  if [ "$deed" = create ]; then
    check_choices
    [ $# -gt 1 ] || fail "got no arguments of the run, expected some after --: -- --config=… --workdir=/…."
  else
    [ $# = 0 ] || fail "$deed: got arguments of a run, expected them with create alone."
  fi
}

# read_choice OPTION VALUE: those of create.
read_choice() {
  case "$1" in
    --tpu_type=?* | --gpu_type=?*)
      [ -z "$device" ] || fail "$1: got a second type, expected one --tpu_type or --gpu_type."
      device="$2" kind="${1%%_type=*}" kind="${kind#--}" ;;
    --num_slices=* | --num_nodes=*) check_number "$1" "$2"; count="$2" count_of="${1%%=*}" ;;
    --base_docker_image=?*) base_image="$2" ;;
    --docker_image=?*) docker_image="$2" ;;
    --storage=?*) options+=("$1") ;;
    --max_restarts=*) check_number "$1" "$2"; options+=("--max-restarts=$2") ;;
    --env_file=*) check_env_file "$2"; options+=("--env-file=$2") ;;
    --xpk=-?*) options+=("$2") ;;
    *) fail "$1: not an option with a value that fits, expected such as --num_slices=2, then -- and the run's arguments." ;;
  esac
}

check_name() {
  local LC_ALL=C
  [[ "$2" =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    fail "$1: got '$2', expected at most 40 lower-case letters, digits and hyphens, with a letter first and no hyphen last."
}

check_number() { [[ "$2" =~ ^(0|[1-9][0-9]{0,4})$ ]] || fail "${1%%=*}: got '$2', expected a whole number."; }

check_choices() {
  [ -n "$device" ] || fail "--tpu_type: missing, expected it or --gpu_type."
  case "$kind$count_of" in
    tpu--num_nodes) fail "--num_nodes: got it with --tpu_type, expected --num_slices." ;;
    gpu--num_slices) fail "--num_slices: got it with --gpu_type, expected --num_nodes." ;;
  esac
  [ "$count" -gt 0 ] || fail "$count_of: got 0, expected a whole number from 1."
  [ -z "$base_image" ] || [ -z "$docker_image" ] || fail "--docker_image: got it with --base_docker_image, expected one."
}

# xpk takes lines as they are: it would keep quotes, break at others of these characters, and pass over lines of other forms.
check_env_file() {
  local line number=0 form=$'^[A-Za-z_][A-Za-z0-9_]*=[^"\'\\\\$]*$'
  check_secrets "$1"
  while IFS= read -r line || [ -n "$line" ]; do
    number=$((number + 1))
    [[ -z "$line" || "$line" == \#* || ("$line" =~ $form && "$line" != *[[:cntrl:]]*) ]] ||
      fail "--env_file: line $number of '$1' is not NAME=VALUE without quotes, backslashes and dollar signs, as xpk needs it."
  done < "$1"
}

# check_arguments ARGUMENTS…: those that the workload itself depends on.
check_arguments() {
  read_arguments "$@"
  [[ "$workdir" == /* ]] ||
    fail "--workdir: got '$workdir', on a container's own disk, expected one in a mounted storage: /data/runs/base."
  # Of a TPU the last number counts chips or cores, of which a host never has more than eight.
  if ! "$is_distributed" && { [ "$count" -gt 1 ] || [[ "$kind" = tpu && "$device" =~ -(9|[1-9][0-9]+)$ ]]; }; then
    fail "--distributed: missing among the run's arguments, without which the hosts of $device would train alone."
  fi
}

# container_command ARGUMENTS…: what a container shall do, as a line of bash. xpk writes it between parentheses into a script
# within YAML, for GPUs into a quoted string there as well, and Kubernetes replaces $(…) and $$: what means something to one of
# them may not be in it. `exec` makes the run the process that is told to stop.
container_command() {
  local LC_ALL=C word words="" extra=tpu plain='^[A-Za-z0-9_@%+=:,./-]+$' safe='^[A-Za-z0-9_@%+=:,./$; -]+$'
  if [ "$kind" = gpu ]; then extra=cuda; fi
  if [ -z "$docker_image" ]; then words="set -e; source launch/environment.sh; make_environment $extra,formats; "; fi
  words+="exec env PYTHONUNBUFFERED=1 python -m electra_jax.pretrain"
  for word in "$@"; do
    [[ "$word" =~ $plain ]] || printf -v word '%q' "$word"
    words+=" $word"
  done
  if "$is_distributed" && [ "$kind" = gpu ]; then # JAX finds the others by itself on TPUs alone; these variables are xpk's
    # shellcheck disable=SC2016
    words+=' --coordinator=$JAX_COORDINATOR_ADDRESS:$JAX_COORDINATOR_PORT --num_processes=$NNODES --process_id=$NODE_RANK'
  fi
  if ! [[ "$words" =~ $safe ]]; then
    words="source <(echo $(printf %s "$words" | base64 | tr -d '\n') | base64 --decode)"
  fi
  printf %s "$words"
}

# send_checkout: the last commit as a directory, for xpk to put on the base image.
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
  # A lost host is a failure for the others, as their exit code 1 says. 143, told to stop, is in the list that xpk has anyway.
  if "$is_distributed"; then options=(--restart-on-exit-codes=1 "${options[@]}"); fi
  options=(--max-restarts=20 "${options[@]}") # of an option given twice the last one counts
  if [ "$kind" = tpu ]; then
    options+=("--tpu-type=$device" "--num-slices=$count")
  else
    options+=("--device-type=$device" "--num-nodes=$count")
  fi
  if [ -n "$docker_image" ]; then options+=("--docker-image=$docker_image"); else send_checkout; fi
  run xpk workload create "${common[@]}" "${options[@]}" "--command=$(container_command "$@")"
}

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
read_options "$@"
while [ $# -gt 0 ] && [ "$1" != -- ]; do shift; done
"$dry_run" || command -v xpk >/dev/null || fail "xpk: not found on PATH, expected it. Give \`pip install xpk\`."
case "$deed" in
  create) shift; create "$@" ;;
  status) run xpk workload list "${common[@]/#--workload=/--filter-by-job=}" ;;
  stop) run xpk workload delete "${common[@]}" ;;
esac
