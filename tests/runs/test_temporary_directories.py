"""Temporary directories of commands that use buckets: removed by their process, or by the next one."""

import subprocess
import sys
import tempfile

import pytest

from electra_jax.runs.temporary_directories import temporary_directory
from support.paths import ROOT

HOLD = """
from electra_jax.runs.temporary_directories import temporary_directory
with temporary_directory() as directory:
    (directory / "checkpoint").write_text("large")
    print(directory, flush=True)
    input()
"""


@pytest.fixture
def parent(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_the_directory_of_a_killed_process_is_removed_by_the_next_one(parent):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLD], cwd=ROOT, **pipes) as process:
        theirs = process.stdout.readline().strip()
        with temporary_directory() as ours:
            assert {str(path) for path in parent.iterdir()} == {theirs, str(ours)}
        assert [str(path) for path in parent.iterdir()] == [theirs]
        process.kill()
    assert [str(path) for path in parent.iterdir()] == [theirs]
    with temporary_directory() as ours:
        assert list(parent.iterdir()) == [ours]
    assert list(parent.iterdir()) == []


def test_an_error_ends_a_directory(parent):
    with pytest.raises(ValueError, match="wrong"), temporary_directory():
        raise ValueError("wrong")
    assert list(parent.iterdir()) == []
