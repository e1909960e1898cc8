"""Eight fake CPU devices for every test; silent rank promotion is an error. Must run before jax starts its backend.

And a corpus and a run that several modules share: each costs its seconds once.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import pytest
import tiny_export
import tiny_run

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A directory with "corpus" (rows of 32) and "other", made with another tokenizer."""
    root = tmp_path_factory.mktemp("data")
    tiny_run.make_data(root)
    return root


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """One device, as on a laptop; programs compiled by one run are reused by the others, to save minutes."""
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
             "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", **cache}


@pytest.fixture(scope="session")
def finished(data, environment, tmp_path_factory):
    """(run directory, outcome) of a run that nothing interrupted. Tests only read it."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    return workdir, tiny_run.start(workdir, data, environment)


@pytest.fixture(scope="session")
def exports(data, tmp_path_factory):
    """name → (export, parameters of its run) of every variant in tiny_export. Tests only read them."""
    return tiny_export.make_exports(tmp_path_factory.mktemp("exports"), data)
