"""How a command ends when nobody reads its output any more."""

import os
import subprocess
import sys

import pytest

from data_pipelines.command_errors import error_message
from data_pipelines.whole_files import written_whole

PROGRAM = """
import os, sys
from data_pipelines.command_errors import errors_on_the_terminal
with errors_on_the_terminal():
    {work}
"""


def run(work, is_buffered, closes):
    """(exit code, standard error) of a command whose standard output is a pipe."""
    read_end, write_end = os.pipe()
    if closes:
        os.close(read_end)
    process = subprocess.run(
        [sys.executable, *([] if is_buffered else ["-u"]), "-c", PROGRAM.format(work=work)],
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write_end)
    if not closes:
        os.close(read_end)
    return process.returncode, process.stderr


@pytest.mark.parametrize("is_buffered", [True, False])
@pytest.mark.parametrize("work", ["print('one line')", "[print('a line') for _ in range(100_000)]"])
def test_a_closed_output_ends_the_command_without_a_message(work, is_buffered):
    assert run(work, is_buffered, closes=True) == (141, "")


def test_another_broken_pipe_is_an_error():
    work = "r, w = os.pipe(); os.close(r); os.write(w, b'x')"
    assert run(work, is_buffered=True, closes=False) == (1, "error: [Errno 32] Broken pipe\n")


def test_a_full_disk_is_told_with_the_file_and_with_advice(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(OSError) as error, written_whole(path), open("/dev/full", "w") as full:
        full.write("as on a disk without space")
    assert error_message(error.value) == (
        f"error: {path}: No space left on device. Free space or raise the quota, and run the same command "
        "again."
    )
    assert list(tmp_path.iterdir()) == []
    assert error_message(ValueError("another error")) == "error: another error"


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (
            "open('/nonexistent/a')",
            "/nonexistent/a: No such file or directory. Restore it, or correct the path.",
        ),
        ("open('/')", "/: Is a directory. Remove the directory or move it away: a file is expected there."),
        (
            "import tempfile; os.chdir(tempfile.mkdtemp()); open('a', 'w').close(); os.mkdir('b'); "
            "os.replace('a', 'b')",
            "b: Is a directory. Remove the directory or move it away: a file is expected there.",
        ),
        (
            "open('/dev/full', 'w').write('x' * 99_999)",
            "No space left on device. Free space or raise the quota, and",
        ),
        (
            "import tempfile as t; t._candidate_tempdir_list = lambda: ['/nonexistent']; t.mkdtemp()",
            "No usable temporary directory found in ['/nonexistent']. Set TMPDIR to a directory that can be "
            "written.",
        ),
        ("raise OSError('as it was raised')", "as it was raised"),
    ],
)
def test_an_error_of_the_system_names_its_file_and_tells_what_to_do(work, message):
    code, text = run(work, is_buffered=True, closes=False)
    assert code == 1 and text.startswith(f"error: {message}")
