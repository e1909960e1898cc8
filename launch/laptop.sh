#!/usr/bin/env bash
# Two hours on a CPU: environment, tokenizer, dataset, pre-training with configs/laptop.py, export.
#
#   bash launch/laptop.sh [RUN_DIRECTORY [TEXT… [--validation TEXT…]]]
#
# RUN_DIRECTORY is runs/laptop by default. TEXT is .txt or .jsonl (both also with .gz or .zst) or .parquet;
# without it, WikiText-2. Without --validation, one document in fifty is held out. The dataset is built in
# RUN_DIRECTORY-data. A part whose result exists is skipped, so running it again resumes, with or without the
# texts. RUN_DIRECTORY-data/texts lists them; others are an error.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$here/launch/options.sh"
# Paths are relative to the folder in which the command was given.
set_workdir "${1:-$here/runs/laptop}" "runs/laptop mine.jsonl --validation held_out.jsonl"
data="$workdir-data"
train=() validation=() is_validation=
for text in "${@:2}"; do
  if [ "$text" = --validation ]; then is_validation=yes; continue; fi
  [ -r "$text" ] || { echo "laptop.sh: got $text, expected a file of text that can be read." >&2; exit 1; }
  text="$(realpath -- "$text")"
  if [ -n "$is_validation" ]; then validation+=("$text"); else train+=("$text"); fi
done
if [ "${#train[@]}" = 0 ] && [ "${#validation[@]}" -gt 0 ]; then
  echo "laptop.sh: got --validation alone, expected texts to train on before it." >&2
  exit 1
fi

# list_texts: the texts, one a line.
list_texts() {
  printf 'train %s\n' "${train[@]}"
  if [ "${#validation[@]}" -gt 0 ]; then printf 'validation %s\n' "${validation[@]}"; fi
}

if [ -e "$data/texts" ]; then
  if [ "${#train[@]}" = 0 ]; then
    while IFS= read -r line; do
      case "$line" in
        "train "*) train+=("${line#train }") ;;
        "validation "*) validation+=("${line#validation }") ;;
      esac
    done < "$data/texts"
  elif [ "$(list_texts)" != "$(cat "$data/texts")" ]; then
    echo "laptop.sh: got these texts:" >&2
    list_texts >&2
    echo "expected those of $data, or none:" >&2
    cat "$data/texts" >&2
    echo "Give another RUN_DIRECTORY, or remove $workdir and $data." >&2
    exit 1
  fi
fi

cd "$here"
source launch/environment.sh
make_environment formats,finetune,plots
if [ "${#train[@]}" = 0 ]; then
  python -m data_pipelines.sample.wikitext2 --out "$data/wikitext2"
  train=("$data/wikitext2/train.jsonl") validation=("$data/wikitext2/validation.jsonl")
fi
# The texts of a dataset that an earlier version built are not known.
if [ ! -e "$data/texts" ] && [ ! -e "$data/corpus" ]; then
  mkdir -p "$data"
  list_texts > "$data/texts"
fi
held_out=(--validation_fraction 0.02)
if [ "${#validation[@]}" -gt 0 ]; then held_out=(--validation "${validation[@]}"); fi

[ -e "$data/tokenizer" ] ||
  python -m data_pipelines.tokenizer --input "${train[@]}" --vocab_size 4096 --out "$data/tokenizer"
# Some more characters than a row of 128 has: a text of one long line is cut at sentences, with little padding.
[ -e "$data/corpus" ] ||
  python -m data_pipelines.corpus --train "${train[@]}" "${held_out[@]}" --tokenizer "$data/tokenizer" \
    --sequence_length 128 --packing documents --max_document_chars 500 --out "$data/corpus"
# The recipe's dtype is bfloat16, but many processors are faster with float32. A run that resumes keeps the
# dtype that it began with.
dtype=bfloat16 settings="$workdir/config.json"
if [ ! -e "$settings" ]; then
  dtype="$(python -c 'from electra_jax.distributed.processor import faster_dtype; print(faster_dtype())')"
elif grep -q '"dtype": "float32"' "$settings"; then
  dtype=float32
fi
python -m electra_jax.pretrain --config=configs/laptop.py --workdir="$workdir" \
  --config.data.datasets="$data/corpus" --config.model.dtype="$dtype"
[ -e "$workdir/export" ] || python -m electra_jax.convert export --workdir="$workdir" --out="$workdir/export"
