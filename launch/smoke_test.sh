#!/usr/bin/env bash
# The main path under another Python and the libraries that belong to it: a run that .venv's Python has started
# is resumed, exported, verified, fine-tuned, and the result exported and verified. All of it happens in a copy
# of this checkout, in a temporary directory with a blank in its name. Takes a few minutes.
#
#   [PYTHON=python3.13] bash launch/smoke_test.sh    (default: the newest Python found that is not .venv's)
set -euo pipefail
if [ "$#" -gt 0 ]; then
  echo "smoke_test.sh: got $*, expected no arguments. Example: PYTHON=python3.13 bash launch/smoke_test.sh" >&2
  exit 1
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
first="$PWD/.venv/bin/python"
[ -x "$first" ] || { echo "smoke_test.sh: got no .venv. Run \`bash launch/local_debug.sh\` first." >&2; exit 1; }

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

# The newest Python ≥ 3.11 on PATH or in pyenv that is not .venv's version.
find_other_python() {
  local minor candidate
  for minor in 20 19 18 17 16 15 14 13 12 11; do
    [ "3.$minor" != "$(version_of "$first")" ] || continue
    for candidate in "python3.$minor" "${PYENV_ROOT:-$HOME/.pyenv}/versions/3.$minor".*/bin/python3; do
      if [ "$(version_of "$candidate")" = "3.$minor" ]; then echo "$candidate"; return; fi
    done
  done
}

other="${PYTHON:-$(find_other_python)}"
if [ -z "$other" ]; then
  echo "smoke_test.sh: no other Python ≥ 3.11 than .venv's $(version_of "$first") was found; nothing to test."
  exit 0
fi
echo "smoke_test.sh: started by Python $(version_of "$first"), resumed by Python $(version_of "$other")"

copy="$(mktemp -d)/other python"
trap 'kill "${installation:-}" 2>/dev/null || true; rm -rf "$(dirname "$copy")"' EXIT
mkdir "$copy"
tar --create --exclude=./.venv --exclude=./.git --exclude=./runs . | tar --extract --directory "$copy"
cd "$copy"
export PYTHONPATH="$copy" JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
source launch/environment.sh
extras=formats,finetune,plots,hf
# The first run is made meanwhile, since an installation waits for the network and the disk.
PYTHON="$other" make_environment "$extras" &
installation=$!
train=(-m electra_jax.pretrain --config=configs/debug.py --workdir=runs/debug --config.train.num_steps=120
  --config.checkpoint.every=20 --config.eval.every=60 --config.log.every=10 --config.log.progress=False)

"$first" -m data_pipelines.sample.wikitext2 --out runs/data/wikitext2
"$first" -m data_pipelines.tokenizer --input runs/data/wikitext2/train.jsonl --vocab_size 1024 \
  --out runs/data/tokenizer
"$first" -m data_pipelines.corpus --train runs/data/wikitext2/train.jsonl \
  --validation runs/data/wikitext2/validation.jsonl --tokenizer runs/data/tokenizer \
  --sequence_length 64 --packing documents --out runs/data/corpus
"$first" "${train[@]}" &
run=$!
until [ -d runs/debug/checkpoints/20 ]; do
  kill -0 "$run" 2>/dev/null || { wait "$run"; break; }
  sleep 0.1
done
kill -TERM "$run"
code=0
wait "$run" || code=$?
[ "$code" = 143 ] || { echo "smoke_test.sh: the stopped run: got exit code $code, expected 143." >&2; exit 1; }

wait "$installation"
PYTHON="$other" make_environment "$extras"
python "${train[@]}"
python -m electra_jax.convert export --workdir=runs/debug --out=exported
python -m electra_jax.convert verify exported
python -m electra_jax.finetune --config=configs/finetune.py:task=trec6 --init_from=runs/debug \
  --config.train.num_epochs=1 --config.log.progress=False --workdir=runs/trec6
for model in runs/trec6/models/*; do
  python -m electra_jax.convert export --workdir="$model" --out=exported-trec6
done
python -m electra_jax.convert verify exported-trec6
echo "smoke_test.sh: passed under Python $(version_of python) with $(python -m pip list 2>/dev/null |
  awk '$1 ~ /^(jax|flax|orbax-checkpoint|numpy|transformers|torch)$/ { printf "%s %s ", $1, $2 }')"
