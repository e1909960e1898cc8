"""A run that is ended at random moments, again and again, by signals or by kill -9: it resumes bit for bit.

Three shapes of run: one process, one with three stages, and two processes. All together more than fifty kills
and twenty SIGTERMs with --all_faults.
"""

import contextlib
import random
import shutil
import signal
import time

import pytest

from electra_jax.training.checkpointing import Checkpointer
from electra_jax.training.checksum_item import NOT_COVERED
from support.damage import flip_bit
from support.ended_runs import Pair, Single
from support.fault_runs import flags
from support.faults import DIFFERENT, EXACT, REFUSED, judge

STAGES = "--config.stages=((10, {'train.batch_size': 16}), (21, {'train.batch_size': 8}))"
SHAPES = {"one process": (), "three stages": (STAGES,), "two processes": ()}
# Written last: times, and that the checkpoint is complete.
HARMLESS = (*NOT_COVERED, "verification/commit_success.txt")
SIGNALS = {
    "kill -9": (signal.SIGKILL,),
    "SIGTERM": (signal.SIGTERM,),
    "SIGTERM twice": (signal.SIGTERM, signal.SIGTERM),
    "SIGHUP": (signal.SIGHUP,),
}
NUM_STEPS, MOST_ENDS, SECONDS = 40, 6, 600
FLIPS = 8  # in each file of a checkpoint
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
def begin(forks, data, environment, is_whole, tmp_path_factory):
    """(shape, directory) → the run, just started. The sample's is the shorter one of other tests."""
    root, changes = tmp_path_factory.mktemp("ends"), CHANGES if is_whole else {}

    def start(shape, directory):
        words = ["electra_jax.pretrain", *flags(directory, data, **changes), *SHAPES[shape]]
        return Pair(words, environment, root / "output") if shape == "two processes" else Single(forks, words)

    return start


@pytest.fixture(scope="module")
def undisturbed(begin, reference, is_whole, tmp_path_factory):
    """shape → directory of the run that nothing ended."""
    found = {} if is_whole else {"one process": reference}

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


def end(running, directory, numbers, source, window):
    """Send the signals at a random moment, most often within `window` seconds of new steps; whether the run
    was not done."""
    before, deadline = size(directory), time.monotonic() + SECONDS
    anywhere = source.random() < 0.2
    moment = time.monotonic() + source.uniform(0.1, 4) if anywhere else None
    while running.is_running():
        assert time.monotonic() < deadline, "it hangs"
        if moment is None and size(directory) > before:
            moment = time.monotonic() + source.uniform(0, window)
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
    most, window = (MOST_ENDS, 0.6) if is_whole else (2, 0.05)
    while ends < most:
        running = begin(shape, directory)
        was_running = end(running, directory, SIGNALS[name], source, window)
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


@pytest.mark.all_faults
@pytest.mark.parametrize("shape", SHAPES)
def test_a_bit_of_any_file_of_a_checkpoint_is_noticed(shape, undisturbed, record, tmp_path):
    """Without restoring: a start sets aside what `inspect` finds (test_checkpoints.py)."""
    directory, source = tmp_path / "checkpoints", random.Random(shape)
    shutil.copytree(undisturbed(shape) / "checkpoints" / str(NUM_STEPS), directory / str(NUM_STEPS))
    with contextlib.closing(Checkpointer(str(directory), keep=None)) as checkpointer:
        assert not checkpointer.inspect(NUM_STEPS).problem
    for path in sorted(path for path in directory.rglob("*") if path.is_file() and path.stat().st_size):
        name = path.relative_to(directory / str(NUM_STEPS)).as_posix()
        for position in (source.randrange(path.stat().st_size) for _ in range(FLIPS)):
            bit = source.randrange(8)
            flip_bit(path, position, bit)
            with contextlib.closing(Checkpointer(str(directory), keep=None)) as checkpointer:
                problem = checkpointer.inspect(NUM_STEPS).problem
            flip_bit(path, position, bit)
            outcome = REFUSED if problem else EXACT if name in HARMLESS else DIFFERENT
            record(f"{shape}, bit {bit} of byte {position} of {name}", outcome)
            assert outcome != DIFFERENT, name
