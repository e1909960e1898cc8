"""Ctrl-C reaches all processes of a command: one line is printed, and no worker outlives it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from support.paths import ROOT

# A worker that says when it works, and a source that says when it is read.
PROGRAM = """
import os, sys, time
from data_pipelines.command_errors import errors_on_the_terminal, resumable
{definitions}

def say(text):
    print(text, flush=True)

def work(_):
    say("working")
    time.sleep(60)

def source():
    yield from {things}
    say("reading")
    for _ in range(600):  # a signal just before a longer sleep would be heard after it
        time.sleep(0.1)

if __name__ == "__main__":
    with errors_on_the_terminal(), resumable():
        list({results})
"""
CLEANING = {
    "definitions": "from data_pipelines.cleaning.workers import map_in_order",
    "things": "range(1)",
    "results": "map_in_order(work, source(), 2)",
}
CORPUS = {
    "definitions": "from data_pipelines import shards\nfrom data_pipelines.chunks import Job",
    "things": '[Job("tokenizer", 32, "documents", (0,), "0", [])]',
    "results": 'setattr(shards, "write_shard", work) or shards.run_jobs(source(), 2)',
}
LINE = "\nInterrupted. Run the same command again to resume.\n"


@pytest.mark.parametrize("seconds", [0.0, 0.1], ids=["at once", "while they import"])
@pytest.mark.parametrize("program", [CLEANING, CORPUS], ids=["cleaning", "corpus"])
def test_ctrl_c_while_workers_start(program, seconds, tmp_path):
    assert interrupted(program, tmp_path, "reading", seconds, os.killpg) == (130, LINE)


@pytest.mark.parametrize("send", [os.killpg, os.kill], ids=["to all", "to the first"])
@pytest.mark.parametrize("program", [CLEANING, CORPUS], ids=["cleaning", "corpus"])
def test_ctrl_c_while_workers_work(program, send, tmp_path):
    assert interrupted(program, tmp_path, "working", 0.0, send) == (130, LINE)


def interrupted(program, tmp_path, line, seconds, send):
    """(exit code, standard error) of a command that gets SIGINT `seconds` after it, or a worker, has printed
    a line. It ends, and so do its workers, which have the other end of its pipes, long before their work."""
    script = tmp_path / "command.py"
    script.write_text(PROGRAM.format(**program))
    with subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        start_new_session=True,
    ) as process:
        try:
            assert line in iter(lambda: process.stdout.readline().strip(), "")
            time.sleep(seconds)
            send(process.pid, signal.SIGINT)
            _, errors = process.communicate(timeout=20)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, errors
