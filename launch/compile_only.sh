#!/usr/bin/env bash
# Compile for TPUs and GPUs that are not there, and print what their compilers say:
#   bash launch/compile_only.sh --suite=compiled [--json=FILE]
# Arguments go to `python -m electra_jax.benchmark`. The compilers (1.3 GB) are installed beside the environment's packages, where
# other commands do not see them: on a machine without the devices JAX would warn about them at every start.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
make_environment test
install_compilers
PYTHONPATH=.venv/compilers JAX_PLATFORMS=cpu exec python -m electra_jax.benchmark "$@"
