#!/usr/bin/env bash
# Install electra_jax with its test extras into .venv, then run lint and all tests. Arguments are passed to
# pytest:
#   bash launch/run_tests.sh -k packing
#
# environment.sh tells how to take another Python, or the newest libraries.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
make_environment test
# At the same time, since each waits for the network and the disk.
installations=()
for part in compilers peers buckets beam; do
  "install_$part" &
  installations+=($!)
done
# Microsoft's own DeBERTa, to compare with. Its requirements no longer install, but the compared parts need
# none.
python -m pip install --quiet --no-compile --no-deps DeBERTa==0.1.12
for installation in "${installations[@]}"; do wait "$installation"; done
ruff check .
ruff format --check .
# Three processes for two cores, since tests that start commands wait for them. All tests of a file run in one
# process, because they share fixtures; files run in their order, which tests/conftest.py makes.
exec python -m pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder "$@"
