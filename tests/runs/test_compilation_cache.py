"""Compiled programs that the next start loads: none is compiled twice, no trouble is an error."""

import os
import resource
import socket
import subprocess
import sys
import tempfile
import warnings
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from electra_jax.runs import compilation_cache as module
from electra_jax.runs import program_store
from electra_jax.runs.compilation_cache import compilation_cache
from support import tiny_run
from support.commands import run_module


@pytest.fixture(autouse=True)
def no_other_cache(monkeypatch, tmp_path):
    """No cache of JAX's own, as with a user who did not ask for one, and no programs of other tests."""
    monkeypatch.setenv("ELECTRA_JAX_CACHE", str(tmp_path / "cache"))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    reset_cache()
    yield
    jax.config.update("jax_compilation_cache_dir", before)
    reset_cache()


def compute():
    """A program that this process has not traced before, and that is the same each time."""

    def doubled_sum(values):
        return jnp.sum(values * 2)

    return float(jax.jit(doubled_sum)(np.arange(4, dtype=np.float32)))


def start(workdir, setting="parent"):
    """(programs compiled, programs loaded) in one use of the cache, as a run under `workdir` makes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with compilation_cache(setting, str(workdir)) as programs:
            assert compute() == 12
    return programs.compiled, programs.loaded


def kept(tmp_path, directory=".compiled"):
    return sorted((tmp_path / directory).iterdir())


def test_the_second_start_compiles_nothing(tmp_path):
    assert start(tmp_path / "run") == (1, 0)
    assert start(tmp_path / "run") == start(tmp_path / "other run") == (0, 1)
    (path,) = kept(tmp_path)
    assert path.name.startswith("jit_doubled_sum-")
    assert (path.parent.stat().st_mode & 0o777) == 0o700


def test_settings_say_where_programs_are_kept(tmp_path):
    assert start(tmp_path / "a" / "run", str(tmp_path / "b" / "programs")) == (1, 0)
    assert start(tmp_path / "c" / "run", str(tmp_path / "b" / "programs")) == (0, 1)
    for _ in range(2):
        assert start(tmp_path / "run", "off") == (1, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]


def test_a_run_in_a_bucket_keeps_programs_on_this_machine(tmp_path):
    assert start("gs://bucket/run") == (1, 0)
    assert start("gs://bucket/other") == (0, 1)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["compiled"]


def test_a_cache_that_the_user_chose_is_left_alone(tmp_path):
    own = str(tmp_path / "own")
    jax.config.update("jax_compilation_cache_dir", own)
    start(tmp_path / "runs" / "run")
    assert jax.config.jax_compilation_cache_dir == own and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("damage", ["truncated", "empty", "one bit"])
def test_a_damaged_program_is_compiled_again(damage, tmp_path):
    start(tmp_path / "run")
    (path,) = kept(tmp_path)
    data = bytearray(path.read_bytes())
    if damage == "one bit":
        data[len(data) // 2] ^= 1
    path.write_bytes(data[: {"truncated": len(data) // 2, "empty": 0, "one bit": None}[damage]])
    assert start(tmp_path / "run") == (1, 0)
    assert start(tmp_path / "run") == (0, 1)
    assert len(kept(tmp_path)) == 1 and path not in kept(tmp_path)  # a program's file has its compile time


def test_on_a_full_disk_no_part_of_a_program_is_kept(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, limits[1]))
    try:
        assert start(tmp_path / "run") == (1, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert kept(tmp_path) == []
    assert start(tmp_path / "run") == (1, 0)
    assert start(tmp_path / "run") == (0, 1)


def test_a_directory_that_cannot_be_used_is_reported_and_the_run_compiles(tmp_path, capfd):
    (tmp_path / "file").write_text("")
    for place, problem in (
        (str(tmp_path / "file"), f"[Errno 17] File exists: '{tmp_path}/file'"),
        ("\0", "embedded null byte"),
        ("x" * 300, "File name too long"),
    ):
        assert start(tmp_path / "run", place) == (1, 0)
        printed = capfd.readouterr().err
        assert "compiled programs are not kept: " in printed and problem in printed
        assert "--config.train.compilation_cache=DIR keeps them in another directory, off nowhere." in printed


def test_without_a_temporary_directory_a_line_says_so_and_the_run_compiles(tmp_path, capfd, monkeypatch):
    with monkeypatch.context() as patched:  # pytest removes temporary files
        patched.setattr(tempfile, "tempdir", None)
        patched.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nonexistent"])
        assert start(tmp_path / "run") == (1, 0)
    assert capfd.readouterr().err.splitlines() == [
        "compiled programs are not kept: No usable temporary directory found in ['/nonexistent']. Set TMPDIR "
        "to a directory that can be written."
    ]
    assert kept(tmp_path) == []


def others_may_write(place, monkeypatch):
    place.chmod(0o770)
    return f"others may write to {place}, and programs are code (chmod go-w)"


def others_may_write_above(place, monkeypatch):
    place.parent.chmod(0o777)
    return f"others may write to {place.parent}, and programs are code (chmod go-w)"


def another_users(place, monkeypatch):
    whole = Path.stat

    def stat(path, **choices):
        status = whole(path, **choices)
        return os.stat_result((*status[:4], 12345, *status[5:])) if path == place else status

    monkeypatch.setattr(Path, "stat", stat)
    return f"{place} is another user's, and programs are code"


@pytest.mark.parametrize("change", [others_may_write, others_may_write_above, another_users])
def test_programs_that_others_may_change_are_not_loaded(change, tmp_path, capfd, monkeypatch):
    (tmp_path / "runs").mkdir()
    place = tmp_path / "runs" / ".compiled"
    assert start(tmp_path / "runs" / "run") == (1, 0)
    problem = change(place, monkeypatch)
    assert start(tmp_path / "runs" / "run", str(place)) == (1, 0)
    assert f"compiled programs are not kept: {problem}. " in capfd.readouterr().err
    # The default is this directory, too. So programs are kept in this user's directory of fetched files.
    assert start(tmp_path / "runs" / "run") == (1, 0)
    assert start(tmp_path / "runs" / "run") == (0, 1)
    assert len(kept(tmp_path, "cache/compiled")) == 1 and not capfd.readouterr().err


def test_a_link_is_not_followed(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir(mode=0o700)
    (tmp_path / ".compiled").symlink_to(mine)
    assert start(tmp_path / "run") == (1, 0)
    assert not list(mine.iterdir()) and len(kept(tmp_path, "cache/compiled")) == 1


def test_a_directory_that_cannot_be_written_still_gives_programs(tmp_path, monkeypatch, capfd):
    place = str(tmp_path / "programs")
    start(tmp_path / "run", place)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert start(tmp_path / "run", place) == (0, 1)
    assert f"new compiled programs are not kept: {place} cannot be written. " in capfd.readouterr().err


def test_what_is_removed_from_the_store_in_the_meantime_changes_nothing(tmp_path):
    start(tmp_path / "run")
    with compilation_cache("parent", str(tmp_path / "run")) as programs:
        for path in kept(tmp_path):
            path.unlink()
        assert compute() == 12
    assert (programs.compiled, programs.loaded) == (0, 1) and kept(tmp_path) == []


def test_several_processes_load_what_all_of_them_have(tmp_path, monkeypatch):
    start(tmp_path / "run")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(module, "exchange", lambda value: [value, value])
    assert start(tmp_path / "run") == (0, 1)
    monkeypatch.setattr(module, "exchange", lambda value: [value, []])
    assert start(tmp_path / "run") == (1, 0)


TWO_PROCESSES = """
import sys
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from electra_jax.distributed.processes import barrier, join_processes
from electra_jax.runs.compilation_cache import compilation_cache

join_processes(f"localhost:{sys.argv[1]}", 2, int(sys.argv[2]))
jax.config.update("jax_compilation_cache_dir", None)
of_both = NamedSharding(jax.make_mesh((2,), ("data",)), PartitionSpec("data"))
ones = jax.make_array_from_callback((4,), of_both, lambda place: np.ones(4)[place])
with compilation_cache("parent", sys.argv[3]) as cache:
    for stage in range(2):

        def evaluation_step(x):
            return (x * x).sum()

        before = cache.compiled, cache.loaded
        jax.jit(evaluation_step)(ones).block_until_ready()
        print("stage", stage, cache.compiled - before[0], cache.loaded - before[1])
        barrier(f"stage {stage}")
"""


def test_with_two_processes_none_loads_what_the_run_has_compiled_before(environment, tmp_path):
    """As for a former stage with the same evaluation step: process 0 alone writes it."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-c", TWO_PROCESSES, str(port)]
    processes = [
        subprocess.Popen(
            [*words, str(index), str(tmp_path / "run")], env=environment, stdout=subprocess.PIPE, text=True
        )
        for index in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    for output in outputs:
        assert [line for line in output.splitlines() if line.startswith("stage")] == [
            "stage 0 1 0",
            "stage 1 1 0",
        ]
    assert len(list((tmp_path / ".compiled").glob("jit_evaluation_step-*"))) == 1  # for the next start


def test_a_program_that_is_compiled_twice_is_kept_once(tmp_path):
    start(tmp_path / "run")
    (path,) = kept(tmp_path)
    other = tmp_path / path.name.rsplit(".", 2)[0]
    other.write_bytes(zlib.compress(b"compiled at another time"))
    program_store.ProgramStore(path.parent).add(other)
    assert kept(tmp_path) == [path]
    path.unlink()
    program_store.ProgramStore(path.parent).add(other)
    assert len(kept(tmp_path)) == 1 != kept(tmp_path).count(path)


def test_a_program_that_cannot_be_kept_does_not_hold_up_others(tmp_path, monkeypatch):
    whole = program_store.write_bytes

    def write(path, data):
        if "doubled" in path.name:
            raise OSError(36, "File name too long")
        whole(path, data)

    monkeypatch.setattr(program_store, "write_bytes", write)
    with compilation_cache("parent", str(tmp_path / "run")):
        compute()
        jax.jit(lambda values: values + 3)(np.arange(4))
    assert [path.name.partition("-")[0] for path in kept(tmp_path)] == ["jit__lambda"]


def test_the_oldest_programs_go_first(tmp_path, monkeypatch):
    start(tmp_path / "run")
    (new,) = kept(tmp_path)
    new_size = new.stat().st_size
    old = tmp_path / ".compiled" / f"jit_old-{'0' * 64}-cache.{'0' * 8}.{'0' * 32}"
    old.write_bytes(b"0" * 1000)
    os.utime(old, (1, 1))
    new.unlink()
    monkeypatch.setattr(program_store, "MAX_BYTES", new_size + 1500)
    start(tmp_path / "run")
    assert len(kept(tmp_path)) == 2
    for path in kept(tmp_path):
        if path != old:
            path.unlink()
    monkeypatch.setattr(program_store, "MAX_BYTES", new_size + 500)
    foreign = tmp_path / ".compiled" / "thesis.tex"
    foreign.write_bytes(b"0" * 10_000)
    abandoned, written = (tmp_path / ".compiled" / f".jit_a-cache.0.0.{name}.tmp" for name in "ab")
    abandoned.write_bytes(b"0")
    written.write_bytes(b"0")
    for path in (foreign, abandoned):
        os.utime(path, (1, 1))
    start(tmp_path / "run")
    assert len(kept(tmp_path)) == 3 and {foreign, written} < set(kept(tmp_path)) and old not in kept(tmp_path)


def test_a_second_start_of_pretrain_compiles_nothing(data, environment, tmp_path):
    """And loses as the first, bit for bit."""
    own = {name: value for name, value in environment.items() if not name.startswith("JAX_COMP")}
    length = {"train__num_steps": 2, "optimizer__warmup_steps": 1, "log__every": 1, "eval__max_batches": 1}
    lines = [tiny_run.command(tmp_path / name, data, **length)[2:] for name in ("first", "second")]
    runs = [run_module(*words, environment=own) for words in lines]
    assert [run.returncode for run in runs] == [0, 0], runs[0].stderr
    lines = [
        next(line for line in run.stderr.splitlines() if line.startswith("first step done ")) for run in runs
    ]
    assert ", 0 loaded" in lines[0] and "programs: 0 compiled, " not in lines[0]
    assert "programs: 0 compiled, " in lines[1] and lines[1].endswith(f" loaded from {tmp_path}/.compiled")
    losses = [
        [line.partition('"loss": ')[2].partition(",")[0] for line in path.read_text().splitlines()]
        for path in (tmp_path / name / "metrics.jsonl" for name in ("first", "second"))
    ]
    assert losses[0] == losses[1] and any(losses[0])
