"""A run that is ended at random moments, again and again, by signals or by kill -9: it resumes bit for bit.

Three shapes of run: one process, one with three stages, and two processes. All together more than fifty kills
and twenty SIGTERMs with --all_faults.
"""

import random
import signal
import time

import pytest

from support.ended_runs import Pair, Single
from support.fault_runs import flags
from support.faults import EXACT, judge

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
    *[(shape, "kill -9", seed) for shape in SHAPES for seed in range(3)],
    *[(shape, name, 0) for shape in SHAPES for name in list(SIGNALS)[1:]],
]
SAMPLE = [("one process", "kill -9", 0)]
CHANGES = {"train__num_steps": NUM_STEPS, "checkpoint__every": 2, "checkpoint__keep": 2, "eval__every": 10}


def pytest_generate_tests(metafunc):
    """CI does the SAMPLE."""
    if "case" in metafunc.fixturenames:
        cases = CASES if metafunc.config.getoption("--all_faults") else SAMPLE
        metafunc.parametrize("case", cases, ids=["-".join(map(str, case)) for case in cases])


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
