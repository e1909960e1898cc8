"""Runs in numerical trouble: what they leave out, where they return to, and that resuming replays it."""

import json
import os
import signal

import jax
import numpy as np
import pytest

from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context, batch_sharding
from electra_jax.distributed.stopping import Stopped
from electra_jax.runs import incidents, pretraining, trouble_services
from electra_jax.runs.rollbacks import Rollback, next_rollback, resume_rollbacks
from electra_jax.training.checkpointing import Checkpointer
from electra_jax.training.events import read_events
from electra_jax.training.loop import TrainingLoop
from electra_jax.training.program import make_program
from electra_jax.training.watch import Incident, LossSpikeError, NonFiniteLossError, NumericalTroubleError
from electra_jax.training.writers import read_metrics
from support import poisoned
from support.poisoned import arrays, batch_of, configuration, make_objective, poison
from support.run_records import checkpoints, comparable

INF = float("inf")
NUM_STEPS = poisoned.CHANGES["train.num_steps"]
ROLLBACK = {"trouble__on_nonfinite": "rollback", "trouble__on_spike": "rollback"}
# Batch 12, of step 13, is not finite: batches 9 … 12 are passed over. Then batch 18, now of step 15, is a
# spike: from step 12 on, batches 15 … 18 are passed over.
TWO = {12: INF, 18: 1e6}
ORDER = [*range(9), 13, 14, *range(19, 40)]


@pytest.fixture
def go(monkeypatch, data):
    """Runs a configuration with poisoned batches; returns it."""

    def go(workdir, factors, devices=1, **changes):
        config = configuration(data, **changes)
        poisoned.run(monkeypatch, config, workdir, poison(data, factors), devices)
        return config

    return go


def events(workdir, *names):
    """The events of a run: step, kind, and the values `names`."""
    return [(e["step"], e["kind"], *(e[name] for name in names)) for e in read_events(workdir)]


def trained_by_hand(config, data, order, devices):
    """All arrays after steps on the batches `order`, without a loop."""
    mesh = make_mesh({"data": -1, "fsdp": 1, "tensor": 1}, jax.devices()[:devices])
    full = config | {"data": config["data"] | {"sequence_length": 32}}
    with axis_context(mesh):
        program = make_program(full, make_objective({}), mesh)
        state = program.init()
        for number in order:
            batch = jax.device_put(batch_of(data, number), batch_sharding(mesh))
            state, _ = program.train_step(state, batch)
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(vars(state))
    }


def assert_equal(one, other, **tolerance):
    assert one.keys() == other.keys()
    for name, value in one.items():
        if tolerance:
            np.testing.assert_allclose(value, other[name], err_msg=name, **tolerance)
        else:
            np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.mark.parametrize("devices", [1, 8])
def test_a_rollback_passes_over_batches_and_nothing_else(go, data, tmp_path, devices):
    changes = {"train__ema_decay": 0.9, "train__num_microbatches": 2 if devices == 1 else 1}
    config = go(tmp_path, TWO, devices, **changes, **ROLLBACK)
    found = json.loads((tmp_path / "rollbacks.json").read_text())
    assert [(one["step"], one["to"]) for one in found] == [(13, 9), (15, 11)]
    expected = trained_by_hand(config, data, ORDER[:NUM_STEPS], devices)
    assert_equal(arrays(config, tmp_path, NUM_STEPS, devices), expected, rtol=1e-6, atol=1e-7)
    assert events(tmp_path, "to", "batches") == [(13, "rolled_back", 9, 4), (15, "rolled_back", 11, 4)]
    rows = [row["step"] for row in read_metrics(tmp_path) if "loss" in row]
    assert rows == [4, 8, 12, 16, 20, 24] and checkpoints(tmp_path) == [5, 10, 15, 20, 24]
    assert sorted(path.name for path in (tmp_path / "incidents").iterdir()) == [
        "step_13_nonfinite.json",
        "step_15_spike.json",
    ]


def test_a_skipped_step_is_told_and_kept(go, data, tmp_path):
    config = go(tmp_path, {5: INF, 9: 1e6}, trouble__on_nonfinite="skip", trouble__on_spike="skip")
    assert events(tmp_path, "trouble") == [(6, "skipped", "nonfinite"), (10, "skipped", "spike")]
    counts = {row["step"]: row["skipped_steps"] for row in read_metrics(tmp_path) if "loss" in row}
    assert counts == {4: 0, 8: 1, 12: 1, 16: 0, 20: 0, 24: 0}
    rates = {row["step"]: row["learning_rate"] for row in read_metrics(tmp_path) if "loss" in row}
    assert rates[24] == pytest.approx(0.01 * (1 - 21 / 24))  # of the 22nd update
    found = json.loads((tmp_path / "incidents" / "step_10_spike.json").read_text())
    assert (found["step"], found["kind"]) == (10, "spike")
    assert found["numbers"]["loss"] > 1000 > found["numbers"]["mean"] > 0
    assert found["numbers"]["gradient_norm_table"] > 1000
    assert len(found["rows"]) == len(found["row_losses"]) == poisoned.BATCH
    worst, ids = found["worst_rows"][0], batch_of(data, 9)[2]
    assert worst["row"] == found["rows"][2][1] and worst["loss"] == max(found["row_losses"]) > 1000
    assert worst["tokens"][0] == "[CLS]" and len(worst["tokens"]) == len(ids) and worst["text"]
    # Two phases, each with the whole loss.
    assert sum(found["row_losses"]) == pytest.approx(found["numbers"]["loss"], rel=0.5)
    assert json.loads((tmp_path / "incidents" / "step_6_nonfinite.json").read_text())["row_losses"][2] is None
    order = [number for number in range(NUM_STEPS) if number not in (5, 9)]
    expected = trained_by_hand(config, data, range(NUM_STEPS), 1)  # with the poisoned rows' plain losses
    ours = arrays(config, tmp_path, NUM_STEPS)
    assert int(ours["['guard']['skipped']"]) == NUM_STEPS - len(order) == 2
    assert int(ours["['opt_state']['first'][1].count"]) == len(order)
    assert int(expected["['opt_state']['first'][1].count"]) == NUM_STEPS


@pytest.mark.parametrize(
    ("factor", "error", "kind"), [(INF, NonFiniteLossError, "nonfinite"), (1e6, LossSpikeError, "spike")]
)
def test_a_run_that_stops_tells_why_each_time(go, tmp_path, factor, error, kind):
    for every in (4, 3):
        with pytest.raises(error, match=rf"step 13 is .*incidents/step_13_{kind}.*checkpoint is of step"):
            go(tmp_path, {12: factor}, trouble__on_spike="stop", checkpoint__every=every)
        assert events(tmp_path) == [(13, kind)]
    files = sorted((tmp_path / "incidents").iterdir())
    assert files[0].name == f"step_13_{kind}.json" and len({path.read_bytes() for path in files}) == len(
        files
    )


def test_a_run_without_a_checkpoint_keeps_the_evidence_of_a_stop(go, tmp_path):
    with pytest.raises(NonFiniteLossError, match="checkpoint is of step None"):
        go(tmp_path, {2: INF})
    found = json.loads((tmp_path / "incidents" / "step_3_nonfinite.json").read_text())
    assert found["parameters_of_step"] == 0 and found["worst_rows"][0]["row"] == found["rows"][2][1]
    assert found["numbers"]["gradient_norm"] is None and len(found["row_losses"]) == poisoned.BATCH


def test_a_step_whose_rows_cannot_be_measured_is_still_told(go, tmp_path, monkeypatch):
    def fail(_):
        raise OSError("tokenizer.json: no such file")

    monkeypatch.setattr(incidents, "load_tokenizer", fail)
    with pytest.raises(NonFiniteLossError, match="step 3 is not finite"):
        go(tmp_path, {2: INF})
    found = json.loads((tmp_path / "incidents" / "step_3_nonfinite.json").read_text())
    assert found["not_measured"] == "OSError: tokenizer.json: no such file" and "worst_rows" not in found


@pytest.mark.parametrize(("step", "to"), [(30, 19), (15, 12), (9, 8)])
def test_a_rollback_is_always_to_before_its_step(step, to):
    """Also if a policy that came later makes trouble of a step that the last rollback repeats."""
    trouble = {"max_rollbacks": 5, "rollback_steps": 10}
    incident = Incident(step, "nonfinite", {}, 1)
    found = next_rollback(incident, "", (Rollback(14, 12, ""),), trouble, first_step=4)
    assert (found.step, found.to) == (step, to)


def test_skips_in_a_row_and_rollbacks_are_bounded(go, tmp_path):
    go(tmp_path / "two", {7: INF, 8: INF}, trouble__on_nonfinite="skip", trouble__max_skips=2)
    three = {7: INF, 8: INF, 9: INF}
    skips = {"trouble__on_nonfinite": "skip"}
    with pytest.raises(NumericalTroubleError, match=r"step 10 .*3 steps in a row.*max_skips allows 2"):
        go(tmp_path / "three", three, trouble__max_skips=2, **skips)
    assert checkpoints(tmp_path / "three") == [5]
    go(tmp_path / "three", three, trouble__max_skips=3, **skips)  # resumes
    with pytest.raises(NumericalTroubleError, match=r"step 15 is a spike.* 1 times.*max_rollbacks"):
        go(tmp_path / "back", TWO, trouble__max_rollbacks=1, **ROLLBACK)
    go(tmp_path / "back", TWO, trouble__max_rollbacks=2, **ROLLBACK)
    assert len(json.loads((tmp_path / "back" / "rollbacks.json").read_text())) == 2


class PowerCut(BaseException):
    pass


def cut_after(monkeypatch, owner, name, calls):
    """Let the call number `calls` of owner.name be the last thing that happens."""
    original, left = getattr(owner, name), [calls]

    def last(*arguments, **options):
        result = original(*arguments, **options)
        left[0] -= 1
        if left[0] == 0:
            raise PowerCut
        return result

    monkeypatch.setattr(owner, name, last)


@pytest.mark.slow
def test_a_run_that_is_interrupted_around_a_rollback_ends_as_one_that_is_not(go, tmp_path, data):
    changes = ROLLBACK | {"trouble__rollback_steps": 8, "train__ema_decay": 0.9}
    config = go(tmp_path / "whole", TWO, **changes)
    expected, rows = arrays(config, tmp_path / "whole", NUM_STEPS), comparable(tmp_path / "whole")
    for owner, name, calls in (
        (trouble_services, "record_rollback", 1),
        (Checkpointer, "remove", 1),
        (Checkpointer, "remove", 2),
        (trouble_services, "record_rollback", 2),
        (Checkpointer, "save", 3),
        (Checkpointer, "save", 5),
    ):
        workdir = tmp_path / f"{name}_{calls}"
        with pytest.MonkeyPatch.context() as monkeypatch, pytest.raises(PowerCut):
            cut_after(monkeypatch, owner, name, calls)
            go(workdir, TWO, **changes)
        go(workdir, TWO, **changes)
        assert_equal(arrays(config, workdir, NUM_STEPS), expected)
        assert comparable(workdir) == rows and events(workdir) == events(tmp_path / "whole")
        for file in ("rollbacks.json", "incidents"):
            names = [
                sorted(path.name for path in (one / file).glob("*")) for one in (workdir, tmp_path / "whole")
            ]
            assert names[0] == names[1]


def test_a_lost_list_of_rollbacks_is_found_in_a_checkpoint_and_a_foreign_one_is_an_error(go, tmp_path):
    go(tmp_path / "run", TWO, train__num_steps=20, **ROLLBACK)
    listed = tmp_path / "run" / "rollbacks.json"
    before = listed.read_bytes()
    listed.unlink()
    with Checkpoints(tmp_path / "run") as checkpointer:
        found, undone = resume_rollbacks(tmp_path / "run", checkpointer)
    assert [one.step for one in found] == [13, 15] and listed.read_bytes() == before and undone == ()
    for content, message in (
        ('[{"step": 14, "to": 9, "because": ""}]', "the checkpoint of step 20 has others"),
        (
            "[{}]",
            r"rollbacks\.json: no .step. and no .to. and no .because. at \[0\], found no keys\. Put the file",
        ),
        ('[{"step": 4, "to": 9, "because": ""}]', "expected steps after those returned to"),
    ):
        listed.write_text(content)
        with Checkpoints(tmp_path / "run") as checkpointer, pytest.raises(ValueError, match=message):
            resume_rollbacks(tmp_path / "run", checkpointer)


class Checkpoints:
    """The checkpoints of a run, open to change."""

    def __init__(self, workdir):
        self.checkpointer = Checkpointer(str(workdir / "checkpoints"), keep=20)

    def __enter__(self):
        return self.checkpointer

    def __exit__(self, *exception):
        self.checkpointer.close()


def test_the_policy_may_change_when_a_run_resumes(go, tmp_path):
    """In both directions; a checkpoint without a guard is as one of an older version."""
    with pytest.raises(NonFiniteLossError):
        go(tmp_path, {12: INF, 18: INF})
    config = go(tmp_path, {12: INF}, train__num_steps=24, trouble__on_nonfinite="skip")
    assert int(arrays(config, tmp_path, 15)["['guard']['skipped']"]) == 1
    for step in (24, 20):
        with Checkpoints(tmp_path) as checkpointer:
            checkpointer.remove(step)
    config = go(tmp_path, {})
    assert not any("guard" in name for name in arrays(config, tmp_path, NUM_STEPS))
    (row,) = [row for row in read_metrics(tmp_path) if row["step"] == NUM_STEPS and "loss" in row]
    assert row["learning_rate"] == pytest.approx(0.01 * (1 - 22 / 24))  # of the 23rd update


class Watched:
    """Makes `TrainingLoop`s, and remembers the ids of each step's last batch; `happens` maps a step, from 0,
    to a function that is called after it."""

    def __init__(self, monkeypatch):
        self.ids, self.happens = {}, {}
        monkeypatch.setattr(pretraining, "TrainingLoop", self.make_loop)

    def make_loop(self, state, computation, batches, intervals, services):
        def train_step(state, ids):
            number = int(state.step)
            self.ids[number] = np.asarray(ids)
            result = computation.train_step(state, ids)
            self.happens.pop(number, lambda: None)()
            return result

        watched = computation._replace(train_step=train_step)
        return TrainingLoop(state, watched, batches, intervals, services)


def test_a_rollback_stays_in_its_stage_and_the_next_one_reads_on(go, data, tmp_path, monkeypatch):
    watched = Watched(monkeypatch)
    stages = ((8, {"train.num_microbatches": 2}), (12, {"train.batch_size": 8}))
    changes = {"stages": stages, "train__num_steps": 16, "trouble__on_nonfinite": "rollback"}
    go(tmp_path, {6: INF, 12: INF}, **changes)
    found = json.loads((tmp_path / "rollbacks.json").read_text())
    # The first stage reads four batches more, so that batch 12 is the first one of the second stage.
    assert [(one["step"], one["to"]) for one in found] == [(7, 3), (9, 8)]
    order = [0, 1, 2, 7, 8, 9, 10, 11, 13, 14, 15, 16]
    for step, number in enumerate(order):
        np.testing.assert_array_equal(watched.ids[step], batch_of(data, number))
    for step in range(4):
        np.testing.assert_array_equal(watched.ids[12 + step], batch_of(data, 34 + step, size=8))
    for step in checkpoints(tmp_path)[2:]:  # in the third stage: its data follow from the list of rollbacks
        with Checkpoints(tmp_path) as checkpointer:
            checkpointer.remove(step)
    watched.ids.clear()
    go(tmp_path, {6: INF, 12: INF}, **changes)
    np.testing.assert_array_equal(watched.ids[13], batch_of(data, 35, size=8))


def test_a_run_that_is_told_to_stop_before_it_knows_of_trouble_rolls_back_first(go, tmp_path, monkeypatch):
    config = go(tmp_path / "whole", TWO, **ROLLBACK)
    watched = Watched(monkeypatch)
    watched.happens[13] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Stopped):
        go(tmp_path / "told", TWO, **ROLLBACK)
    assert len(json.loads((tmp_path / "told" / "rollbacks.json").read_text())) == 1
    assert checkpoints(tmp_path / "told") == [5]
    go(tmp_path / "told", TWO, **ROLLBACK)
    whole, told = (arrays(config, tmp_path / name, NUM_STEPS) for name in ("whole", "told"))
    assert_equal(told, whole)
    assert comparable(tmp_path / "told") == comparable(tmp_path / "whole")
