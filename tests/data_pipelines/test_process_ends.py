"""Worker processes do not outlive the one that started them; a command that gets SIGTERM ends in order."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from data_pipelines.process_ends import signals_as_exit

ROOT = Path(__file__).parents[2]
CLEANING = """
from data_pipelines.cleaning.workers import map_in_order

def process(_):
    return os.getpid()

start = lambda: map_in_order(process, iter(range(4)), 2)
"""
CORPUS = """
from data_pipelines import shards
from data_pipelines.chunks import Job

def write_shard(job):
    return os.getpid()

shards.write_shard = write_shard
jobs = (Job("tokenizer", 32, "documents", (0,), f"{number}", []) for number in range(4))
start = lambda: (counts for path, counts in shards.run_jobs(jobs, 2))
"""
RUN = """
if __name__ == "__main__":
    results = start()
    print(next(results), flush=True)
    time.sleep(20)
"""


@pytest.mark.parametrize("start", [CLEANING, CORPUS], ids=["cleaning", "corpus"])
def test_workers_end_when_their_parent_is_killed(start, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text("import os, time\n" + start + RUN)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        env=environment,
        cwd=tmp_path,
        start_new_session=True,
    ) as parent:
        assert int(parent.stdout.readline()) != parent.pid
        parent.kill()
        try:
            parent.communicate(timeout=10)  # the workers have the other end of this pipe, too
        finally:
            if parent.stdout and not parent.stdout.closed:
                os.killpg(parent.pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_raises_system_exit_unless_it_is_ignored(number):
    heard = []
    before = signal.signal(number, lambda *_: heard.append(number))
    try:
        with pytest.raises(SystemExit) as ended, signals_as_exit():
            os.kill(os.getpid(), number)
        assert ended.value.code == 128 + number and not heard
        os.kill(os.getpid(), number)
        assert heard == [number]  # the handler before is that after
        signal.signal(number, signal.SIG_IGN)
        with signals_as_exit():
            os.kill(os.getpid(), number)
    finally:
        signal.signal(number, before)


def test_other_threads_leave_the_signals_alone():
    found = []

    def work():
        with signals_as_exit():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]
