"""Adafactor against NumPy and Optax, on a mesh, in checkpoints; the memory that it needs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from electra_jax.objectives.base import Phase
from electra_jax.training import update_rules
from electra_jax.training.optimizer import make_optimizers
from electra_jax.training.update_rules import ADAFACTOR
from support.update_steps import (
    PEAK,
    SHAPES,
    STEPS,
    by_numpy,
    check_resumes,
    equal,
    flat_params,
    grads_of,
    multipliers,
    run,
    section,
    train,
)


@pytest.fixture
def factored_from_8(monkeypatch):
    """So that these small matrices are factored."""
    monkeypatch.setattr(update_rules, "FACTORED_FROM", 8)


@pytest.mark.usefixtures("factored_from_8")
def test_adafactor_against_numpy():
    """Rows and columns of g² are averaged; v is their outer product over the mean of all."""
    kept, average = {path: 0.0 for path in SHAPES}, {path: 0.0 for path in SHAPES}
    number = {path: 0 for path in SHAPES}

    def update(path, param, grad, direction, second):
        number[path] += 1
        beta = min(1 - number[path] ** -0.8, 0.4)  # from the second step on 0.4
        kept[path] = beta * kept[path] + (1 - beta) * (grad**2 + 1e-12)
        second = kept[path]
        if min(second.reshape(len(second), -1).shape) >= 8:
            second = second.reshape(len(second), -1)
            second = second.mean(1, keepdims=True) * second.mean(0) / second.mean()
        scaled = grad / np.sqrt(second.reshape(grad.shape))
        scaled = scaled / max(1, np.sqrt((scaled**2).mean()) / 0.9)
        average[path] = 0.9 * average[path] + 0.1 * scaled
        new, average[path] = average[path], np.asarray(jnp.bfloat16(average[path])).astype(np.float64)
        rate, decay = multipliers(path)
        return rate * (new + decay * param)

    expected = by_numpy(update)
    equal(train(section(ADAFACTOR, update_clip=0.9, beta2=0.4)), expected, rtol=1e-4)


@pytest.mark.usefixtures("factored_from_8")
@pytest.mark.parametrize("beta1", [0.9, 0.0])
def test_adafactor_on_matrices_equals_optax(beta1):
    plain = optax.adafactor(
        PEAK,
        min_dim_size_to_factor=8,
        multiply_by_parameter_scale=False,
        momentum=beta1 or None,
        dtype_momentum=jnp.bfloat16,
        eps=1e-12,
    )
    path = "encoder/table"
    param = jnp.asarray(flat_params()[path])
    state = plain.init(param)
    for step in range(STEPS):
        updates, state = plain.update(jnp.asarray(grads_of(step)[path]), state, param)
        param = optax.apply_updates(param, updates)
    ours = train(section(ADAFACTOR, beta1=beta1, weight_decay=0.0))[path]
    # Optax rounds the average after the rate has multiplied it.
    np.testing.assert_allclose(ours, param, rtol=0, atol=0.004 * PEAK * STEPS)
    assert np.abs(ours - flat_params()[path]).mean() > 0.1 * PEAK


def test_adafactor_keeps_a_quarter_of_the_bytes_of_adam():
    """Of the matrices of ELECTRA's small model, attention kernels included; nothing of them without beta1."""
    shapes = {
        "encoder/layer_0/query/kernel": (256, 4, 64),
        "encoder/layer_0/output/kernel": (1024, 256),
        "encoder/table": (30522, 128),
    }
    params = tree_of_shapes(shapes)
    num_weights = sum(np.prod(shape) for shape in shapes.values())

    def bytes_per_weight(**changes):
        optimizers, _ = make_optimizers(
            section(groups=((".*", 1.0, 1.0),), **changes), 10, params, (Phase("all", ("encoder",), None),)
        )
        state = jax.eval_shape(optimizers["all"].init, params)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) / num_weights

    assert bytes_per_weight(name="adamw") == pytest.approx(8, abs=0.01)
    assert bytes_per_weight(name=ADAFACTOR) == pytest.approx(2, abs=0.05)
    assert bytes_per_weight(name=ADAFACTOR, beta1=0.0) == pytest.approx(0, abs=0.05)


def tree_of_shapes(shapes):
    return unflatten_dict(
        {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes.items()}, sep="/"
    )


@pytest.mark.usefixtures("factored_from_8")
def test_adafactor_on_a_mesh_is_that_of_one_device():
    _, expected = run(ADAFACTOR, (1, 1, 1), 3)
    _, state = run(ADAFACTOR, (2, 2, 2), 3)
    for ours, theirs in zip(*(jax.tree.leaves(one.params) for one in (state, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    specs = {path: leaf.sharding.spec for path, leaf in flatten_dict(state.params, sep="/").items()}
    found = {path: [] for path in SHAPES}
    for place, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state):
        for path in SHAPES:
            if jax.tree_util.keystr(place, simple=True, separator="/").endswith(path):
                found[path].append(leaf)
    for path, (shape, _) in SHAPES.items():
        whole = [leaf for leaf in found[path] if leaf.shape == shape]
        assert all(leaf.sharding.spec == specs[path] for leaf in whole)
        assert all(leaf.sharding.is_fully_replicated for leaf in found[path] if leaf.shape != shape)
        is_factored = path != "head/kernel" and len(shape) > 1  # which has fewer than eight columns
        assert len(whole) == (1 if is_factored else 2)


@pytest.mark.usefixtures("factored_from_8")
def test_a_run_resumes_bit_for_bit(tmp_path):
    check_resumes(ADAFACTOR, tmp_path)
