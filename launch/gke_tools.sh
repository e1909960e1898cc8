# Sourced by gke.sh: what differs between gcluster and xpk. A function TOOL_VERB runs the tool with the
# options that gke.sh has read; create's arguments are those of the run.

how_to_install() {
  case "$1" in
    gcluster)
      echo "Put it there from https://github.com/GoogleCloudPlatform/cluster-toolkit/releases, or for a \
cluster that xpk made run \`pip install xpk\`." ;;
    xpk) echo "Run \`pip install xpk\`." ;;
  esac
}

# counterpart OPTION: what the other tool has for OPTION.
counterpart() {
  case "$1" in
    --mount) echo "--storage=NAME" ;;
    --storage) echo "--mount=SOURCE:/DIRECTORY" ;;
    --env_file) echo "--gcluster=--env=NAME=VALUE, whose values are visible in command lines" ;;
    --gcluster) echo "--xpk=OPTION" ;;
    --xpk) echo "--gcluster=OPTION" ;;
  esac
}

# count_chips TYPE: the chips of one slice. Names as xpk's: the number behind v4, v5p and tpu7x counts
# TensorCores, of which a chip has two, any other number chips; a topology is a product.
count_chips() {
  local size="${1##*-}" chips=1 side
  if [[ "$size" =~ ^[1-9][0-9]{0,5}$ ]]; then
    case "$1" in v4-* | v5p-* | tpu7x-*) echo $((size % 2 ? 0 : size / 2)) ;; *) echo "$size" ;; esac
  elif [[ "$size" =~ ^[1-9][0-9]{0,3}(x[1-9][0-9]{0,3}){1,2}$ ]]; then
    for side in ${size//x/ }; do chips=$((chips * side)); done
    echo "$chips"
  else
    echo 1
  fi
}

# set_names: set names to the options by which the tool finds a cluster.
set_names() {
  local location=--zone
  if [ "$tool" = gcluster ]; then location=--location; fi
  names=("--cluster=$cluster")
  if [ -n "$project" ]; then names+=("--project=$project"); fi
  if [ -n "$zone" ]; then names+=("$location=$zone"); fi
}

# --- gcluster ---

# read_mount SOURCE:/DIRECTORY[:MODE]: append to mounts what gcluster expects, and to mount_points the
# directory if it can be written. gcluster mounts read-only unless it is told otherwise. implicit-dirs shows
# directories that `gcloud storage cp` made; ttl-secs is for locks, as in tpu_worker.sh.
read_mount() {
  local value="$1" mode=rw from to options="" directory='^/[^/;,][^;,]*$'
  local source='^(gs://[a-z0-9][-_.a-z0-9]*(/[^;,]+)?|(filestore|pvc)://[^;,]+|/[^;,]+|[a-z0-9][-.a-z0-9]*)$'
  case "$value" in *:ro | *:rw) mode="${value##*:}" value="${value%:*}" ;; esac
  from="${value%:*}" to="${value##*:}" to="${to%/}"
  [[ "$value" == *:* && "$to" =~ $directory && "$from" =~ $source ]] ||
    fail "--mount: got '$1', expected SOURCE:/DIRECTORY or SOURCE:/DIRECTORY:ro with gs://BUCKET, \
filestore://INSTANCE/SHARE or the name of a volume claim: --mount=gs://my-bucket:/data."
  case "$to/" in
    /app/*) fail "--mount: got '$1', but the checkout is in /app. Expected another directory: /data." ;;
  esac
  if [[ "$from" == gs://* ]]; then options=";options=implicit-dirs,metadata-cache:ttl-secs:60"; fi
  mounts+=("--mount=$from;$to;$mode$options")
  if [ "$mode" = rw ]; then mount_points+=("$to"); fi
}

# gcluster_compute: set compute to the options for the TPU or GPU type. A TPU is named by machine and
# topology, since the number in v5p-8 and tpu7x-8 counts TensorCores in other tools and chips in gcluster.
gcluster_compute() {
  local family="${device_type%%-*}" size="${device_type#*-}" chips topology machine
  compute=("--compute-type=$device_type")
  [ "$accelerator" = gpu ] && return
  [[ "$device_type" =~ ^(ct[0-9][a-z]+|tpu7x)-[a-z]+-[0-9]+t$ ]] && return
  chips="$(count_chips "$device_type")"
  topology="$(topology_of "$family" "$size" "$chips")"
  case "$family" in
    v5litepod | v5e) machine="ct5lp-hightpu-$(on_one_machine "$chips" 1 4 8)" ;;
    v6e) machine="ct6e-standard-$(on_one_machine "$chips" 1 4 8)" ;;
    v4) machine=ct4p-hightpu-4t ;;
    v5p) machine=ct5p-hightpu-4t ;;
    tpu7x) machine=tpu7x-standard-4t ;;
  esac
  if [ -z "$topology" ] || [ -z "${machine:-}" ]; then
    fail "--tpu_type: got '$device_type', expected v5litepod-N or v6e-N with 1, 4, 8, 16 … 256 chips, v4-N \
or v5p-N with 8, 16, 32 … 4096 TensorCores, or one of them or tpu7x with the topology: tpu7x-2x2x2. For \
another machine, give its name and --gcluster=--topology=AxB."
  fi
  compute=("--compute-type=$machine" "--topology=$topology")
  # One process a host: by default gcluster starts two containers on a host of TPU7x.
  if [ "$family" = tpu7x ]; then compute+=(--gke-disable-parallel-containers); fi
}

# topology_of FAMILY SIZE CHIPS: prints the topology that SIZE is or stands for; nothing if it is none.
topology_of() {
  local pair sides="x[1-9][0-9]*" flat="1=1x1 4=2x2 8=2x4 16=4x4 32=4x8 64=8x8 128=8x16 256=16x16" deep
  deep="4=2x2x1 8=2x2x2 16=2x2x4 32=2x4x4 64=4x4x4 128=4x4x8 256=4x8x8 512=8x8x8 1024=8x8x16 2048=8x16x16"
  case "$1" in
    v5litepod | v5e | v6e) if [[ "$2" =~ ^[1-9][0-9]*$sides$ ]]; then echo "$2"; fi ;;
    v4 | v5p | tpu7x) if [[ "$2" =~ ^[1-9][0-9]*$sides$sides$ ]]; then echo "$2"; fi; flat="$deep" ;;
  esac
  if [ "$1" = tpu7x ] || ! [[ "$2" =~ ^[0-9]+$ ]]; then return; fi
  for pair in $flat; do
    if [ "${pair%%=*}" = "$3" ]; then echo "${pair#*=}"; fi
  done
}

# on_one_machine CHIPS SIZES…: the suffix of the machine, 4t unless a machine with all chips exists.
on_one_machine() {
  local size
  for size in "${@:2}"; do
    if [ "$size" = "$1" ]; then echo "${size}t"; return; fi
  done
  echo 4t
}

gcluster_create() {
  local compute image coordinator
  check_arguments "$@"
  gcluster_compute
  if [ "$accelerator" = gpu ]; then compute+=("--num-nodes=$count"); else compute+=("--num-slices=$count"); fi
  if [ -n "$docker_image" ]; then
    image=("--image=$docker_image")
  else
    "$dry_run" || [ -n "${GCLUSTER_IMAGE_REPO:-}" ] ||
      fail "GCLUSTER_IMAGE_REPO: not set, expected the name of an Artifact Registry repository in the \
cluster's region, to which gcluster pushes the image. Set it, or give --docker_image=IMAGE."
    send_checkout code/app # gcluster puts a directory's content into the image's root directory
    image=("--base-image=${base_image:-python:3.12}" "--build-context=$directory/code")
  fi
  # 143: told to stop. 134, 137, 139: aborted or killed, as when a host is lost. After any other the job fails.
  local codes=134,137,139,143
  if "$is_distributed"; then codes=1,$codes; fi # when a host is lost, the others fail with 1
  # The name of the first pod, which a JobSet resolves; Kubernetes sets JOB_COMPLETION_INDEX.
  coordinator="--coordinator=$workload-main-job-0-0.$workload:6002 --num_processes=$count"
  # shellcheck disable=SC2016
  coordinator+=' --process_id=$JOB_COMPLETION_INDEX'
  # If an option is given twice, the last one counts: those of --gcluster come last.
  run gcluster job submit "${names[@]}" "--name=$workload" "--restarts=$max_restarts" \
    "--restart-on-exit-codes=$codes" --grace-period=120s "${compute[@]}" "${image[@]}" \
    ${mounts[@]+"${mounts[@]}"} ${more[@]+"${more[@]}"} \
    "--command=$(container_command "cd /app; " "$coordinator" "$@")"
}

gcluster_status() { run gcluster job list "${names[@]}" "--name-contains=$workload"; }

gcluster_stop() { run gcluster job cancel "$workload" "${names[@]}"; }

# --- xpk ---

xpk_create() {
  local options=("--max-restarts=$max_restarts") coordinator
  check_arguments "$@"
  # When a host is lost, the others fail with exit code 1. 143, told to stop, is in xpk's own list.
  if "$is_distributed"; then options+=(--restart-on-exit-codes=1); fi
  options+=(--termination-grace-period-seconds=120) # xpk's 30 seconds may be too short to save
  if [ "$accelerator" = tpu ]; then
    options+=("--tpu-type=$device_type" "--num-slices=$count")
  else
    options+=("--device-type=$device_type" "--num-nodes=$count")
  fi
  if [ -n "$env_file" ]; then options+=("--env-file=$env_file"); fi
  if [ -n "$docker_image" ]; then
    options+=("--docker-image=$docker_image")
  else
    send_checkout code
    options+=("--base-docker-image=${base_image:-python:3.12}" "--script-dir=$directory/code")
  fi
  # shellcheck disable=SC2016 # xpk sets these variables in the container
  coordinator='--coordinator=$JAX_COORDINATOR_ADDRESS:$JAX_COORDINATOR_PORT --num_processes=$NNODES'
  # shellcheck disable=SC2016
  coordinator+=' --process_id=$NODE_RANK'
  # If an option is given twice, the last one counts: those of --xpk come last.
  run xpk workload create "${names[@]}" "--workload=$workload" "${options[@]}" \
    ${storages[@]+"${storages[@]}"} ${more[@]+"${more[@]}"} \
    "--command=$(container_command "" "$coordinator" "$@")"
}

xpk_status() { run xpk workload list "${names[@]}" "--filter-by-job=$workload"; }

xpk_stop() { run xpk workload delete "${names[@]}" "--workload=$workload"; }
