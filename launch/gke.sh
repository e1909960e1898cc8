#!/usr/bin/env bash
# Pre-train on Google Kubernetes Engine through gcluster or XPK: see `bash launch/gke.sh --help`.
# launch/gke_tools.sh has what differs between the two.
set -euo pipefail
# shellcheck disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/options.sh"
# shellcheck disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/gke_tools.sh"

usage() {
  cat <<'END'
Pre-train on TPUs or GPUs of a Kubernetes cluster, from your own machine, through one of two tools: `gcluster`
of Google's Cluster Toolkit, in a cluster that `gcluster deploy` made, or its predecessor `xpk` (`pip install
xpk`), in a cluster that `xpk cluster create` made.

    on="--cluster=my-cluster --workload=base --project=my-project --zone=us-west4-a"
    bash launch/gke.sh create $on --tpu_type=v5litepod-16 --mount=gs://my-bucket:/data -- \
        --config=configs/electra.py:size=base --config.data.datasets=/data/corpus \
        --config.model.dtype=bfloat16 --config.train.layers=scanned --workdir=/data/runs/base --distributed
    bash launch/gke.sh status $on
    bash launch/gke.sh stop $on      # it saves, and is deleted; the same `create` again resumes it

The arguments after -- are those of `python -m electra_jax.pretrain`; the last line of `bash
launch/compile_only.sh plan …` has the settings for your devices. Datasets and run directory must be in a
mounted storage, since a container's own disk is deleted with it. Mount a bucket with hierarchical namespace:
it renames a directory in one operation, and whole checkpoints are renamed. Or give URLs without a mount,
--workdir=gs://my-bucket/runs/base: the extra `buckets` is then installed, too.

    --cluster=C --workload=W      required. W names pods and hosts: at most 28 lower-case letters, digits and
                                  hyphens
    --project=P --zone=Z          default: what `gcluster job config set` stored; with xpk, gcloud's own
    --tool=gcluster|xpk           default: the one that the other options belong to, else the installed one,
                                  else gcluster. Give the same one to create, status and stop
    --dry_run                     print the commands, run none

With `create`:

    --tpu_type=T --num_slices=N   TPUs, N slices of them (default 1): v5litepod-16, v6e-16 (the number counts
                                  chips), v4-16, v5p-16 (it counts TensorCores, two a chip), or with the
                                  topology: tpu7x-2x2x2, v6e-4x4
    --gpu_type=T --num_nodes=N    or GPUs, N nodes of them (default 1): l4-1, a100-80gb-8, h100-80gb-8, b200-8
    --base_docker_image=IMAGE     (default python:3.12) the last commit of this checkout is put on top of it;
                                  every container installs it with its environment at each start, which takes
                                  minutes. gcluster pushes the result to the Artifact Registry repository that
                                  the variable GCLUSTER_IMAGE_REPO names
    --docker_image=IMAGE          or an image that contains everything; its working directory is the checkout:
                                      FROM python:3.12
                                      WORKDIR /app
                                      COPY . .
                                      RUN pip install -e '.[tpu,formats,buckets]'      (or cuda)
    --max_restarts=N              (default 20) restarts after a preemption and, with --distributed, after a
                                  failure as well, since every process fails when a host is lost

With `create` through gcluster:

    --mount=SOURCE:/DIR[:ro]      a storage, mounted in the containers as /DIR; may be given several times.
                                  SOURCE is gs://BUCKET, filestore://INSTANCE/SHARE or a volume claim
    --gcluster=OPTION             any other option of `gcluster job submit`: --gcluster=--priority=high
                                  --gcluster=--gke-nap-provisioning=spot --gcluster=--env=NAME=VALUE

With `create` through xpk:

    --storage=NAME                of `xpk storage attach`, mounted in the containers; may be given several
                                  times: xpk storage attach NAME --type=gcsfuse --mount-point=/data
                                  --mount-options=implicit-dirs,metadata-cache:ttl-secs:60 …
    --env_file=FILE               NAME=VALUE lines for the run's environment, with mode 600. The values are in
                                  no command line, but xpk writes them into the workload, which other users of
                                  the cluster may be able to read
    --xpk=OPTION                  any other option of `xpk workload create`: --xpk=--spot
                                  --xpk=--priority=high

Not yet run on a real cluster. Options, and how a command reaches a container, follow the sources and guides
of Cluster Toolkit (v1.95; --mount and --env as in v1.103) and of xpk 1.16. The tests use simulated programs
that do the same.
END
}

verb="" cluster="" workload="" project="" zone="" tool="" device_type="" accelerator="" count=1 count_of=""
base_image="" docker_image="" env_file="" max_restarts=20 workdir="" is_distributed=false dry_run=false
implied_tool="" implied_by="" names=() storages=() mounts=() mount_points=() more=()

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
      --cluster=*) check_name --cluster "$value" 40; cluster="$value" ;;
      --workload=*) check_name --workload "$value" 28; workload="$value" ;;
      --project=?*) project="$value" ;;
      --zone=?*) zone="$value" ;;
      --tool=gcluster | --tool=xpk) tool="$value" ;;
      --tool=*) fail "--tool: got '$value', expected gcluster or xpk." ;;
      --dry_run) dry_run=true ;;
      *)
        [ "$verb" = create ] ||
          fail "$1: not an option of $verb, expected --cluster, --workload, --project, --zone or --tool."
        read_choice "$1" "$value" ;;
    esac
    shift
  done
  [ -n "$cluster" ] || fail "--cluster: missing, expected the name of a cluster that gcluster or xpk made."
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
    --max_restarts=*) check_number "$1" "$2"; max_restarts="$2" ;;
    --mount=*) imply gcluster --mount; read_mount "$2" ;;
    --gcluster=-?*) imply gcluster --gcluster; more+=("$2") ;;
    --storage=?*) imply xpk --storage; storages+=("$1") ;;
    --env_file=*)
      imply xpk --env_file
      expand_home --env_file "$2"
      check_env_file "$expanded"
      env_file="$expanded" ;;
    --xpk=-?*) imply xpk --xpk; more+=("$2") ;;
    *)
      fail "$1: not an option, or not a valid value. Expected options like --num_slices=2, then -- and \
the run's arguments." ;;
  esac
}

# imply TOOL OPTION: OPTION is for TOOL alone.
imply() {
  [ -z "$implied_tool" ] || [ "$implied_tool" = "$1" ] ||
    fail "$2: got it with $implied_by, but $2 is for $1 and $implied_by for $implied_tool. Expected options \
of one tool."
  implied_tool="$1" implied_by="$2"
}

# check_name OPTION NAME LENGTH
check_name() {
  local LC_ALL=C
  [[ ${#2} -le $3 && "$2" =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] ||
    fail "$1: got '$2', expected at most $3 lower-case letters, digits and hyphens, with a letter first and \
no hyphen last. Give another name."
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

# choose_tool: set tool, unless --tool has.
choose_tool() {
  [ -z "$tool" ] || [ -z "$implied_tool" ] || [ "$tool" = "$implied_tool" ] ||
    fail "--tool: got $tool with $implied_by, which is for $implied_tool. Instead give \
$(counterpart "$implied_by")."
  tool="${tool:-$implied_tool}"
  if [ -z "$tool" ]; then
    tool=gcluster
    if ! command -v gcluster >/dev/null && command -v xpk >/dev/null; then tool=xpk; fi
    if ! "$dry_run" && command -v gcluster >/dev/null && command -v xpk >/dev/null; then
      echo "gcluster and xpk are installed: using gcluster. For a cluster that xpk made, give --tool=xpk." >&2
    fi
  fi
  "$dry_run" || command -v "$tool" >/dev/null || fail "$tool: not found on PATH. $(how_to_install "$tool")"
}

# check_arguments ARGUMENTS…: the arguments of the run that the workload depends on.
check_arguments() {
  local word point form='^--?[A-Za-z0-9_.]+=~' is_mounted=false
  read_arguments "$@"
  for word in "$@"; do
    if [[ "$word" =~ $form ]]; then
      fail "${word%%=*}: got '${word#*=}', but ~ is not your home directory in a container. Expected a path \
in a mounted storage: /data/…."
    fi
  done
  [[ "$workdir" == /* || "$workdir" == gs://?*/?* || "$workdir" == s3://?*/?* ]] ||
    fail "--workdir: got '$workdir', on a container's own disk, expected a directory in a mounted storage: \
/data/runs/base, or in a bucket: gs://my-bucket/runs/base."
  # xpk's storages, and mounts among gcluster's own options, are where they are.
  if [[ "$tool" = gcluster && "$workdir" == /* && "${more[*]-}" != *--mount* ]]; then
    for point in ${mount_points[@]+"${mount_points[@]}"}; do
      if [[ "$workdir/" == "$point"/?* ]]; then is_mounted=true; fi
    done
    "$is_mounted" || fail "--workdir: got '$workdir', on a container's own disk, expected a directory below \
one that --mount makes writable: --mount=gs://my-bucket:/data and --workdir=/data/runs/base."
  fi
  if ! "$is_distributed" && has_several_hosts; then
    fail "--distributed: missing among the run's arguments; without it each host of $device_type would train \
alone."
  fi
  if has_several_hosts; then check_s3 several; fi
}

# A host has four chips, or with gcluster's v5litepod-8, v6e-8 and machines whose name ends in 8t eight.
has_several_hosts() {
  local type="$device_type" limit=4 option
  if [ "$count" -gt 1 ]; then return; fi
  if [ "$accelerator" = gpu ]; then return 1; fi
  if [ "$tool" = gcluster ]; then
    if [[ "$type" =~ ^v(5litepod|5e|6e)-|-8t$ ]]; then limit=8; fi
    for option in ${more[@]+"${more[@]}"}; do
      if [[ "$option" == --topology=* ]]; then type="${option#*=}"; fi
    done
  fi
  [ "$(count_chips "$type")" -gt "$limit" ]
}

# container_command PREPARATION GPU_ARGUMENTS ARGUMENTS…: the command of a container, as a line of bash.
# PREPARATION is what makes the checkout its directory. xpk writes the line between parentheses into a script
# within YAML, for GPUs also into a quoted string, and Kubernetes replaces $(…) and $$: the line must contain
# nothing that is special to one of them. `exec` makes the run the process that receives SIGTERM.
container_command() {
  local LC_ALL=C word words="" extra=tpu plain='^[A-Za-z0-9_@%+=:,./-]+$' safe='^[A-Za-z0-9_@%+=:,./$; -]+$'
  if [ "$accelerator" = gpu ]; then extra=cuda; fi
  if [ -z "$docker_image" ]; then
    words="set -e; ${1}source launch/environment.sh; make_environment $extra,formats$(bucket_extra "${@:3}"); "
  fi
  words+="exec env PYTHONUNBUFFERED=1 python -m electra_jax.pretrain"
  for word in "${@:3}"; do
    [[ "$word" =~ $plain ]] || printf -v word '%q' "$word"
    words+=" $word"
  done
  # JAX finds other hosts by itself only on TPUs.
  if "$is_distributed" && [ "$accelerator" = gpu ]; then words+=" $2"; fi
  if ! [[ "$words" =~ $safe ]]; then
    words="source <(echo $(printf %s "$words" | base64 | tr -d '\n') | base64 --decode)"
  fi
  printf %s "$words"
}

# send_checkout NAME: write the last commit into the folder NAME of a new directory, whose name is set as
# `directory`.
send_checkout() {
  directory="${TMPDIR:-/tmp}/electra_jax.DIRECTORY"
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
  run mkdir -p "$directory/$1"
  run tar -xf "$directory/code.tar" -C "$directory/$1"
}

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
read_options "$@"
while [ $# -gt 0 ] && [ "$1" != -- ]; do shift; done
choose_tool
set_names
[ $# = 0 ] || shift
"${tool}_$verb" "$@"
