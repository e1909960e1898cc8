#!/usr/bin/env bash
# Install electra_jax with its test extras into .venv and run lint and all tests. Arguments go to pytest:
#   bash launch/run_tests.sh -k packing
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
make_environment test
ruff check .
exec python -m pytest "$@"
