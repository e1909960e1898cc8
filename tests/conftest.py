"""Eight fake CPU devices for every test; silent rank promotion is an error. Both are set before JAX starts.

All tests share one cache of compiled programs, as do the commands that they start: this saves a quarter of
the time. Corpora, runs and exports that several modules read are made once a session.
"""

import atexit
import os
import shutil
import signal
import sys
import tempfile
from importlib.metadata import version

os.environ["JAX_PLATFORMS"] = "cpu"
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers inherit these variables
    # As launch/environment.sh does, for tests that are started without it.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # Compiling takes most of the time, and optimised programs do not pay off for a few steps of tiny models:
    # without optimisation compiling takes a quarter of the time.
    flags = [os.environ.get("XLA_FLAGS", ""), "--xla_backend_optimization_level=0"]
    if version("jaxlib").startswith("0.10."):  # newer ones end at a flag that they do not know
        flags += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
    os.environ["XLA_FLAGS"] = " ".join([*flags, "--xla_force_host_platform_device_count=8"])
    # What commands and libraries leave among temporary files is removed when the tests end. pytest keeps its
    # own directory, with the files of failed tests.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="tests-of-electra-jax-")
    atexit.register(shutil.rmtree, tempfile.tempdir, ignore_errors=True)
    # Without a Python traceback for each operation of a program, lowering and compiling take a seventh less.
    os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax
import pytest
from xdist.scheduler import LoadFileScheduling

from electra_jax.configuration.process_setup import collect_cycles_rarely
from support import (
    devices,
    faults,
    forged_export,
    tiny_embeddings,
    tiny_export,
    tiny_run,
    tiny_task_exports,
    tpu_sandbox,
)
from support.golden import Golden

jax.config.update("jax_numpy_rank_promotion", "raise")
# A shell that starts the tests in the background makes them, and every command they start, ignore Ctrl-C;
# nohup makes them ignore a closed terminal.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
collect_cycles_rarely()  # as commands do


def pytest_addoption(parser):
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite the recorded results in tests/golden"
    )
    text = "test_damaged_checkpoints.py: flip a bit of every byte, not of a sample"
    parser.addoption("--all_flips", action="store_true", help=text)
    parser.addoption("--all_faults", action="store_true", help="all faults, and not a sample of them")


def pytest_collection_modifyitems(config, items):
    """Leave the long sweeps out without --all_faults; files with slow tests come first, so that no process
    is left alone with one of them at the end."""
    if not config.getoption("--all_faults"):
        left_out = [item for item in items if item.get_closest_marker("all_faults")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


# File → another, in whose process its tests run: both read exports that take a minute to make.
TOGETHER = {"tests/huggingface/test_import.py": "tests/huggingface/test_export.py"}


class FilesTogether(LoadFileScheduling):
    """All tests of a file run in one process, and so do those of files that share a costly fixture."""

    def _split_scope(self, nodeid):
        file = super()._split_scope(nodeid)
        return TOGETHER.get(file, file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return FilesTogether(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_terminal_summary(terminalreporter):
    """Print the table of the faults that were done."""
    reports = [report for name in ("passed", "failed") for report in terminalreporter.getreports(name)]
    properties = [value for report in reports for value in report.user_properties if report.when == "call"]
    records = [record for name, record in properties if name == faults.PROPERTY]
    if records:
        terminalreporter.section("faults")
        terminalreporter.write_line("\n".join(faults.table(records)))


@pytest.fixture
def golden(request):
    """The recorded results, for `golden.check_text` and `golden.check_numbers`."""
    test_file = request.node.path.relative_to(request.config.rootpath)
    return Golden(request.config.getoption("--update-golden"), str(test_file))


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A directory with the datasets "corpus" (rows of 32 ids) and "other" (another tokenizer)."""
    root = tmp_path_factory.mktemp("data")
    tiny_run.make_data(root)
    return root


@pytest.fixture(scope="session")
def environment():
    """Environment variables for a command that sees one device, as on a laptop."""
    return {
        **os.environ,
        "XLA_FLAGS": os.environ["XLA_FLAGS"].removesuffix("--xla_force_host_platform_device_count=8"),
    }


@pytest.fixture
def one_device():
    """`support.devices.one_device`, for tests of what does not depend on a mesh."""
    with devices.one_device():
        yield


@pytest.fixture(scope="session")
def finished(data, environment, tmp_path_factory):
    """(run directory, completed process) of a run that was not interrupted. Tests only read it."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    return workdir, tiny_run.start(workdir, data, environment)


@pytest.fixture(scope="session")
def exports(data, tmp_path_factory):
    """name → (export, parameters of its run) of a variant in tiny_export. Tests only read them."""
    return tiny_export.make_exports(tmp_path_factory.mktemp("exports"), data)


@pytest.fixture(scope="session")
def export_to_damage(data, tmp_path_factory):
    """An export with "discriminator" and "generator", not verified. Tests damage copies of it."""
    return forged_export.make(tmp_path_factory.mktemp("export_to_damage"), data)


@pytest.fixture(scope="session")
def task_exports(data, tmp_path_factory):
    """name → (fine-tuned model, its export) of a variant in tiny_task_exports. Tests only read them."""
    return tiny_task_exports.make_exports(tmp_path_factory.mktemp("task_exports"), data)


@pytest.fixture(scope="session")
def embedding_exports(data, tmp_path_factory):
    """name → (embedding model, its export) of a variant in tiny_embeddings. Tests only read them."""
    return tiny_embeddings.make_exports(tmp_path_factory.mktemp("embedding_exports"), data)


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """A git repository that holds the TPU launcher. Sandboxes copy it."""
    return tpu_sandbox.make_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture
def sandbox(tmp_path, checkout):
    """The launcher with a simulated gcloud and TPU."""
    with tpu_sandbox.Sandbox(tmp_path, checkout) as sandbox:
        yield sandbox
