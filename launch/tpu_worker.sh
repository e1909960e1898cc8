#!/usr/bin/env bash
# What launch/tpu_vm.py runs on every worker of a TPU VM, where its `setup` leaves it as ~/.electra_jax/worker.sh:
#   worker.sh setup [BUCKET] | start RUN ARGUMENTS… | status | tail_log | stop
# ~/.electra_jax/runs/RUN holds a run's log, its pid, and its exit code once it ended. That it runs is told by a lock, which every
# process of the run holds open: unlike a pid, a lock is gone after a reboot and never comes to mean another process.
# gcloud gives a command again when the connection breaks, perhaps after it was done, so each of them can be given twice.
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
    echo "worker $(worker_number): a run is running here, and its files must not change. Stop it first." >&2
    exit 3
  fi
  # Away with what the last commit had and this one may not; what runs have written between it stays.
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
  make_environment tpu,formats
}

# Directories must be renamed as a whole, as checkpoints are when they are complete: without the limit gcsfuse refuses that.
mount_bucket() {
  local mounted
  mkdir -p "$HOME/bucket"
  mounted="$(findmnt --noheadings --output SOURCE "$HOME/bucket" || true)"
  if [ -n "$mounted" ] && [ "$mounted" != "$1" ]; then
    echo "worker $(worker_number): got --bucket=$1, but ~/bucket is $mounted. Unmount it: fusermount -u ~/bucket" >&2
    exit 3
  fi
  if [ -z "$mounted" ]; then
    command -v gcsfuse >/dev/null || install_gcsfuse
    gcsfuse --implicit-dirs --rename-dir-limit=100000 "$1" "$HOME/bucket" 8>&-  # it stays, and must not keep the lock
  fi
  ln -sfn "$HOME/bucket" "$checkout/bucket"  # runs start in the checkout: --workdir=bucket/…
}

# From Google's package index, as its documentation says. A fresh VM may still be upgrading itself: wait for the lock.
install_gcsfuse() {
  local key=/usr/share/keyrings/cloud.google.asc index=https://packages.cloud.google.com/apt
  curl --silent --show-error --fail --location "$index/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] $index gcsfuse-$(lsb_release --codename --short) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo apt-get update --quiet --quiet -o DPkg::Lock::Timeout=600
  sudo apt-get install --yes --quiet --quiet -o DPkg::Lock::Timeout=600 gcsfuse
}

# The TPU images have Python 3.10. uv brings a newer one without root and beside it.
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

# start RUN ARGUMENTS…: setsid takes the run out of the ssh session, whose end it then outlives. systemd-run would do that too, but
# needs root, or a user manager that itself ends with the session.
start() {
  local run="$1"
  [ "$(current_run)" != "$run" ] || return 0
  exec 9>>"$state/lock"
  flock --wait 5 9 || { echo "worker $(worker_number): run $(current_run) is running here. Stop it first." >&2; exit 3; }
  mkdir -p "$state/runs/$run"
  echo "$run" > "$state/run"
  setsid bash "$state/worker.sh" supervise "$@" </dev/null >"$state/runs/$run/log" 2>&1 &
  for _ in {1..200}; do  # until there is something that `stop` and `tail_log` can refer to
    if [ -e "$state/runs/$run/pid" ] || [ -e "$state/runs/$run/exit_code" ]; then return; fi
    sleep 0.05
  done
}

# supervise RUN ARGUMENTS…: the run itself; whatever ends it leaves its exit code, before the lock is given back.
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

# One line for tpu_vm.py to read; never fails.
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

# The last lines of the log, and what follows as long as the run is running.
tail_log() {
  local run
  run="$(current_run)"
  if [ -z "$run" ]; then echo "worker $(worker_number): no run was started here." >&2; exit 3; fi
  if ! is_running; then exec tail --lines=100 "$state/runs/$run/log"; fi
  exec tail --lines=100 --follow --pid="$(cat "$state/runs/$run/pid")" "$state/runs/$run/log"
}

stop() {
  if [ -z "$(current_run)" ] || ! is_running; then
    echo "worker $(worker_number): no run is running here."
  else
    kill -TERM "$(cat "$state/runs/$(current_run)/pid")" || true  # it may just have ended
    echo "worker $(worker_number): run $(current_run) was told to save and end."
  fi
}

"$@"
exit
