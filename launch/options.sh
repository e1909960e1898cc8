# Sourced by scripts for their arguments. Those that use `run` set dry_run to true or false.

fail() {
  echo "$1 See --help." >&2
  exit 1
}

# run COMMAND…: run it or, in a dry run, print it.
run() {
  local line
  if ! "$dry_run"; then "$@"; return; fi
  printf -v line '%q ' "$@"
  echo "${line% }"
}

# full_path PATH: print it from / on; it need not exist. The realpath of a Mac has no -m.
full_path() {
  local parent
  if [ -d "$1" ]; then (CDPATH="" cd -- "$1" && pwd -P); return; fi
  parent="$(full_path "$(dirname -- "$1")")"
  echo "${parent%/}/$(basename -- "$1")"
}

# set_workdir PATH EXAMPLE: set workdir to the full path of a run directory on this machine, given relative to
# the current folder.
set_workdir() {
  case "$1" in
    -* | *://*)
      echo "${0##*/}: got $1, expected a local directory for the run. Example:" >&2
      echo "  bash launch/${0##*/} $2" >&2
      echo "electra_jax/runs/README.md explains runs in buckets." >&2
      exit 1
      ;;
  esac
  workdir="$(full_path "$1")"
}

# expand_home OPTION PATH: set `expanded` to PATH on this machine. A shell does not expand ~ behind "=".
expand_home() {
  expanded="$2"
  case "$2" in
    "~" | "~/"*)
      [ -n "${HOME:-}" ] || fail "$1: got '$2', but HOME is not set. Expected an absolute path."
      expanded="$HOME${2#"~"}" ;;
    "~"*) fail "$1: got '$2', expected ~/… or an absolute path: only your own home directory is known." ;;
  esac
}

# expand_word WORD: set `expanded` to WORD, with the home directory for ~ at the beginning of an option's value.
expand_word() {
  local option form='^--?[A-Za-z0-9_.-]+=~'
  expanded="$1"
  if [[ "$1" =~ $form ]]; then
    option="${1%%=*}"
    expand_home "$option" "${1#*=}"
    expanded="$option=$expanded"
  fi
}

# check_secrets FILE: check that it exists and that only its owner can read it.
check_secrets() {
  [ -f "$1" ] || fail "--env_file: got '$1', expected a file with NAME=VALUE lines."
  [[ "$(ls -ld "$1")" == -???------* ]] ||
    fail "--env_file: others can read '$1', expected mode 600. Run \`chmod 600 $1\`."
}

# read_arguments ARGUMENTS…: set workdir and is_distributed from the arguments of the run. absl takes true, t
# and 1 for true, in any case.
read_arguments() {
  local previous="" word has_config=false distributed='^--?distributed(=([tT]([rR][uU][eE])?|1))?$'
  for word in "$@"; do
    if [[ "$previous" =~ ^--?workdir$ ]]; then workdir="$word"; fi
    if [[ "$previous" =~ ^--?config$ ]]; then has_config=true; fi
    if [[ "$word" =~ $distributed ]]; then is_distributed=true; fi
    case "$word" in
      --workdir=* | -workdir=*) workdir="${word#*=}" ;;
      --config=* | -config=*) has_config=true ;;
    esac
    previous="$word"
  done
  "$has_config" ||
    fail "--config: missing among the run's arguments, expected for example --config=configs/debug.py."
}

# check_s3 PROCESSES: a run directory at s3://, set as workdir, takes one process.
check_s3() {
  [ "$1" = 1 ] || ! [[ "$workdir" =~ ^[sS]3:/ ]] ||
    fail "--workdir: got '$workdir' in a run of $1 processes, expected gs://BUCKET/… or a directory that all \
of them mount: several processes cannot write checkpoints to s3://."
}

# bucket_extra ARGUMENTS…: print ",buckets", the extra of setup.py, if one of the arguments is in a bucket.
bucket_extra() {
  if [[ "$*" =~ ([gG][sS]|[sS]3):/ ]]; then printf ,buckets; fi
}
