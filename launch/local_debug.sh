#!/usr/bin/env bash
# From nothing to a trained tiny ELECTRA: environment, WikiText-2, tokenizer, dataset, pre-training,
# evaluation, export.
#
#   bash launch/local_debug.sh [RUN_DIRECTORY]      (default: runs/debug of this checkout)
#
# The directory is relative to the folder in which the command is given. A part whose result exists is
# skipped, so running it again resumes. On a machine with an NVIDIA GPU it installs and uses JAX's CUDA build.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$here/launch/options.sh"
if [ "$#" -gt 1 ]; then
  echo "local_debug.sh: got ${*:2} after $1, expected the run directory alone." >&2
  exit 1
fi
set_workdir "${1:-$here/runs/debug}" runs/debug
cd "$here"
source launch/environment.sh
extras=formats,finetune,plots
if has_cuda_driver; then extras="$extras,cuda"; fi
make_environment "$extras"

python -m data_pipelines.sample.wikitext2 --out runs/data/wikitext2
python -m data_pipelines.tokenizer --input runs/data/wikitext2/train.jsonl --vocab_size 1024 \
  --out runs/data/tokenizer
python -m data_pipelines.corpus --train runs/data/wikitext2/train.jsonl \
  --validation runs/data/wikitext2/validation.jsonl --tokenizer runs/data/tokenizer \
  --sequence_length 64 --packing documents --out runs/data/corpus
python -m electra_jax.pretrain --config=configs/debug.py --workdir="$workdir"

# If PyTorch and transformers are installed, the export is verified; if not, the command prints that it was
# not.
export="$workdir/export"
[ -e "$export" ] || python -m electra_jax.convert export --workdir="$workdir" --out="$export" --language=en \
  --data_license="CC BY-SA 3.0 (WikiText-2, from Wikipedia)"
cat <<EOF

To use the model (after \`pip install torch transformers\`):

from transformers import AutoModel, AutoTokenizer, pipeline
tokenizer, model = (cls.from_pretrained("$export/discriminator") for cls in (AutoTokenizer, AutoModel))
print(model(**tokenizer("A sentence.", return_tensors="pt")).last_hidden_state.shape)
print(pipeline("fill-mask", model="$export/generator")("The album was released in [MASK].")[0])
EOF
