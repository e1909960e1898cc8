"""Where a run resumes, as far as files outside its checkpoints and other processes decide it."""

import json
import types

import pytest

from electra_jax.runs import agreed_problems, doctor_checks, resuming, rollbacks
from electra_jax.runs.resuming import find_start
from electra_jax.runs.rollbacks import resume_rollbacks
from electra_jax.training.checkpointing import Inspection


class Checkpoints:
    """Those of one step, which this process finds damaged or cannot read."""

    def __init__(self, *steps, problem="", error=None):
        self.all_steps = lambda: list(steps)
        self._problem, self._error = problem, error
        self.close = lambda: None

    def inspect(self, step):
        if self._error:
            raise self._error
        return Inspection(self._problem, {})


@pytest.fixture
def exchanged(monkeypatch):
    """(function of a value → the values of two processes) → None: they exchange these from here on."""

    def set_to(exchange):
        for module in (agreed_problems, resuming, rollbacks):
            monkeypatch.setattr(module, "exchange", exchange)

    return set_to


def test_a_checkpoint_that_one_process_cannot_read_is_an_error_on_all(exchanged, tmp_path):
    """None of them is left waiting for it."""
    told = []
    exchanged(lambda value: told.append(value) or [value, value])
    error = PermissionError(13, "Permission denied", "checkpoints/5/state")
    with pytest.raises(PermissionError) as raised:
        find_start(Checkpoints(5, error=error), None, None)
    assert raised.value is error and told == [[5], ["", str(error)]]
    other = ["", "not readable there"]
    exchanged(lambda value: [value, [5] if value == [5] else other])
    with pytest.raises(OSError, match="not readable there"):
        find_start(Checkpoints(5, problem="damaged here"), None, None)
    exchanged(lambda value: [value, other if value == ["", ""] else value])
    with pytest.raises(OSError, match="not readable there"):
        resume_rollbacks(tmp_path, Checkpoints(5))


def test_damage_that_one_process_finds_holds_for_all(exchanged):
    run = types.SimpleNamespace(name="runs/a")
    for here, there in (("cut here", ""), ("", "cut there"), ("cut here", "cut there")):
        other = [there, ""]
        exchanged(lambda value, other=other: [value, value if value == [5] else other])
        with pytest.raises(OSError, match=rf"^runs/a: no checkpoint .*:\n  step 5: {here or there}\n"):
            find_start(Checkpoints(5, problem=here), None, run)


def test_the_doctor_names_the_run_in_the_bucket(tmp_path, monkeypatch):
    (tmp_path / ".bucket").write_text("gs://bucket/run")
    (tmp_path / "sessions.jsonl").write_text(json.dumps({"start_step": 5}) + "\n")
    monkeypatch.setattr(doctor_checks, "open_checkpoints", lambda *_, **__: Checkpoints())
    with pytest.raises(FileNotFoundError, match=r"^gs://bucket/run: got no checkpoint, but"):
        doctor_checks.check_checkpoints(None, tmp_path, lambda: None)
