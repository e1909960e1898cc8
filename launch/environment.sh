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
