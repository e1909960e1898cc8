"""A run that is told to stop saves everything done so far, once, and resumes from there."""

import contextlib
import hashlib
import os
import signal
import threading
import time
import types

import jax
import numpy as np
import pytest

from data_pipelines.loader import Loader
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import batch_sharding
from electra_jax.distributed.stopping import INTERRUPTED, STOPPED, StopNotice, Stopped
from electra_jax.training.evaluation import evaluate
from electra_jax.training.loop import Intervals
from electra_jax.training.writers import read_metrics
from support.commands import run_python
from support.fake_run import FakeRun

LAST = 6


def told(number=signal.SIGTERM):
    """Send this process the signal."""
    os.kill(os.getpid(), number)


def hung_up():
    """Send this process SIGHUP."""
    told(signal.SIGHUP)


def told_soon():
    """Send this process SIGTERM a moment later."""
    threading.Timer(0.1, told).start()


class Run(FakeRun):
    """`events` maps (phase, step) to a function that is called there; `phases` lists all that came."""

    def __init__(self, workdir, events=None):
        super().__init__(workdir)
        self.events, self.phases = events or {}, []

    def start(self, step):
        """Run from `step` to the end."""
        self.go(step, Intervals(LAST, log=2, evaluate=2, checkpoint=4, probe=3))

    def at(self, phase, step):
        self.phases.append((phase, step))
        self.events.get((phase, step), lambda: None)()

    def batch_at(self, step):
        self.at("data", step)
        return super().batch_at(step)

    def train_step(self, state, ids):
        assert state.step == ids
        self.at("step", ids)
        return super().train_step(state, ids)

    def evaluate(self, params):
        for _ in range(2):
            self.stop.check()
            self.at("evaluation", params)
        return {"mlm_loss": 1.0}

    def probe(self, params):
        self.at("probe", params)
        return {"accuracy": 1.0}

    def save(self, step, state, description):
        self.saved.append((step, state.step))


def rows(workdir):
    return [
        {key: value for key, value in row.items() if "second" not in key} for row in read_metrics(workdir)
    ]


@pytest.mark.parametrize(
    ("phase", "step", "saved"),
    [
        ("step", 0, 1),
        ("step", 2, 3),
        ("step", 3, 4),
        ("step", 5, 6),
        ("data", 1, 1),
        ("data", 4, 4),
        ("evaluation", 2, 2),
        ("evaluation", 4, 4),
        ("evaluation", 6, 6),
        ("probe", 3, 3),
        ("probe", 6, 6),
    ],
)
@pytest.mark.parametrize("how", [told, told_soon, hung_up])
def test_the_run_is_saved_and_resumes(phase, step, saved, how, tmp_path, capsys):
    def hangs():  # until the signal interrupts it
        how()
        if phase != "step":
            threading.Event().wait(30)
            raise AssertionError("not interrupted")
        threading.Event().wait(0.3)

    whole, broken = Run(tmp_path / "whole"), Run(tmp_path / "broken", {(phase, step): hangs})
    whole.start(0)
    with pytest.raises(SystemExit) as stopped:
        broken.start(0)
    assert stopped.value.code == STOPPED == 128 + signal.SIGTERM
    line, last = capsys.readouterr().err.splitlines()
    assert line in (f"Stopping at step {saved}: saving …", f"Stopping at step {saved}, which is saved.")
    assert last == f"Told to stop: step {saved} is saved. The same command resumes from there."
    assert broken.saved == [(each, each) for each in (4, 6) if each < saved] + [(saved, saved)]
    again = Run(tmp_path / "broken")
    again.start(saved)
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")


def test_before_the_first_step_there_is_nothing_to_save(tmp_path):
    run = Run(tmp_path, {("data", 0): told})
    with pytest.raises(Stopped):
        run.start(0)
    assert run.saved == [] and run.phases == [("data", 0)]


def test_ctrl_c_saves_and_a_second_one_interrupts(tmp_path):
    run = Run(tmp_path, {("step", 1): lambda: told(signal.SIGINT)})
    with pytest.raises(Stopped):
        run.start(0)
    assert run.saved == [(2, 2)]

    def twice():
        told(signal.SIGINT)
        told(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path / "twice", {("step", 1): twice}).start(0)


def test_a_line_comes_at_once_while_the_main_thread_is_in_compiled_code(capsys):
    with StopNotice() as stop:
        stop.describe = lambda: f"Stopping after {time.monotonic()}"
        told_soon()
        began = time.monotonic()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 6_000_000)  # seconds
        ended = time.monotonic()
        stop.announce()  # not twice
    (line,) = capsys.readouterr().err.splitlines()
    assert began < float(line.removeprefix("Stopping after ")) < ended - 0.3


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, STOPPED), (signal.SIGHUP, STOPPED), (signal.SIGINT, INTERRUPTED)]
)
def test_where_nothing_is_to_save_a_signal_ends_the_process_in_compiled_code(number, code):
    program = (
        "import hashlib, os, threading\nfrom electra_jax.distributed.stopping import StopNotice\n"
        "with StopNotice() as stop, stop.nothing_to_save('compiling'):\n"
        f"    threading.Timer(0.2, os.kill, (os.getpid(), {int(number)})).start()\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 500_000_000)\n"  # minutes
    )
    outcome = run_python("-c", program)
    assert outcome.returncode == code
    assert outcome.stderr.startswith("Told to stop while compiling: there is nothing new to save.")


def test_sigterm_while_saving_changes_nothing_and_handlers_are_restored():
    numbers = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
    before = [signal.getsignal(number) for number in numbers]
    with StopNotice() as stop:
        stop.check()
        told()
        told()  # outside waiting(): only noted
        with pytest.raises(Stopped):
            stop.check()
        with pytest.raises(Stopped), stop.waiting():
            raise AssertionError("a signal that came earlier counts at once")
    assert [signal.getsignal(number) for number in numbers] == before


def test_code_that_catches_exceptions_does_not_catch_a_stop():
    with StopNotice() as stop, pytest.raises(Stopped), contextlib.suppress(Exception), stop.waiting():
        told()


def test_a_stopped_command_ends_without_clean_up():
    """Clean-up would crash while XLA still compiles."""
    program = (
        "import atexit\nfrom electra_jax.distributed.stopping import Stopped, leaving_at_once\n"
        "atexit.register(print, 'clean-up')\nwith leaving_at_once():\n    print('saved')\n    {}\n"
    )
    lines = ("raise Stopped", "raise KeyboardInterrupt", "pass")
    outcomes = [run_python("-c", program.format(line)) for line in lines]
    assert [(outcome.returncode, outcome.stdout) for outcome in outcomes] == [
        (STOPPED, "saved\n"),
        (INTERRUPTED, "saved\n"),
        (0, "saved\nclean-up\n"),
    ]
    interrupted = "\nInterrupted. Run the same command again to resume.\n"
    assert [outcome.stderr for outcome in outcomes] == ["", interrupted, ""]


def test_evaluation_checks_before_every_batch():
    asked = []

    def check():
        asked.append(len(asked))
        if len(asked) == 2:
            raise Stopped

    class Batches:
        def __len__(self):
            return 3

        def batch_at(self, index):
            return {"input_ids": index}

    with pytest.raises(Stopped):
        evaluate(lambda params, ids, index: {}, None, Batches(), check)
    assert asked == [0, 1]


def test_a_wait_for_rows_is_interrupted_and_the_loader_ends():
    arrived = threading.Event()

    def read(dataset_index, row):
        if not arrived.is_set():
            told_soon()
        arrived.wait(30)
        raise OSError("the file system hung")

    mixture = types.SimpleNamespace(
        sequence_length=4,
        num_examples=None,
        sources=[],
        read=read,
        rows_at=lambda start, stop: (np.zeros(stop - start, int), np.arange(start, stop)),
    )
    sharding = batch_sharding(make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1]))
    with Loader(mixture, batch_size=2, sharding=sharding) as batches, StopNotice() as stop:
        with pytest.raises(Stopped), stop.waiting():
            batches.batch_at(0)
        assert not arrived.is_set() and 0 < batches.seconds_waited < 20
        arrived.set()
