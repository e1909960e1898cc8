"""The loop: which steps it writes, saves and evaluates, also after a restart and between stages."""

import os
import signal
import types

import jax.numpy as jnp
import optax
import pytest

from electra_jax.distributed.stopping import StopNotice, Stopped
from electra_jax.training.loop import Intervals
from electra_jax.training.writers import read_metrics
from support.fake_run import FakeRun


def test_the_loop_evaluates_each_step_once_also_after_a_restart_and_counts_flops(tmp_path):
    run = FakeRun(tmp_path)
    run.peak_flops = 1e6

    def go(first, last):
        run.go(first, Intervals(last, log=2, evaluate=2, checkpoint=4))
        return [row["step"] for row in read_metrics(tmp_path)]

    assert go(0, 4) == [2, 2, 4, 4]
    assert (run.saved, run.evaluated) == ([4], [2, 4])
    assert go(4, 6) == [2, 2, 4, 4, 6, 6]
    assert (run.saved, run.evaluated) == ([4, 6], [2, 4, 6])
    row = read_metrics(tmp_path)[-2]
    assert row["loss"] == 3.0 and row["learning_rate"] == 0.5  # of the update that made step 6
    assert row["model_flops_per_second"] == pytest.approx(3 * 5.0 * row["tokens_per_second"])
    assert row["model_flops_utilization"] == pytest.approx(row["model_flops_per_second"] / 1e6)


class GuardedRun(FakeRun):
    """Its guard has left out one update."""

    def train_step(self, state, ids):
        state, window = super().train_step(state, ids)
        return state, window | {"skipped": 1, "skipped_steps": 0}


@pytest.mark.parametrize(
    ("kind", "parts"), [(FakeRun, {}), (GuardedRun, {"guard": {"skipped": 1}})], ids=["dropped", "later"]
)
def test_the_learning_rate_is_that_of_the_updates_that_were_made(kind, parts, tmp_path):
    """Two of the first four were left out. The guard that did so was dropped, or one came later."""
    optimizer = {"all": (optax.EmptyState(), optax.ScaleByScheduleState(jnp.int32(2)))}
    state = types.SimpleNamespace(step=4, params=4, opt_state=optimizer, **parts)
    kind(tmp_path).go(state, Intervals(6, log=2, evaluate=9, checkpoint=9))
    (row,) = [row for row in read_metrics(tmp_path) if "learning_rate" in row]
    assert row["step"] == 6 and row["learning_rate"] == pytest.approx(0.3)


def test_the_first_and_the_tenth_step_of_a_start_are_shown_and_not_written(tmp_path, capsys):
    run = FakeRun(tmp_path)
    run.progress = True

    def shown(first, last):
        run.go(first, Intervals(last, log=100, evaluate=100, checkpoint=100))
        lines = capsys.readouterr().err.splitlines()
        return [line.split()[1] for line in lines if "evaluation" not in line]

    assert shown(0, 20) == ["1/20", "10/20"]
    assert shown(20, 120) == ["21/120", "30/120"]  # step 100 comes within ten seconds
    assert [row["step"] for row in read_metrics(tmp_path)] == [20, 100, 100, 120]


class RunThatWaits(FakeRun):
    """Notes step and end of the parameters that it evaluates; `on_wait` is called by the second wait for a
    checkpoint."""

    def go(self, start, intervals, stop, on_wait=lambda: None):
        self.waits = [lambda: None, on_wait]
        state = types.SimpleNamespace(step=start, params=(start, intervals.stop_at), opt_state={})
        return super().go(state, intervals, stop)

    def wait(self):
        self.waits.pop()()


def test_the_loop_ends_with_a_stage_and_leaves_its_last_evaluation_to_the_next(tmp_path):
    run, stop = RunThatWaits(tmp_path), StopNotice()
    whole = Intervals(6, log=2, evaluate=3, checkpoint=10)

    def steps():
        return [row["step"] for row in read_metrics(tmp_path)]

    run.go(0, whole._replace(stop_at=3), stop)
    assert (run.saved, run.evaluated, steps()) == ([3], [], [2, 3])
    with pytest.raises(Stopped):  # told while the checkpoint between two stages is written
        run.go(3, whole._replace(stop_at=5), stop, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert run.saved == [3, 5] and steps() == [2, 3, 3, 4, 5]
    run.go(5, whole, StopNotice())
    assert (run.saved, run.evaluated) == ([3, 5, 6], [(3, 5), 6])
