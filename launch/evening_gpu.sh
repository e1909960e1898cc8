#!/usr/bin/env bash
# An evening on one NVIDIA GPU: environment, tokenizer, dataset, pre-training with configs/evening_gpu.py,
# export.
#
#   bash launch/evening_gpu.sh [RUN_DIRECTORY [TEXT… [--validation TEXT…]] [-- FLAG…]]
#
# RUN_DIRECTORY is runs/evening by default; own_text.sh explains the texts and flags. Running it again
# resumes. It uses all GPUs that CUDA_VISIBLE_DEVICES leaves.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$here/launch/options.sh"
source "$here/launch/own_text.sh"
set_workdir "${1:-$here/runs/evening}" "runs/evening mine.jsonl --validation held_out.jsonl"
read_texts "${@:2}"
cd "$here"
source launch/environment.sh
extras=formats,finetune,plots
if has_cuda_driver; then extras="$extras,cuda"; fi
make_environment "$extras"
backend="$(python -c 'import jax; print(jax.default_backend())')"
if [ "$backend" != gpu ]; then
  echo "evening_gpu.sh: got JAX's back end $backend, expected gpu: without one the run would take weeks. It" \
    "installs JAX for NVIDIA's driver 580 or newer; install another build into .venv by hand, or take" \
    "launch/laptop.sh." >&2
  exit 1
fi
# Some more characters than a row of 256 has: long documents are cut at sentences.
build_dataset 16384 256 1200
pretrain_and_export configs/evening_gpu.py
