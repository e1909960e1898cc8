"""A command works whatever its standard streams are connected to."""

import shlex
import signal
import subprocess
import sys

import pytest

from support.paths import ROOT

PROGRAM = """
import os, sys, warnings
from data_pipelines.command_errors import errors_on_the_terminal
from data_pipelines.progress import make_progress, waiting
from data_pipelines.standard_streams import result_stream

@errors_on_the_terminal({options})
def main():
    {work}
    open({done!r}, "w").write("done")

if __name__ == "__main__":
    main()
"""
SHOWS_MUCH = (
    "[print('a line', file=file, flush=True) for file in (sys.stdout, sys.stderr) for _ in range(9_000)]"
)
WORKS = (
    SHOWS_MUCH,
    "with make_progress(9, 'packing') as progress: [progress.update(n, always=True) for n in range(10)]",
    "with waiting('compiling'): print('within')",
    "warnings.warn('of a library')",
)
# How a shell starts the command. The reader of a pipe has gone before anything is written.
GONE = ("{ sleep 1; COMMAND 2>&1; } | true", "COMMAND >&- 2>&-", "COMMAND <&- >&- 2>&-", "COMMAND 2>&-")
FULL = ("COMMAND > /dev/full 2>&1",)


@pytest.fixture
def run(tmp_path):
    """(work, how, options) → (exit code, whether the work came to its end, what the shell got)."""

    def start(work, how, options="saves_result=True"):
        done, program = tmp_path / "done", tmp_path / "program.py"
        program.write_text(PROGRAM.format(options=options, work=work, done=str(done)))
        command = f"{shlex.join([sys.executable, str(program)])}; echo $? > {tmp_path}/code"
        script = how.replace("COMMAND", shlex.join(["bash", "-c", command]))
        shell = subprocess.run(
            ["bash", "-c", script], capture_output=True, env={"PYTHONPATH": str(ROOT)}, timeout=60, text=True
        )
        return int((tmp_path / "code").read_text()), done.exists(), shell.stdout + shell.stderr

    return start


@pytest.mark.parametrize("how", GONE + FULL)
@pytest.mark.parametrize("work", WORKS)
def test_what_cannot_be_shown_is_dropped(work, how, run):
    code, is_done, _ = run(work, how)
    assert (code, is_done) == (0, True)


def test_a_result_that_only_standard_output_has_is_missed(run):
    """The command ends its work in any case, and its exit code tells."""
    assert run(SHOWS_MUCH, GONE[0], options="")[:2] == (141, True)
    code, is_done, shown = run(SHOWS_MUCH, "COMMAND > /dev/full", options="")
    assert (code, is_done) == (1, True)
    assert "error: standard output could not be written: [Errno 28] No space left on device\n" in shown


def test_a_command_that_streams_its_result_ends_with_its_reader(run):
    work = "stream = result_stream(); [(stream.write(b'a line'), stream.flush()) for _ in range(99_999)]"
    assert run(work, GONE[0], options="")[:2] == (141, False)
    code, is_done, shown = run(work, "COMMAND >&-", options="")
    assert (code, is_done) == (1, False)
    assert shown.startswith("error: standard output is closed: expected a file or a pipe")


def test_a_file_does_not_get_what_libraries_print(run, tmp_path):
    """Where descriptors are closed, the next file would get the number that they write to."""
    work = (
        f"file = open({str(tmp_path / 'metrics')!r}, 'w'); os.write(1, b'XLA'); os.write(2, b'XLA'); "
        "os.system('echo child; echo child >&2'); file.write('row'); file.close()"
    )
    assert run(work, "COMMAND <&- >&- 2>&-")[:2] == (0, True)
    assert (tmp_path / "metrics").read_text() == "row"


def test_text_still_arrives(run):
    code, is_done, shown = run("print('out'); print('error', file=sys.stderr)", "COMMAND")
    assert (code, is_done, shown) == (0, True, "out\nerror\n")


@pytest.mark.parametrize("before", ["", "trap '' HUP; "])
def test_a_hangup_is_heard_unless_it_was_ignored(before):
    """As `nohup` ignores it."""
    program = (
        "import os, signal\nfrom electra_jax.distributed.stopping import StopNotice\n"
        "with StopNotice() as stop:\n    os.kill(os.getpid(), signal.SIGHUP)\n    stop.check()\n"
        "assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN"
    )
    words = ["bash", "-c", f"{before}exec {shlex.join([sys.executable, '-c', program])}"]
    code = subprocess.run(words, cwd=ROOT, timeout=120).returncode
    assert code == (0 if before else 128 + signal.SIGTERM)
