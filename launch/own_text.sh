# Sourced by laptop.sh and evening_gpu.sh: a tokenizer, a dataset, pre-training and an export from the user's
# texts, which are .txt or .jsonl (both also with .gz or .zst) or .parquet; without any, WikiText-2. Without
# --validation, one document in fifty is held out. The dataset is built in RUN_DIRECTORY-data. A part whose
# result exists is skipped, so running it again resumes, with or without the texts.
# RUN_DIRECTORY-data/texts lists them; others are an error. FLAGs after -- are those of electra_jax.pretrain,
# and part of the run: give them again when it resumes.

# read_texts TEXT… [--validation TEXT…] [-- FLAG…]: set data, train, validation and flags; workdir is the run
# directory. Paths of texts are relative to the folder in which the command was given.
read_texts() {
  local text line is_validation=
  data="$workdir-data" train=() validation=() flags=()
  while [ "$#" -gt 0 ]; do
    text="$1"
    shift
    if [ "$text" = -- ]; then flags=("$@"); break; fi
    if [ "$text" = --validation ]; then is_validation=yes; continue; fi
    if [ ! -r "$text" ]; then
      echo "${0##*/}: got $text, expected a file of text that can be read. Flags of pretrain follow after --." >&2
      exit 1
    fi
    text="$(realpath -- "$text")"
    if [ -n "$is_validation" ]; then validation+=("$text"); else train+=("$text"); fi
  done
  if [ "${#train[@]}" = 0 ] && [ "${#validation[@]}" -gt 0 ]; then
    echo "${0##*/}: got --validation alone, expected texts to train on before it." >&2
    exit 1
  fi
  [ -e "$data/texts" ] || return 0
  if [ "${#train[@]}" = 0 ]; then
    while IFS= read -r line; do
      case "$line" in
        "train "*) train+=("${line#train }") ;;
        "validation "*) validation+=("${line#validation }") ;;
      esac
    done < "$data/texts"
  elif [ "$(list_texts)" != "$(cat "$data/texts")" ]; then
    echo "${0##*/}: got these texts:" >&2
    list_texts >&2
    echo "expected those of $data, or none:" >&2
    cat "$data/texts" >&2
    echo "Give another RUN_DIRECTORY, or remove $workdir and $data." >&2
    exit 1
  fi
}

# list_texts: the texts, one a line.
list_texts() {
  printf 'train %s\n' "${train[@]}"
  if [ "${#validation[@]}" -gt 0 ]; then printf 'validation %s\n' "${validation[@]}"; fi
}

# build_dataset VOCABULARY_SIZE ROW_LENGTH MAX_DOCUMENT_CHARS: from the texts, in $data/corpus.
build_dataset() {
  local held_out=(--validation_fraction 0.02)
  if [ "${#train[@]}" = 0 ]; then
    python -m data_pipelines.sample.wikitext2 --out "$data/wikitext2"
    train=("$data/wikitext2/train.jsonl") validation=("$data/wikitext2/validation.jsonl")
  fi
  # The texts of a dataset that an earlier version built are not known.
  if [ ! -e "$data/texts" ] && [ ! -e "$data/corpus" ]; then
    mkdir -p "$data"
    list_texts > "$data/texts"
  fi
  if [ "${#validation[@]}" -gt 0 ]; then held_out=(--validation "${validation[@]}"); fi
  [ -e "$data/tokenizer" ] ||
    python -m data_pipelines.tokenizer --input "${train[@]}" --vocab_size "$1" --out "$data/tokenizer"
  [ -e "$data/corpus" ] ||
    python -m data_pipelines.corpus --train "${train[@]}" "${held_out[@]}" --tokenizer "$data/tokenizer" \
      --sequence_length "$2" --packing documents --max_document_chars "$3" --out "$data/corpus"
}

# pretrain_and_export RECIPE [FLAG…]: train on the dataset in the run directory, with these flags and the
# user's, and export the result.
pretrain_and_export() {
  # bash before 4.4, which Macs have, takes an empty list for an unset variable.
  python -m electra_jax.pretrain --config="$1" --workdir="$workdir" --config.data.datasets="$data/corpus" \
    "${@:2}" ${flags[@]+"${flags[@]}"}
  if [ ! -e "$workdir/export" ]; then
    python -m electra_jax.convert export --workdir="$workdir" --out="$workdir/export"
  elif [ -n "$(find "$workdir/checkpoints" -maxdepth 1 -name '[0-9]*' -newer "$workdir/export")" ]; then
    # A run that flags made longer. The older export may be in use.
    echo "${0##*/}: $workdir/export is of an earlier checkpoint and is kept. Move it away and run this again" \
      "to export the newest." >&2
  fi
}
