# Sourced by the other scripts: a virtual environment in .venv with the extras asked for.

# make_environment EXTRAS: create .venv if it is missing, install this checkout with EXTRAS, and activate it. The install is
# repeated only when setup.py or the extras changed since the last one.
make_environment() {
  local extras="$1" python="${PYTHON:-python3}" stamp
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed; '$python' is $("$python" --version 2>&1). Set PYTHON=/path/to/python3.11." >&2
    return 1
  }
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  # shellcheck disable=SC1091
  source .venv/bin/activate
  stamp="$(cksum < setup.py)"
  if [ "$(cat ".venv/installed-${extras//,/-}" 2>/dev/null)" != "$stamp" ]; then
    echo "Installing electra_jax[$extras] into .venv (once; a few minutes)"
    python -m pip install --quiet --disable-pip-version-check -e ".[$extras]"
    echo "$stamp" > ".venv/installed-${extras//,/-}"
  fi
}

# make_compilers: install the compilers for absent devices, of the versions that belong to this JAX, and set `compilers` to where.
make_compilers() {
  compilers="$PWD/.venv/compilers"
  [ -e "$compilers/installed" ] && return
  local version
  version="$(python -c 'import jax; print(jax.__version__)')"
  echo "Installing compilers for TPUs and GPUs into $compilers (once; a few minutes)"
  python -m pip install --quiet --disable-pip-version-check --upgrade --target "$compilers" \
    libtpu "jax-cuda13-plugin==$version" nvidia-cuda-nvcc
  touch "$compilers/installed"
}

# make_older_transformers: install a transformers 4, with the two libraries whose versions it bounds, and set
# `older_transformers` to where. It shares everything else with the environment, whose own transformers 5 stays what others see.
make_older_transformers() {
  older_transformers="$PWD/.venv/transformers4"
  [ -e "$older_transformers/installed" ] && return
  echo "Installing transformers 4 into $older_transformers (once; a minute)"
  python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target "$older_transformers" \
    transformers==4.57.3 tokenizers==0.22.2 huggingface_hub==0.36.2
  touch "$older_transformers/installed"
}
