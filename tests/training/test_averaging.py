"""The moving average of the parameters: its recursion, sharding and checkpoints, and runs without one."""

import contextlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st

from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context, batch_sharding
from electra_jax.objectives.base import Objective, Phase
from electra_jax.runs.directory import check_run_directory
from electra_jax.runs.pretraining import first_state
from electra_jax.runs.saved_states import restore_state
from electra_jax.runs.trained import read_description
from electra_jax.training.averaging import interpolate
from electra_jax.training.checkpointing import Checkpointer
from electra_jax.training.loop import Intervals
from electra_jax.training.program import make_program
from electra_jax.training.state import AveragedTrainState, TrainState, measured_params, start_from
from support.fake_run import FakeRun
from support.tiny import rows
from support.training_steps import config

DECAY, STEPS, SAVED = 0.9, 4, 2
EIGHT = {"data": 2, "fsdp": 2, "tensor": 2}
leaves = jax.tree.leaves


def on_host(tree):
    return [np.array(leaf) for leaf in leaves(tree)]


def make_regression():
    """An objective that compiles at once: a linear function of each row's mean embedding should be near 1."""

    def init(key, sequence_length):
        draw = lambda shape, axes: nn.Partitioned(0.1 * jax.random.normal(key, shape), axes)
        return {
            "table": {"embedding": draw((256, 16), ("vocab", "embedding"))},
            "output": {"kernel": draw((16, 4), ("embed", "mlp")), "bias": draw((4,), ("mlp",))},
        }

    def loss(params, ids_BL, normalizers, dropout_key, carry):
        y_BK = (
            params["table"]["embedding"][ids_BL].mean(1) @ params["output"]["kernel"]
            + params["output"]["bias"][None]
        )
        return jnp.square(y_BK - 1.0).mean(), ({"tokens": jnp.float32(ids_BL.size)}, carry)

    phases = (Phase("all", ("table", "output"), loss),)
    targets = lambda ids_BL: (ids_BL, jnp.ones_like(ids_BL))
    return Objective(init, lambda key, ids_BL: ids_BL, lambda batch: {}, phases, targets)


def with_fixed_bias(objective):
    """The objective whose bias is in a module that is not trained."""

    def init(key, sequence_length):
        params = objective.init(key, sequence_length)
        bias = nn.Partitioned(jnp.full((4,), 0.5), ("mlp",))
        return params | {"output": {"kernel": params["output"]["kernel"]}, "fixed": {"bias": bias}}

    def loss(params, *rest):
        return objective.phases[0].loss(params | {"output": params["output"] | params["fixed"]}, *rest)

    phases = (objective.phases[0]._replace(loss=loss),)
    return objective._replace(init=init, phases=phases, frozen=("fixed",))


def program_of(ema_decay, objective=None):
    full = config(train={"ema_decay": ema_decay}, optimizer={"learning_rate": 1e-2, "warmup_steps": 0})
    return make_program(full, objective or make_regression(), make_mesh(EIGHT))


def train(program, state, first, last):
    """(state, parameters after each step) of the steps first … last - 1."""
    trajectory = []
    for step in range(first, last):
        state, _ = program.train_step(
            state, jax.device_put(rows(8, seed=step), batch_sharding(make_mesh(EIGHT)))
        )
        trajectory.append(on_host(state.params))
    return state, trajectory


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """(program, parameters at the start and after each step, last state, checkpointer with step SAVED, its
    run)."""
    run = tmp_path_factory.mktemp("averaged")
    (run / "config.json").write_text(json.dumps({"config": config()}))
    with (
        axis_context(make_mesh(EIGHT)),
        contextlib.closing(Checkpointer(str(run / "checkpoints"), keep=1)) as checkpointer,
    ):
        program = program_of(DECAY)
        state = program.init()
        start = on_host(state.params)
        state, first = train(program, state, 0, SAVED)
        checkpointer.save(SAVED, state, {})
        checkpointer.wait()
        state, rest = train(program, state, SAVED, STEPS)
        yield program, [start, *first, *rest], state, checkpointer, run


@given(decay=st.floats(0.5, 0.9999), steps=st.integers(1, 30), seed=st.integers(0, 9))
def test_recursion_against_numpy(decay, steps, seed):
    path = np.random.default_rng(seed).normal(size=(steps + 1, 5)).astype(np.float32)
    average, expected = {"x": path[0]}, path[0].astype(np.float64)
    for point in path[1:]:
        average = interpolate(average, {"x": point}, np.float32(1 - decay))
        expected = decay * expected + (1 - decay) * point
    np.testing.assert_allclose(average["x"], expected, rtol=1e-5, atol=1e-6)
    weights = np.array([decay**steps, *((1 - decay) * decay ** np.arange(steps - 1, -1, -1.0))])
    assert weights.sum() == pytest.approx(1.0)  # so there is no bias to correct
    np.testing.assert_allclose(expected, weights @ path, atol=1e-6)
    still = interpolate({"x": path[0]}, {"x": path[0]}, np.float32(1 - decay))["x"]
    np.testing.assert_array_equal(still, path[0])


def test_the_step_averages_the_updated_parameters_with_their_sharding(averaged):
    _, trajectory, state, _, _ = averaged
    expected = [leaf.astype(np.float64) for leaf in trajectory[0]]
    for params in trajectory[1:]:
        expected = [
            DECAY * average + (1 - DECAY) * leaf for average, leaf in zip(expected, params, strict=True)
        ]
    assert len(trajectory) == STEPS + 1
    moved = 0.0
    for ours, ema, params in zip(leaves(state.ema), expected, leaves(state.params), strict=True):
        assert ours.dtype == np.float32 and ours.sharding == params.sharding
        np.testing.assert_allclose(ours, ema, rtol=1e-5, atol=1e-7)
        moved = max(moved, np.abs(np.array(ours) - params).max())
    assert moved > 1e-3
    assert state.ema["table"]["embedding"].addressable_shards[0].data.shape == (128, 8)


def test_checkpoints_hold_it_and_resuming_is_bitwise_exact(averaged):
    program, trajectory, last, checkpointer, _ = averaged
    with axis_context(make_mesh(EIGHT)):
        state = checkpointer.restore(SAVED, program.abstract_state)
        ema = on_host(state.ema)
        alone = checkpointer.restore_params(SAVED, program.abstract_state.params)
        state, _ = train(program, state, SAVED, STEPS)
    for one, other in zip(leaves(state), leaves(last), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other, params in zip(leaves(alone), ema, leaves(program.abstract_state.params), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.sharding == params.sharding
    assert any((one != other).any() for one, other in zip(ema, trajectory[SAVED], strict=True))


def test_what_is_not_trained_has_no_average_and_one_of_an_earlier_version_is_dropped(tmp_path):
    program = program_of(DECAY, with_fixed_bias(make_regression()))
    with (
        axis_context(make_mesh(EIGHT)),
        contextlib.closing(Checkpointer(str(tmp_path / "new"), keep=1)) as new,
        contextlib.closing(Checkpointer(str(tmp_path / "old"), keep=1)) as old,
    ):
        state, _ = train(program, start_from(program.init(), program.init().params), 0, STEPS)
        assert set(state.ema) == {"table", "output"} and set(state.params) == {"table", "output", "fixed"}
        measured = measured_params(state)
        assert float(measured["fixed"]["bias"][0]) == 0.5
        of_earlier_version = state.replace(ema=state.ema | {"fixed": state.params["fixed"]})
        for checkpointer, saved in ((new, state), (old, of_earlier_version)):
            checkpointer.save(STEPS, saved, {"config": config()})
            checkpointer.wait()
            restored = restore_state(checkpointer, STEPS, program.abstract_state)
            alone = checkpointer.restore_params(STEPS, program.abstract_state.params)
            jax.tree.map(np.testing.assert_array_equal, restored, state)
            jax.tree.map(np.testing.assert_array_equal, alone, measured)
    assert any(
        (one != other).any() for one, other in zip(leaves(measured), leaves(state.params), strict=True)
    )


def test_training_is_the_same_without_an_average_and_the_state_has_none(averaged, tmp_path):
    _, trajectory, *_ = averaged
    with (
        axis_context(make_mesh(EIGHT)),
        contextlib.closing(Checkpointer(str(tmp_path), keep=1)) as checkpointer,
    ):
        program = program_of(0.0)
        state, alone = train(program, program.init(), 0, STEPS)
        checkpointer.save(STEPS, state, {})
        checkpointer.wait()
        restored = checkpointer.restore_params(STEPS, program.abstract_state.params)
    assert type(state) is TrainState and list(vars(state)) == ["step", "params", "opt_state", "window"]
    for one, other in zip(alone, trajectory[1:], strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)
    jax.tree.map(np.testing.assert_array_equal, on_host(restored), alone[-1])


def test_a_run_keeps_its_average_and_older_runs_have_none(tmp_path):
    def given(decay):
        return {"config": {"train": {"ema_decay": decay}, "stages": []}}

    def refuse(has, gives):
        with pytest.raises(
            ValueError, match=rf"config\.train\.ema_decay: the run has {has}, you gave {gives}\nUse another"
        ):
            check_run_directory(tmp_path, given(gives))

    (tmp_path / "config.json").write_text(json.dumps(given(0.99)))
    refuse(0.99, 0.0)
    check_run_directory(tmp_path, given(0.99))
    old = {"config": {"train": {}}}  # made before there were averages, and stages
    (tmp_path / "config.json").write_text(json.dumps(old))
    refuse(0.0, 0.99)
    check_run_directory(tmp_path, given(0.0))
    found = read_description(tmp_path)["config"]
    later = {"num_epochs": 0.0, "num_tokens": 0.0, "attention": "auto", "compilation_cache": "parent"}
    assert found["train"] == {"ema_decay": 0.0} | later and found["stages"] == []
    finetuning = {"config": {"task": {"source": ""}, "train": {"num_epochs": 1}}}  # has no such keys
    (tmp_path / "config.json").write_text(json.dumps(finetuning))
    check_run_directory(tmp_path, finetuning)


def test_a_run_that_starts_from_an_average_has_it_as_parameters_and_as_average(averaged, tmp_path, capsys):
    program, _, _, checkpointer, run = averaged
    with axis_context(make_mesh(EIGHT)):
        ema = on_host(checkpointer.restore(SAVED, program.abstract_state).ema)
        state = first_state(program, str(run), tmp_path)
        assert f"starting from the parameters of {run}, step {SAVED}, with a fresh" in capsys.readouterr().err
        for params, average, expected in zip(leaves(state.params), leaves(state.ema), ema, strict=True):
            np.testing.assert_array_equal(params, expected)
            np.testing.assert_array_equal(average, expected)
            assert average.sharding == params.sharding
        state, trajectory = train(program, state, 0, 1)  # donates both
    for average, params, first in zip(on_host(state.ema), trajectory[0], ema, strict=True):
        np.testing.assert_allclose(average, DECAY * first + (1 - DECAY) * params, rtol=1e-5, atol=1e-7)


class MeasuredRun(FakeRun):
    """Evaluates and probes, and notes the parameters."""

    def train_step(self, state, ids):
        _, window = super().train_step(state, ids)
        return state.replace(step=state.step + 1), window

    def probe(self, params):
        return self.evaluate(params)


def test_evaluations_and_probes_measure_it(tmp_path):
    run = MeasuredRun(tmp_path)
    params = {"encoder": "parameters", "teachers": "frozen"}
    for state in (
        TrainState(0, params, {}, {}),
        AveragedTrainState(0, params, {}, {}, {"encoder": "average"}),
    ):
        run.workdir = tmp_path / type(state).__name__
        run.go(state, Intervals(2, log=1, evaluate=2, checkpoint=2, probe=2))
    assert run.evaluated == [params] * 2 + [params | {"encoder": "average"}] * 2
