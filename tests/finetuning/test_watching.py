"""A fine-tuning that is watched: its losses, its validations, the model that is kept, and divergence."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.progress import make_progress
from data_pipelines.tasks.encoding import EncodedExample
from electra_jax.distributed.mesh import make_mesh
from electra_jax.finetuning.trainer import Trainer
from electra_jax.finetuning.watching import Losses, Validation, Watch, validation_split, validation_steps
from electra_jax.training.run_ahead import MOST_STEPS
from support.tiny_task import ONE, make_encoder, make_settings, make_type, task_examples

NUM_STEPS = 12  # three epochs of 32 rows in batches of 8


@pytest.mark.parametrize(
    ("every", "num_rows", "batch_size", "num_epochs", "expected"),
    [
        (0, 32, 8, 3, {4, 8, 12}),
        (0, 10, 4, 2, {3, 5}),  # the third batch has the last two rows of epoch one
        (0, 3, 8, 4, {1, 2}),  # several epochs in a batch
        (5, 32, 8, 3, {5, 10, 12}),
        (6, 32, 8, 3, {6, 12}),
        (100, 32, 8, 3, {12}),
    ],
)
def test_validation_steps_by_hand(every, num_rows, batch_size, num_epochs, expected):
    assert validation_steps(every, num_rows, batch_size, num_epochs) == expected


@pytest.mark.parametrize(
    ("labelled", "expected"),
    [
        (["validation", "test"], "validation"),
        (["validation_matched", "validation_mismatched"], "validation_matched"),
        (["test"], None),
        (["test_matched", "test_mismatched"], None),
    ],
)
def test_a_test_set_is_never_validated_on(labelled, expected):
    assert validation_split(labelled) == expected


class Unread:
    """A loss on a device; it notes that it was read."""

    def __init__(self, value, step, read):
        self.value, self.step, self.read = value, step, read

    def __float__(self):
        self.read.append(self.step)
        return self.value


def test_losses_are_read_two_steps_later_and_all_at_the_end():
    read = []
    losses = Losses(6, make_progress(6, is_shown=False))
    for step in range(1, 5):
        losses.add(step, Unread(float(step), step, read))
        assert read == list(range(1, step - MOST_STEPS + 1))
    assert losses.mean() == pytest.approx(2.5) and read == [1, 2, 3, 4]
    losses.add(5, Unread(7.0, 5, read))
    assert losses.mean() == pytest.approx(7.0)  # of the steps since


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_is_found_two_steps_later(value):
    read = []
    losses = Losses(9, make_progress(9, is_shown=False))
    losses.add(1, Unread(0.5, 1, read))
    losses.add(2, Unread(value, 2, read))
    losses.add(3, Unread(0.5, 3, read))
    with pytest.raises(FloatingPointError, match=rf"the loss of step 2 of 9 is {value}\. Lower config\.opt"):
        losses.add(4, Unread(0.5, 4, read))


@pytest.fixture(scope="module")
def encoder(data, tmp_path_factory):
    return make_encoder(data, tmp_path_factory)[0]


ROWS = {"train": task_examples("classification", 32, 0), "validation": task_examples("classification", 11, 1)}


@pytest.fixture(scope="module")
def trainer(encoder):
    config = make_settings("classification", num_epochs=3, batch_size=8)
    task_type, mesh = make_type("classification"), make_mesh(ONE, jax.devices()[:1])
    return Trainer(encoder.config, encoder.special, task_type, config, 32, mesh)


def run(trainer, values, *, keeps_best, title=None, every=0):
    """Outcome, and the outputs at each validation; these have the given scores."""
    seen, values = [], iter(values)

    def score(outputs):
        seen.append(np.stack(outputs))
        return {"accuracy": next(values), "other": 0.0}

    validation = Validation("validation", every, keeps_best, score)
    held_out = {"validation": ROWS["validation"], "test": ROWS["validation"][:3]}
    return trainer.run(None, 0, ROWS["train"], held_out, Watch(title, validation)), seen


def test_the_last_or_the_best_model_is_kept(trainer):
    plain = trainer.run(None, 0, ROWS["train"], {"validation": ROWS["validation"]})
    assert plain.scores == () and plain.kept_step is None
    last, seen = run(trainer, [0.4, 0.8, 0.6], keeps_best=False)
    assert [(score.step, score.metrics["accuracy"]) for score in last.scores] == [
        (4, 0.4),
        (8, 0.8),
        (12, 0.6),
    ]
    np.testing.assert_array_equal(np.stack(last.outputs["validation"]), seen[2])
    jax.tree.map(np.testing.assert_array_equal, last.params, plain.params)  # watching changes nothing
    for values, kept in (([0.4, 0.8, 0.6], 1), ([0.8, 0.8, 0.8], 0), ([0.4, 0.5, 0.6], 2)):
        best, seen = run(trainer, values, keeps_best=True)
        np.testing.assert_array_equal(np.stack(best.outputs["validation"]), seen[kept])
        np.testing.assert_array_equal(np.stack(best.outputs["test"]), seen[kept][:3])
        assert best.kept_step == (None if kept == 2 else (4, 8)[kept])
        assert (kept == 2) == bool((seen[kept] == np.stack(plain.outputs["validation"])).all())
        same = trainer.predict(jax.tree.map(jnp.asarray, best.params), padded(ROWS["validation"]))
        np.testing.assert_allclose(same, seen[kept], atol=1e-5)


def padded(rows):
    ids = np.zeros((len(rows), 32), np.int32)
    for ids_L, row in zip(ids, rows, strict=True):
        ids_L[: len(row.ids)] = row.ids
    return ids


def test_a_log_file_gets_plain_lines(trainer, capsys):
    run(trainer, [0.25, 0.5, 0.75], keeps_best=False, title="run 2 of 4, some/encoder, seed 1", every=5)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "run 2 of 4, some/encoder, seed 1 …"
    assert all(line.startswith("run 2 of 4, some/encoder, seed 1") and "\r" not in line for line in lines)
    assert re.search(r"step 1/12 \(8\.3%\)  loss \d+\.\d{3}$", lines[1])
    assert any(
        "step 5/12 (41.7%)  epoch 1.2  validation  accuracy 0.250  other 0.000  ETA" in line for line in lines
    )
    assert any(re.search(r"step 12/12 \(100\.0%\)  loss \d+\.\d{3}$", line) for line in lines)
    assert len(lines) <= 6


@pytest.mark.parametrize(
    ("num_epochs", "rate", "message"),
    [
        (3, 3e38, r"the loss of step \d of 12 is"),
        # With one step the loss is finite. The update is not, or what it makes of the outputs is not.
        (1, 3e38, "the parameters after step 1 are not finite"),
        (1, 1e25, "the model's outputs are not finite"),
    ],
)
def test_a_run_that_diverges_ends_at_once(encoder, num_epochs, rate, message, capsys):
    config = make_settings("classification", num_epochs=num_epochs, batch_size=8 if num_epochs > 1 else 32)
    config["optimizer"] |= {"learning_rate": rate, "warmup_share": 0.0, "clip_norm": float("inf")}
    task_type, mesh = make_type("classification"), make_mesh(ONE, jax.devices()[:1])
    diverging = Trainer(encoder.config, encoder.special, task_type, config, 32, mesh)
    steps, train_step = [], diverging.train_step
    diverging.train_step = lambda *arguments: steps.append(1) or train_step(*arguments)
    with pytest.raises(FloatingPointError, match=message) as error:
        diverging.run(None, 0, ROWS["train"], {"validation": ROWS["validation"]}, Watch("seed 0"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["seed 0 …", "compiling the training step …"]
    assert re.fullmatch(r"compiling the training step: \d+\.\d s", lines[2])
    if num_epochs > 1:
        assert len(steps) <= int(re.search(r"step (\d)", str(error.value))[1]) + MOST_STEPS


def test_the_compilation_of_each_shape_is_announced_once(encoder, capsys):
    config = make_settings("classification", num_epochs=2, batch_size=1)
    task_type, mesh = make_type("classification"), make_mesh(ONE, jax.devices()[:1])
    rows = [EncodedExample(np.array([1, *[7] * (length - 2), 2], np.int32), 0, 0) for length in (8, 60, 9)]
    trainer = Trainer(encoder.config, encoder.special, task_type, config, len(rows), mesh)
    trainer.train_step = lambda params, opt_state, batch, key: (params, opt_state, np.float32(1.0))
    for seed in range(2):
        trainer.run(None, seed, rows, {}, Watch(f"seed {seed}"))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.endswith("…")]
    assert len(lines) == 4 and lines[:2] == ["seed 0 …", "compiling the training step …"]
    assert re.fullmatch(r"compiling the training step for 1 × (32|64) tokens …", lines[2])
    assert lines[3] == "seed 1 …"
