"""A run that is ended at random moments, again and again, by signals or by kill -9: it resumes bit for bit.

Three shapes of run: one process, one with three stages, and two processes. All together more than fifty kills
and twenty SIGTERMs with --all_faults.
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.fault_runs import flags
from support.faults import EXACT, judge
from support.paths import ROOT

STAGES = "--config.stages=((10, {'train.batch_size': 16}), (21, {'train.batch_size': 8}))"
SHAPES = {"one process": (), "three stages": (STAGES,), "two processes": ()}
SIGNALS = {
    "kill -9": (signal.SIGKILL,),
    "SIGTERM": (signal.SIGTERM,),
    "SIGTERM twice": (signal.SIGTERM, signal.SIGTERM),
    "SIGHUP": (signal.SIGHUP,),
}
NUM_STEPS, MOST_ENDS, SECONDS = 40, 6, 240
CASES = [
    *[(shape, "kill -9", seed) for shape in SHAPES for seed in range(4)],
    *[(shape, name, seed) for shape in SHAPES for name in list(SIGNALS)[1:] for seed in range(2)],
]
SAMPLE = [("one process", "kill -9", 0), ("one process", "SIGHUP", 0)]
CHANGES = {"train__num_steps": NUM_STEPS, "checkpoint__every": 2, "checkpoint__keep": 2, "eval__every": 10}


def pytest_generate_tests(metafunc):
    """CI does the SAMPLE."""
    if "case" in metafunc.fixturenames:
        cases = CASES if metafunc.config.getoption("--all_faults") else SAMPLE
        metafunc.parametrize("case", cases, ids=["-".join(map(str, case)) for case in cases])


class Pair:
    """Two processes of one run."""

    def __init__(self, words, environment, output):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            place = f"--coordinator=localhost:{free.getsockname()[1]}"
        self._output = output.open("w")
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", *words, place, "--num_processes=2", f"--process_id={number}"],
                cwd=ROOT,
                env=environment,
                stdout=self._output,
                stderr=subprocess.STDOUT,
            )
            for number in range(2)
        ]

    def send(self, number):
        """To one of them; after kill -9 the other one cannot go on, and is killed, too."""
        self._processes[1].send_signal(number)
        if number == signal.SIGKILL:
            self._processes[0].kill()

    def is_running(self):
        """Whether one of them is."""
        return any(process.poll() is None for process in self._processes)

    def wait(self):
        """The larger exit code."""
        codes = [process.wait(SECONDS) for process in self._processes]
        self._output.close()
        return max(codes, key=abs)

    @property
    def text(self):
        """What both printed."""
        return Path(self._output.name).read_text(errors="replace")

    code = property(wait)


class Single:
    """A fork."""

    def __init__(self, forks, words):
        self._started = forks.start(*words)

    def send(self, number):
        """To the process."""
        with contextlib.suppress(ProcessLookupError):  # it ended by itself
            os.kill(self._started.pid, number)

    def is_running(self):
        """Whether it is."""
        return Path(f"/proc/{self._started.pid}").exists()

    def wait(self):
        """Its exit code."""
        return self._started.wait()

    @property
    def text(self):
        """What it printed."""
        return self._started.text

    code = property(wait)


@pytest.fixture(scope="module")
def begin(forks, data, environment, tmp_path_factory):
    """(shape, directory) → the run, just started."""
    root = tmp_path_factory.mktemp("ends")

    def start(shape, directory):
        words = ["electra_jax.pretrain", *flags(directory, data, **CHANGES), *SHAPES[shape]]
        return Pair(words, environment, root / "output") if shape == "two processes" else Single(forks, words)

    return start


@pytest.fixture(scope="module")
def undisturbed(begin, tmp_path_factory):
    """shape → directory of the run that nothing ended."""
    found = {}

    def run(shape):
        if shape not in found:
            found[shape] = tmp_path_factory.mktemp("undisturbed") / "run"
            started = begin(shape, found[shape])
            assert started.wait() == 0, started.text
        return found[shape]

    return run


def size(directory):
    """Bytes of metrics.jsonl."""
    path = directory / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0


def end(running, directory, numbers, source):
    """Send the signals at a random moment, most often soon after new steps; whether the run was not done."""
    before, deadline = size(directory), time.monotonic() + SECONDS
    anywhere = source.random() < 0.2
    moment = time.monotonic() + source.uniform(0.1, 4) if anywhere else None
    while running.is_running():
        assert time.monotonic() < deadline, "it hangs"
        if moment is None and size(directory) > before:
            moment = time.monotonic() + source.uniform(0, 0.6)
        if moment is not None and time.monotonic() >= moment:
            for number in numbers:
                running.send(number)
                time.sleep(source.uniform(0, 0.1))
                if not running.is_running():
                    break
            return True
        time.sleep(0.002)
    return False


def test_a_run_that_is_ended_again_and_again_is_the_same(
    case, begin, undisturbed, record, is_whole, tmp_path
):
    shape, name, seed = case
    reference, directory = undisturbed(shape), tmp_path / "run"
    source, ends = random.Random(f"{shape} {name} {seed}"), 0
    while ends < (MOST_ENDS if is_whole else 2):
        running = begin(shape, directory)
        was_running = end(running, directory, SIGNALS[name], source)
        code = running.wait()
        assert "Traceback (most recent call last)" not in running.text, running.text
        if not was_running or code == 0:
            assert code == 0, (code, running.text)
            break
        ends += 1
    running = begin(shape, directory)
    running.wait()
    outcome = judge(directory, reference, running)
    for number in range(ends):
        record(f"{shape}, {name}, {seed}, {number + 1} of {ends}", outcome)
    assert outcome == EXACT and ends, f"{outcome} after {ends} ends: {running.text[-3000:]}"
