"""Rollbacks for which no checkpoint is left, since config.trouble or checkpoint.keep was another one before:
an error that says what is possible, and nothing is removed."""

import json
import types

import pytest

from electra_jax.runs import doctor_checks
from electra_jax.runs.bucket_runs import RunDirectory
from electra_jax.runs.doctor_checks import check_checkpoints
from electra_jax.runs.resuming import check_beginning, find_start, leave_behind
from electra_jax.runs.rollbacks import Rollback, record_rollback, resume_rollbacks
from electra_jax.runs.trouble_services import RunningPretraining, roll_back
from electra_jax.training.checkpointing import Inspection
from electra_jax.training.watch import Incident, NonFiniteLossError, NumericalTroubleError
from support import poisoned
from support.poisoned import configuration, poison
from support.run_records import checkpoints

GONE = {  # what a run starts from → sections of its configuration
    "init_from": {"checkpoint": {"init_from": "/gone/run:20"}},
    "teachers": {"objective": {"name": "distillation", "teachers": ("/gone/run:20",)}},
}
INF = float("inf")


@pytest.mark.parametrize(
    ("changes", "steps", "kept", "most"),
    [
        ({"checkpoint__keep": 1, "checkpoint__every": 5}, (3, 3), [10], 2),
        ({"checkpoint__keep": 2, "checkpoint__every": 3}, (1, 12), [9, 12], 3),
    ],
    ids=["stop_then_rollback", "rollback_steps_raised"],
)
def test_no_checkpoint_is_removed_before_another_one_is_found(
    changes, steps, kept, most, data, tmp_path, monkeypatch
):
    def go(policy, rollback_steps):
        trouble = {"trouble__on_nonfinite": policy, "trouble__rollback_steps": rollback_steps}
        config = configuration(data, train__num_steps=14, **changes, **trouble)
        poisoned.run(monkeypatch, config, tmp_path, poison(data, {12: INF}))

    with pytest.raises(NonFiniteLossError):
        go("stop", steps[0])
    assert checkpoints(tmp_path) == kept
    message = rf"to step {12 - steps[1]}: .* is of step {kept[0]}\..*rollback_steps of at most {most}\."
    for _ in range(2):
        with pytest.raises(NumericalTroubleError, match=message):
            go("rollback", steps[1])
        assert checkpoints(tmp_path) == kept and not (tmp_path / "rollbacks.json").exists()
    go("rollback", most)
    (found,) = json.loads((tmp_path / "rollbacks.json").read_text())
    assert (found["step"], found["to"]) == (13, kept[0]) and checkpoints(tmp_path)[-1] == 14


class Checkpoints:
    """Step → (what is wrong with it, checkpoint.every with which it was saved). `description`: of the run."""

    def __init__(self, found, description):
        self.found, self.description = dict(found), description
        self.wait = self.close = lambda: None

    def all_steps(self):
        return sorted(self.found)

    def inspect(self, step):
        problem, every = self.found[step]
        config = json.loads(json.dumps(self.description["config"]))
        config["checkpoint"]["every"] = every
        return Inspection(problem, {} if problem else self.description | {"config": config})

    def saved_description(self, step):
        return self.inspect(step).description

    def remove(self, step):
        del self.found[step]


def opened(found, every, workdir, rollback_steps=100):
    """(checkpoints, RunningPretraining) of a run with checkpoint.every=`every` now."""
    changes = {"checkpoint__every": every, "trouble__rollback_steps": rollback_steps}
    config = configuration(workdir, train__num_steps=1000, **changes)
    description = {"config": config, "data": [], "data_files": []}
    (workdir / "config.json").write_text(json.dumps(description))
    inputs = types.SimpleNamespace(config=config, description=description, changes_length=False)
    inputs.end, inputs.first_step = 1000, 0
    checkpointer = Checkpoints(found, description)
    run = RunDirectory(workdir, None, lambda: None)
    return checkpointer, RunningPretraining(inputs, run, checkpointer, (), None, (), None)


WHOLE, CUT = ("", 10), ("state/d/1: it is missing", 10)


@pytest.mark.parametrize(
    ("found", "every", "to", "left"),
    [
        ({10: WHOLE, 20: WHOLE, 30: WHOLE}, 10, 25, [10, 20]),
        ({10: WHOLE, 20: WHOLE}, 10, 9, []),  # the first one is later: from the beginning
        ({}, 10, 9, []),
        ({20: WHOLE, 30: WHOLE}, 10, 9, "of step 20"),
        ({20: WHOLE, 30: WHOLE}, 100, 9, "of step 20"),  # every was raised since
        ({20: ("", 100), 30: WHOLE}, 10, 9, "of step 20"),  # or was lowered
        ({10: CUT, 20: WHOLE}, 10, 15, "of step 20"),
        ({5: CUT}, 10, 9, "step 5: state/d/1: it is missing"),
    ],
    ids=["kept", "beginning", "none_yet", "pruned", "raised", "lowered", "damaged", "only_damaged"],
)
def test_a_rollback_needs_a_whole_checkpoint_or_the_beginning(found, every, to, left, tmp_path):
    incident = Incident(35, "nonfinite", {}, 1)
    checkpointer, running = opened(found, every, tmp_path, rollback_steps=34 - to)
    stages = [types.SimpleNamespace(inputs=running.inputs)]
    if isinstance(left, list):
        assert [one.to for one in roll_back(incident, "", stages, running)] == [to]
        assert checkpointer.all_steps() == left and (tmp_path / "rollbacks.json").exists()
        return
    message = f"(?s)step 35 is not finite.*cannot return to step {to}: .*{left}"
    with pytest.raises(NumericalTroubleError, match=message):
        roll_back(incident, "", stages, running)
    assert checkpointer.found == found and not (tmp_path / "rollbacks.json").exists()


def opened_from(source, found, workdir, to):
    """As `opened`, of a run that started from another one, which is gone, and would now return to `to`."""
    checkpointer, running = opened(found, 10, workdir, rollback_steps=34 - to)
    for section, values in GONE[source].items():
        running.inputs.config[section].update(values)
    return checkpointer, running


@pytest.mark.parametrize("source", GONE)
@pytest.mark.parametrize(
    ("found", "to", "advice"),
    [
        ({10: WHOLE, 20: WHOLE}, 9, " Nothing was changed. .*rollback_steps of at most 24[.]$"),
        ({}, 9, "$"),
        ({10: WHOLE, 20: WHOLE}, 15, None),
    ],
    ids=["all_undone", "none_yet", "kept"],
)
def test_a_rollback_to_the_beginning_needs_the_run_that_was_its_start(source, found, to, advice, tmp_path):
    checkpointer, running = opened_from(source, found, tmp_path, to)
    go = lambda: roll_back(
        Incident(35, "nonfinite", {}, 1), "", [types.SimpleNamespace(inputs=running.inputs)], running
    )
    if advice is None:
        assert [one.to for one in go()] == [to]
        return
    message = rf"step {to}: config\.\w+\.{source}: /gone/run: expected a run directory.*put it back\.{advice}"
    with pytest.raises(NumericalTroubleError, match=message):
        go()
    assert checkpointer.found == found and not (tmp_path / "rollbacks.json").exists()


@pytest.mark.parametrize("source", GONE)
@pytest.mark.parametrize(("to", "is_refused"), [(9, True), (15, False)])
def test_a_start_at_the_beginning_needs_the_run_that_was_its_start(source, to, is_refused, tmp_path):
    checkpointer, running = opened_from(source, {10: WHOLE, 20: WHOLE}, tmp_path, to)
    record_rollback(tmp_path, (Rollback(35, to, ""),))
    _, undone = resume_rollbacks(tmp_path, checkpointer)
    start = find_start(checkpointer, running.inputs, running.run, undone=undone)
    if is_refused:
        with pytest.raises(FileNotFoundError, match=rf"{source}: /gone/run: .* of steps 10, 20\."):
            check_beginning(start, running.inputs, running.run)
    else:
        check_beginning(start, running.inputs, running.run)


@pytest.mark.parametrize(
    ("found", "to", "left"),
    [
        ({10: WHOLE, 20: WHOLE}, 15, [10]),
        ({10: WHOLE, 20: WHOLE}, 9, []),
        (
            {20: WHOLE, 30: WHOLE},
            9,
            "checkpoints of steps 20, 30. Without that file the run resumes from them",
        ),
        ({10: CUT, 20: WHOLE}, 15, "  step 10: state/d/1: it is missing.*\n.*the checkpoints of steps 20[.]"),
    ],
    ids=["kept", "beginning", "pruned", "damaged"],
)
def test_a_start_after_a_rollback_removes_nothing_before_it_can_resume(found, to, left, tmp_path):
    checkpointer, running = opened(found, 10, tmp_path)
    record_rollback(tmp_path, (Rollback(35, to, ""),))
    _, undone = resume_rollbacks(tmp_path, checkpointer)
    start = lambda: find_start(checkpointer, running.inputs, running.run, undone=undone)
    if isinstance(left, str):
        with pytest.raises(OSError, match=left):
            start()
        assert checkpointer.found == found
        return
    found = start()
    assert found.step == max(left, default=0)
    leave_behind(found, checkpointer, running.run)
    assert checkpointer.all_steps() == left


@pytest.mark.parametrize(
    ("found", "to", "told"),
    [
        ({10: WHOLE, 20: WHOLE}, 15, "resumes at step 10"),
        ({10: WHOLE, 20: WHOLE}, 9, "none yet"),
        ({10: WHOLE, 20: CUT}, 15, "resumes at step 10; would set aside that of step 20"),
        ({20: WHOLE, 30: WHOLE}, 9, None),
    ],
)
def test_the_doctor_counts_no_checkpoint_that_a_rollback_undid(found, to, told, tmp_path, monkeypatch):
    checkpointer, running = opened(found, 10, tmp_path)
    record_rollback(tmp_path, (Rollback(35, to, ""),))
    monkeypatch.setattr(doctor_checks, "open_checkpoints", lambda *_, **__: checkpointer)
    check = lambda: check_checkpoints(running.inputs, tmp_path, lambda: None)
    if told:
        assert check().text.startswith(told)
    else:
        with pytest.raises(
            FileNotFoundError, match="no checkpoint is left that its rollbacks could return to"
        ):
            check()
    if to == 9:
        running.inputs.config["checkpoint"]["init_from"] = "/gone/run:20"
        with pytest.raises(FileNotFoundError, match=r"/gone/run|no checkpoint is left"):
            check()
    assert checkpointer.found == found


@pytest.mark.parametrize(("found", "num_steps"), [({10: WHOLE, 20: WHOLE}, 20), ({10: WHOLE, 20: CUT}, 10)])
def test_the_doctor_refuses_a_length_below_the_steps_that_are_done(found, num_steps, tmp_path, monkeypatch):
    checkpointer, running = opened(found, 10, tmp_path)
    monkeypatch.setattr(doctor_checks, "open_checkpoints", lambda *_, **__: checkpointer)
    inputs, check = running.inputs, lambda: check_checkpoints(running.inputs, tmp_path, lambda: None)
    inputs.changes_length, inputs.config["train"]["num_steps"] = True, num_steps
    assert check().text.startswith(f"resumes at step {num_steps}")
    inputs.config["train"]["num_steps"] -= 1
    message = rf"num_steps: got {num_steps - 1}, expected {num_steps} or more: {tmp_path} has a checkpoint"
    with pytest.raises(ValueError, match=message):
        check()


@pytest.mark.parametrize(("done", "is_lost"), [(12, False), (34, False), (35, True), (500, True)])
def test_lost_checkpoints_are_told_also_in_a_run_that_once_returned_to_its_beginning(done, is_lost, tmp_path):
    checkpointer, running = opened({}, 10, tmp_path)
    record_rollback(tmp_path, (Rollback(35, 2, ""), Rollback(4, 2, "")))
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": done, "loss": 1.0}) + "\n")
    (tmp_path / "sessions.jsonl").write_text(json.dumps({"start_step": 10}) + "\n")
    if is_lost:
        with pytest.raises(FileNotFoundError, match=f"got no checkpoint.*had done {done} steps"):
            find_start(checkpointer, running.inputs, running.run)
    else:
        assert find_start(checkpointer, running.inputs, running.run).step == 0
