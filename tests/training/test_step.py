"""Optimizer, schedule, step, checkpoints and metrics: independent references, mesh parity and resume
parity."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context, check_batch, param_shardings
from electra_jax.models.config import encoder_shape
from electra_jax.objectives.base import Phase
from electra_jax.objectives.metrics import binned_auc
from electra_jax.training.checkpointing import Checkpointer
from electra_jax.training.metrics import summarize
from electra_jax.training.optimizer import assign_groups, make_optimizers
from electra_jax.training.program import make_program
from electra_jax.training.schedules import SCHEDULES, warmup_times_decay
from electra_jax.training.state import abstract_params
from support.tiny import LENGTH, electra, key
from support.training_steps import config, run_steps

# A second layer would be cut, trained and saved in the same way.
ONE_LAYER = {"discriminator": encoder_shape(32, 1) | {"num_heads": 4}}


def test_schedule_by_hand():
    schedule = warmup_times_decay(1.0, 10, 100)
    values = [float(schedule(step)) for step in (0, 5, 10, 50, 100, 120)]
    np.testing.assert_allclose(values, [0.0, 0.95 * 0.5, 0.9, 0.5, 0.0, 0.0], rtol=1e-6)
    schedule = SCHEDULES["warmup_then_decay"](1.0, 10, 100)
    values = [float(schedule(step)) for step in (0, 5, 9, 10, 50, 100, 120)]
    np.testing.assert_allclose(values, [0.0, 0.5, 0.9, 0.9, 0.5, 0.0, 0.0], rtol=1e-6)


@pytest.mark.parametrize("bias_correction", [False, True])
def test_adam_against_numpy(bias_correction):
    rng = np.random.default_rng(0)
    params = {
        "kernel": rng.normal(size=(3, 4)).astype(np.float32),
        "bias": rng.normal(size=4).astype(np.float32),
    }
    section = config()["optimizer"] | {
        "bias_correction": bias_correction,
        "groups": (("bias", 0.5, 0.0), (".*", 1.0, 1.0)),
    }
    phase = Phase("all", tuple(params), None)
    optimizers, schedule = make_optimizers(section, 10, params, (phase,))
    optimizer = optimizers["all"]
    ours, state = jax.tree.map(jnp.asarray, params), optimizer.init(params)
    expected = {name: value.astype(np.float64) for name, value in params.items()}
    m, v = ({name: np.zeros_like(value) for name, value in expected.items()} for _ in range(2))
    for step in range(4):
        grads = {name: rng.normal(size=value.shape).astype(np.float32) * 3 for name, value in params.items()}
        updates, state = optimizer.update(jax.tree.map(jnp.asarray, grads), state, ours)
        ours = optax.apply_updates(ours, updates)
        norm = np.sqrt(sum((grad.astype(np.float64) ** 2).sum() for grad in grads.values()))
        for name, grad in grads.items():
            grad = grad / max(1.0, norm)
            m[name] = 0.9 * m[name] + 0.1 * grad
            v[name] = 0.999 * v[name] + 0.001 * grad**2
            correct = (1 - 0.9 ** (step + 1), 1 - 0.999 ** (step + 1)) if bias_correction else (1.0, 1.0)
            update = (m[name] / correct[0]) / (np.sqrt(v[name] / correct[1]) + 1e-6)
            update += 0.01 * expected[name] * (name != "bias")
            expected[name] -= float(schedule(step)) * (0.5 if name == "bias" else 1.0) * update
    for name in params:
        np.testing.assert_allclose(ours[name], expected[name], rtol=2e-5, atol=1e-7)


def test_every_parameter_needs_a_group_and_every_group_a_parameter():
    params = {"a": {"kernel": 0}, "b": {"bias": 0}}
    with pytest.raises(ValueError, match="no pattern matches parameter 'b/bias'"):
        assign_groups(params, [("kernel", 1.0, 1.0)])
    with pytest.raises(ValueError, match="decide for no parameter"):
        assign_groups(params, [(".*", 1.0, 1.0), ("LayerNorm", 1.0, 0.0)])


def test_accumulated_gradients_equal_those_of_the_large_batch():
    no_dropout = ONE_LAYER | {"hidden_dropout": 0.0, "attention_dropout": 0.0}
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    states = [run_steps(config(model=no_dropout, train={"num_microbatches": n}), mesh, 2)[1] for n in (1, 4)]
    for one, four in zip(*(jax.tree.leaves(state.params) for state in states), strict=True):
        np.testing.assert_allclose(one, four, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 1, 2)])
def test_losses_are_the_same_on_every_mesh(sizes):
    one = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    many = make_mesh(
        dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)), jax.devices()[: np.prod(sizes)]
    )
    full = config(model=ONE_LAYER)
    *_, expected = run_steps(full, one, 3)
    _, state, windows = run_steps(full, many, 3)
    for ours, reference in zip(windows, expected, strict=True):
        ours, reference = summarize(ours), summarize(reference)
        assert abs(ours["mlm_loss"] - reference["mlm_loss"]) < 1e-5
        assert abs(ours["rtd_loss"] - reference["rtd_loss"]) < 1e-5
    table = state.params["embeddings"]["word_embeddings"]["embedding"]
    assert table.addressable_shards[0].data.shape == (256 // sizes[2], 16 // sizes[1])
    moment = state.opt_state["joint"][1].mu["embeddings"]["word_embeddings"]["embedding"]
    assert moment.sharding == table.sharding


@pytest.mark.slow
def test_resuming_is_bitwise_exact_in_the_middle_of_a_window(tmp_path):
    mesh = make_mesh({"data": -1, "fsdp": 1, "tensor": 1})
    full = config(model=ONE_LAYER)
    _, straight, expected = run_steps(full, mesh, 6)
    program, state, _ = run_steps(full, mesh, 3)
    checkpointer = Checkpointer(str(tmp_path / "checkpoints"), keep=1)
    checkpointer.save(3, state, {"config": 1})
    checkpointer.wait()
    assert checkpointer.describe(3) == {"config": 1}
    restored = checkpointer.restore(3, program.abstract_state)
    checkpointer.close()
    _, resumed, windows = run_steps(full, mesh, 3, state=restored, start=3)
    for name in expected[-1]:
        np.testing.assert_array_equal(windows[-1][name], expected[-1][name])
        np.testing.assert_array_equal(windows[0][name], expected[3][name])
    for one, other in zip(jax.tree.leaves(straight.params), jax.tree.leaves(resumed.params), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_checkpoint_restores_onto_another_mesh(tmp_path):
    full = config(model=ONE_LAYER)
    eight = make_mesh({"data": 8, "fsdp": 1, "tensor": 1})
    cut = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    _, state, _ = run_steps(full, eight, 2)
    checkpointer = Checkpointer(str(tmp_path / "checkpoints"), keep=1)
    checkpointer.save(2, state, {})
    checkpointer.wait()
    with axis_context(cut):
        program = make_program(full, electra(full["model"], **full["objective"]), cut)
    restored = checkpointer.restore(2, program.abstract_state)
    checkpointer.close()
    assert restored.params["embeddings"]["word_embeddings"]["embedding"].sharding.mesh.shape["tensor"] == 2
    _, _, ours = run_steps(full, cut, 1, state=restored, start=2)
    _, _, expected = run_steps(full, eight, 1, state=state, start=2)
    assert abs(summarize(ours[0])["mlm_loss"] - summarize(expected[0])["mlm_loss"]) < 1e-5


def test_a_non_finite_gradient_names_its_step():
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    full = config(model=ONE_LAYER, optimizer={"learning_rate": 1e30}, log={"every": 100})
    _, _, windows = run_steps(full, mesh, 6)
    bad = [int(window["nonfinite_step"]) for window in windows]
    first = bad[-1]
    assert 2 <= first <= 6
    assert bad[first - 1 :] == [first] * (7 - first) and all(step > 6 for step in bad[: first - 1])


def test_constraints_are_in_the_program_only_inside_the_axis_context():
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    full = config()
    objective = electra(full["model"])
    params, _ = abstract_params(objective, LENGTH)

    def count():
        batch = jax.eval_shape(objective.prepare, key(), jax.ShapeDtypeStruct((8, LENGTH), jnp.int32))
        loss = lambda p, b: objective.phases[0].loss(p, b, {"mlm": 1.0, "rtd": 1.0}, None, None)[0]
        return str(jax.make_jaxpr(loss)(params, batch)).count("sharding_constraint")

    assert count() == 0
    with axis_context(mesh):
        assert count() >= 9


def test_mesh_errors_say_what_to_change():
    with pytest.raises(ValueError, match=r"config\.mesh.*8 devices"):
        make_mesh({"data": 3, "fsdp": 1, "tensor": 1})
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 8})
    params, axes = abstract_params(electra(), LENGTH)
    with pytest.raises(ValueError, match=r"query/kernel: axis 'heads' has 4 entries, config\.mesh\.tensor=8"):
        param_shardings(params, axes, mesh)
    with pytest.raises(ValueError, match=r"config\.train\.batch_size"):
        check_batch(12, 1, make_mesh({"data": 8, "fsdp": 1, "tensor": 1}))


def test_auc_against_pair_counting():
    rng = np.random.default_rng(0)
    negatives, positives = rng.integers(0, 5, 20), rng.integers(0, 5, 20)
    a, b = np.repeat(np.arange(20), negatives), np.repeat(np.arange(20), positives)
    pairs = (b[:, None] > a[None]).mean() + (b[:, None] == a[None]).mean() / 2
    assert binned_auc(negatives, positives) == pytest.approx(pairs)
