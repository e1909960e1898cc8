#!/usr/bin/env bash
# launch/tpu_vm.py runs this on every worker of a TPU VM. Its `setup` copies it to ~/.electra_jax/worker.sh:
#
#   worker.sh setup [BUCKET] | start RUN ARGUMENTS… | status | tail_log | stop
#
# ~/.electra_jax/runs/RUN holds a run's log, its pid and, after its end, its exit code. A run is running as
# long as its processes hold a lock: unlike a pid, a lock disappears with a reboot and never refers to another
# process. gcloud may repeat a command whose connection broke, even after it was executed, so every command
# may run twice.
set -euo pipefail
state="$HOME/.electra_jax" checkout="$HOME/electra_jax"

worker_number() {
  curl --silent --fail --max-time 5 --header 'Metadata-Flavor: Google' \
    http://metadata.google.internal/computeMetadata/v1/instance/attributes/agent-worker-number || echo '?'
}

is_running() { ! flock --shared --nonblock "$state/lock" true; }

current_run() { cat "$state/run" 2>/dev/null || true; }

setup() {
  local bucket="${1:-}"
  mkdir -p "$checkout" "$state/runs"
  exec 8>>"$state/setup_lock"
  flock 8
  if is_running; then
    echo "worker $(worker_number): a run is running, and its files must not change. Stop it first." >&2
    exit 3
  fi
  # Remove the files of the last commit, which this one may not have. Files that runs have written stay.
  if [ -f "$state/sent.tar.gz" ]; then
    tar --list --quoting-style=literal --file "$state/sent.tar.gz" | { grep -v '/$' || true; } |
      (cd "$checkout" && xargs --delimiter='\n' --no-run-if-empty rm -f --)
  fi
  cp "$HOME/.electra_jax.tar.gz" "$state/sent.tar.gz"
  tar --extract --file "$state/sent.tar.gz" --directory "$checkout"
  if [ -f "$HOME/.electra_jax.env" ]; then
    chmod 600 "$HOME/.electra_jax.env"
    mv "$HOME/.electra_jax.env" "$state/env"
  fi
  if [ -n "$bucket" ]; then mount_bucket "$bucket"; fi
  cd "$checkout"
  choose_python
  # shellcheck disable=SC1091
  source launch/environment.sh
  # shellcheck disable=SC1091
  if [ -f "$state/env" ]; then EXTRAS="$(source "$state/env" >&2; echo "${EXTRAS:-}")"; fi
  make_environment tpu,formats,buckets
}

# Finished checkpoints are renamed as whole directories, which gcsfuse refuses without --rename-dir-limit. On
# TPU machines it would by itself keep for ever what it has seen of a file, and the lock of another host would
# seem left: data_pipelines/lock_holders.py expects news after a minute.
mount_bucket() {
  local mounted
  mkdir -p "$HOME/bucket"
  mounted="$(findmnt --noheadings --output SOURCE "$HOME/bucket" || true)"
  if [ -n "$mounted" ] && [ "$mounted" != "$1" ]; then
    echo "worker $(worker_number): got --bucket=$1, but ~/bucket is $mounted." \
      "Unmount it: fusermount -u ~/bucket" >&2
    exit 3
  fi
  if [ -z "$mounted" ]; then
    command -v gcsfuse >/dev/null || install_gcsfuse
    gcsfuse --implicit-dirs --rename-dir-limit=100000 --metadata-cache-ttl-secs=60 \
      "$1" "$HOME/bucket" 8>&-  # it must not keep the lock
  fi
  ln -sfn "$HOME/bucket" "$checkout/bucket"  # runs start in the checkout: --workdir=bucket/…
}

# From Google's package index, as documented. A fresh VM may still be upgrading itself: wait for apt's lock.
install_gcsfuse() {
  local key=/usr/share/keyrings/cloud.google.asc index=https://packages.cloud.google.com/apt
  curl --silent --show-error --fail --location "$index/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] $index gcsfuse-$(lsb_release --codename --short) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo apt-get update --quiet --quiet -o DPkg::Lock::Timeout=600
  sudo apt-get install --yes --quiet --quiet -o DPkg::Lock::Timeout=600 gcsfuse
}

# The TPU images have Python 3.10. uv installs a newer one beside it, without root.
choose_python() {
  local candidate
  for candidate in python3.13 python3.12 python3.11 python3; do
    if "$candidate" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      export PYTHON="$candidate"
      return
    fi
  done
  python3 -m pip install --quiet --user uv
  python3 -m uv python install --quiet 3.11
  PYTHON="$(python3 -m uv python find 3.11)"
  export PYTHON
}

# start RUN ARGUMENTS…: setsid detaches the run from the ssh session, so that it survives the session's end.
# systemd-run would do that, too, but needs root, or a user manager that itself ends with the session.
start() {
  local run="$1"
  [ "$(current_run)" != "$run" ] || return 0
  exec 9>>"$state/lock"
  flock --wait 5 9 || {
    echo "worker $(worker_number): run $(current_run) is running. Stop it first." >&2
    exit 3
  }
  mkdir -p "$state/runs/$run"
  echo "$run" > "$state/run"
  setsid bash "$state/worker.sh" supervise "$@" </dev/null >"$state/runs/$run/log" 2>&1 &
  for _ in {1..200}; do  # until `stop` and `tail_log` can find the run
    if [ -e "$state/runs/$run/pid" ] || [ -e "$state/runs/$run/exit_code" ]; then return; fi
    sleep 0.05
  done
}

# supervise RUN ARGUMENTS…: the run itself. However it ends, its exit code is written before the lock is
# released.
supervise() {
  local directory="$state/runs/$1"
  shift
  # shellcheck disable=SC2064
  trap "echo \$? > '$directory/exit_code'" EXIT
  cd "$checkout"
  if [ -f "$state/env" ]; then
    set -a
    # shellcheck disable=SC1091
    source "$state/env"
    set +a
  fi
  PYTHONUNBUFFERED=1 .venv/bin/python -m electra_jax.pretrain "$@" &
  echo $! > "$directory/pid"
  wait $!
}

# Prints one line for tpu_vm.py to read; never fails.
status() {
  local run code="" word=lost
  run="$(current_run)"
  if [ -z "$run" ]; then
    word=never
  elif is_running; then
    word=running
  elif [ -f "$state/runs/$run/exit_code" ]; then
    word=ended code="$(cat "$state/runs/$run/exit_code")"
  fi
  echo "electra_jax worker=$(worker_number) state=$word run=$run code=$code"
}

# Prints the last lines of the log, and follows it as long as the run is running.
tail_log() {
  local run
  run="$(current_run)"
  if [ -z "$run" ]; then echo "worker $(worker_number): no run was started." >&2; exit 3; fi
  if ! is_running; then exec tail --lines=100 "$state/runs/$run/log"; fi
  exec tail --lines=100 --follow --pid="$(cat "$state/runs/$run/pid")" "$state/runs/$run/log"
}

stop() {
  if [ -z "$(current_run)" ] || ! is_running; then
    echo "worker $(worker_number): no run is running."
  else
    kill -TERM "$(cat "$state/runs/$(current_run)/pid")" || true  # it may have just ended
    echo "worker $(worker_number): run $(current_run) was told to save and end."
  fi
}

"$@"
exit
