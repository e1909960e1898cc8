#!/usr/bin/env bash
# Install electra_jax with its test extras into .venv and run lint and all tests. Arguments go to pytest:
#   bash launch/run_tests.sh -k packing
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
make_environment test
install_compilers
install_peers
install_beam
# Microsoft's own DeBERTa, to compare with. Its requirements no longer install, and the parts that are compared need none of them.
python -m pip install --quiet --no-compile --no-deps DeBERTa==0.1.12
ruff check .
# Two processes, since much of the time one core compiles; a file stays in one of them, for what its tests share, and the files in
# their order, for the longest test is in the first.
exec python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder "$@"
