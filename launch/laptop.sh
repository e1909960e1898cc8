#!/usr/bin/env bash
# Two hours on a CPU: environment, tokenizer, dataset, pre-training with configs/laptop.py, export.
#
#   bash launch/laptop.sh [RUN_DIRECTORY [TEXT… [--validation TEXT…]] [-- FLAG…]]
#
# RUN_DIRECTORY is runs/laptop by default; own_text.sh explains the texts and flags. Running it again
# resumes.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$here/launch/options.sh"
source "$here/launch/own_text.sh"
set_workdir "${1:-$here/runs/laptop}" "runs/laptop mine.jsonl --validation held_out.jsonl"
read_texts "${@:2}"
cd "$here"
source launch/environment.sh
make_environment formats,finetune,plots
# Some more characters than a row of 128 has: a text of one long line is cut at sentences, with little padding.
build_dataset 4096 128 500
# The recipe's dtype is bfloat16, but many processors are faster with float32. A run that resumes keeps the
# dtype that it began with.
dtype=bfloat16 settings="$workdir/config.json"
if [ ! -e "$settings" ]; then
  dtype="$(python -c 'from electra_jax.distributed.processor import faster_dtype; print(faster_dtype())')"
elif grep -q '"dtype": "float32"' "$settings"; then
  dtype=float32
fi
pretrain_and_export configs/laptop.py --config.model.dtype="$dtype"
