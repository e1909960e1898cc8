# Sourced by the launchers: what they do with their options. They set dry_run, true or false.

fail() {
  echo "$1 See --help." >&2
  exit 1
}

# run COMMAND…: or, in a dry run, print it.
run() {
  local line
  if ! "$dry_run"; then "$@"; return; fi
  printf -v line '%q ' "$@"
  echo "${line% }"
}

# check_secrets FILE: that it is there, for its owner alone.
check_secrets() {
  [ -f "$1" ] || fail "--env_file: got '$1', expected a file with NAME=VALUE lines."
  [[ "$(ls -ld "$1")" == -???------* ]] || fail "--env_file: others can read '$1', expected mode 600. Give \`chmod 600 $1\`."
}
