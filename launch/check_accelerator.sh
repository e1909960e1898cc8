#!/usr/bin/env bash
# Check that this machine's GPU, TPU or CPU trains correctly, and measure how fast:
#
#   bash launch/check_accelerator.sh [--out=DIR] [--data=DATASET] [--parts=a,b] [--again] [--limit_factor=2]
#
# At most eight minutes on one GPU; nothing is fetched. Relative paths are meant from the directory in which
# it is called. electra_jax/benchmarks/accelerator/README.md explains the parts. It uses the Python that
# PYTHON names or that is called python3 if that has the packages, otherwise .venv, which it creates if need
# be.
set -euo pipefail
called_from="$PWD"
if [[ "${PYTHON:-}" == [!/]*/* ]]; then PYTHON="$PWD/$PYTHON"; fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
checkout="$PWD"
python="$(command -v "${PYTHON:-python3}" || true)"
packages="import array_record, flax, grain, jax, ml_collections, optax, orbax.checkpoint, safetensors, scipy, \
sentencepiece, tensorflow_datasets, tokenizers"
# In the caller's directory, as relative entries of PYTHONPATH are meant from there.
if [ -z "$python" ] || ! missing="$(cd "$called_from" && "$python" -c "$packages" 2>&1)"; then
  echo "${python:-${PYTHON:-python3}} is not used: $(tail -n 1 <<<"${missing:-not found}")" >&2
  source launch/environment.sh
  extras=hf
  if has_cuda_driver; then
    extras=hf,cuda
  elif [ -e /dev/accel0 ] || [ -e /dev/vfio/0 ]; then
    extras=hf,tpu
  fi
  make_environment "$extras"
  python="$checkout/.venv/bin/python"
fi
cd "$called_from"
PYTHONPATH="$checkout${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m electra_jax.benchmark --suite=accelerator "$@"
