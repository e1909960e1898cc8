#!/usr/bin/env bash
# Compile for absent TPUs and GPUs, and print the compilers' figures:
#
#   bash launch/compile_only.sh plan --config=configs/electra.py:size=base --device=v5e:4x4 --search
#   bash launch/compile_only.sh benchmark --suite=compiled [--json=FILE]
#
# The compilers (1.3 GB) are installed into .venv/compilers, where other commands do not see them: on a
# machine without the devices, JAX would warn about them at every start.
set -euo pipefail
here="$PWD"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case "${1:-}" in
  plan | benchmark) ;;
  *)
    echo "compile_only.sh: got '${1:-}', expected plan or benchmark and its arguments. See plan --help." >&2
    exit 1
    ;;
esac
source launch/environment.sh
# The benchmark needs PyTorch; plans do not.
make_environment "$([ "$1" = plan ] && echo formats || echo test)"
install_compilers
compilers="$PWD/.venv/compilers"
cd "$here" # files in the arguments, as --prices and --json, are the caller's
PYTHONPATH="$compilers" JAX_PLATFORMS=cpu exec python -m "electra_jax.$1" "${@:2}"
