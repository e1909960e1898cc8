"""Eight fake CPU devices for every test; silent rank promotion is an error. Must run before jax starts its
backend.

What one test compiled is there for the others, those of the other process and the commands that tests start,
too: a quarter of the time. And a corpus and a run that several modules share: each costs its seconds once.
"""

import atexit
import os
import shutil
import signal
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
if (
    "PYTEST_XDIST_WORKER" not in os.environ
):  # workers inherit these variables from the process that starts them
    # Most of the time is the compiler's, which makes fast programs for models that are tiny and take a few
    # steps: three quarters of it are spared.
    os.environ["XLA_FLAGS"] = " ".join(
        [
            os.environ.get("XLA_FLAGS", ""),
            "--xla_backend_optimization_level=0",
            "--xla_cpu_use_fusion_emitters=false",
            "--xla_force_host_platform_device_count=8",
        ]
    )
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import jax
import pytest

from support import tiny_export, tiny_run, tpu_sandbox

jax.config.update("jax_numpy_rank_promotion", "raise")
# A shell that starts the tests in the background lets them ignore Ctrl-C, and with them all commands that
# they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A directory with "corpus" (rows of 32) and "other", made with another tokenizer."""
    root = tmp_path_factory.mktemp("data")
    tiny_run.make_data(root)
    return root


@pytest.fixture(scope="session")
def environment():
    """One device, as on a laptop."""
    return {
        **os.environ,
        "XLA_FLAGS": os.environ["XLA_FLAGS"].removesuffix("--xla_force_host_platform_device_count=8"),
    }


@pytest.fixture(scope="session")
def finished(data, environment, tmp_path_factory):
    """(run directory, outcome) of a run that nothing interrupted. Tests only read it."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    return workdir, tiny_run.start(workdir, data, environment)


@pytest.fixture(scope="session")
def exports(data, tmp_path_factory):
    """name → (export, parameters of its run) of every variant in tiny_export. Tests only read them."""
    return tiny_export.make_exports(tmp_path_factory.mktemp("exports"), data)


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """The TPU launcher in a repository of its own. Sandboxes copy it."""
    return tpu_sandbox.make_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture
def sandbox(tmp_path, checkout):
    """The launcher with a gcloud that makes up its TPU."""
    with tpu_sandbox.Sandbox(tmp_path, checkout) as sandbox:
        yield sandbox
