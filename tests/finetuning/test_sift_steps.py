"""Steps of fine-tuning with the scale-invariant penalty: what it adds, any mesh, and steps without it."""

import dataclasses
import types

import jax
import numpy as np
import optax
import pytest

from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context, replicated
from electra_jax.finetuning.sift import sift_penalty
from electra_jax.finetuning.trainer import Trainer
from support.tiny import SPECIAL, key
from support.tiny_sift import PUBLISHED, TASK_TYPES, toy_batch
from support.tiny_task import ONE, encoder_config, make_settings, make_type, predict, task_examples


def make_trainer(family, task_type, mesh=None, **sift):
    """A trainer with dropout everywhere. Its updates read the gradients alone, and compile at once."""
    config = make_settings(task_type)
    config["model"]["head_dropout"] = 0.1
    config["sift"] |= sift
    encoder = dataclasses.replace(
        encoder_config(family), num_layers=1, hidden_dropout=0.1, attention_dropout=0.1
    )
    mesh = mesh or make_mesh(ONE, jax.devices()[:1])
    trainer = Trainer(encoder, SPECIAL, make_type(task_type), config, 64, mesh)
    trainer.optimizer = optax.sgd(0.1)
    return trainer


def first_step(trainer, batch, step=None):
    """(parameters after the step, its loss)."""
    with axis_context(trainer.mesh):
        params = jax.device_put(trainer.init_params(key()), replicated(trainer.mesh))
        state = jax.device_put(trainer.optimizer.init(params), replicated(trainer.mesh))
        params, _, value = (step or trainer.train_step)(params, state, trainer.place(batch), key(7))
    return jax.device_get(params), float(value)


@pytest.mark.parametrize("family", ["electra", "deberta"])
def test_with_weight_zero_a_step_is_the_ordinary_one(family):
    batch, trainer = toy_batch("classification"), make_trainer(family, "classification")
    task_type = make_type("classification")

    def ordinary(params, state, batch, key):
        def loss(params):
            outputs = trainer.model.apply(
                {"params": params},
                batch.ids_BL,
                True,
                batch.labels,
                packed=batch.packed,
                rngs={"dropout": key},
            )
            return task_type.loss(outputs, batch.labels, batch.is_scored, batch.ids_BL, SPECIAL)

        value, grads = jax.value_and_grad(loss)(params)
        updates, state = trainer.optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    params, value = first_step(trainer, batch)
    expected_params, expected = first_step(trainer, batch, jax.jit(ordinary, donate_argnums=(0, 1)))
    assert value == expected
    jax.tree.map(np.testing.assert_array_equal, params, expected_params)
    arguments = (
        expected_params,
        jax.eval_shape(trainer.optimizer.init, expected_params),
        batch._replace(indices_B=None),
        key(),
    )
    steps = (trainer.train_step.__wrapped__, ordinary)
    programs = [str(jax.make_jaxpr(step)(*arguments)) for step in steps]
    assert programs[0] == programs[1]  # nothing is computed in vain


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "task_type"),
    [*(("deberta", task_type) for task_type in TASK_TYPES), ("electra", "question_answering")],
)
def test_a_step_adds_the_penalty(family, task_type):
    batch, trainer = toy_batch(task_type), make_trainer(family, task_type, vat_lambda=5.0)
    start, placed = trainer.init_params(key()), trainer.place(batch)

    def parts(params):
        outputs = trainer.model.apply(
            {"params": params},
            batch.ids_BL,
            True,
            batch.labels,
            packed=placed.packed,
            rngs={"dropout": key(7)},
        )
        penalty = sift_penalty(
            trainer.model, params, placed, outputs, PUBLISHED, jax.random.fold_in(key(7), 1)
        )
        loss = make_type(task_type).loss(outputs, batch.labels, batch.is_scored, batch.ids_BL, SPECIAL)
        return loss, penalty

    loss, penalty = jax.jit(parts)(start)
    assert np.isfinite(penalty) and penalty > 0
    params, value = first_step(trainer, batch)
    np.testing.assert_allclose(value, loss + 5 * penalty, rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    assert any(
        (leaf != before).any()
        for leaf, before in zip(jax.tree.leaves(params), jax.tree.leaves(start), strict=True)
    )


@pytest.mark.slow
def test_any_mesh_makes_the_same_step():
    batch, meshes = (
        toy_batch("classification"),
        (make_mesh(ONE, jax.devices()[:1]), make_mesh(ONE | {"data": 8})),
    )
    (params, value), (many_params, many_value) = (
        first_step(make_trainer("electra", "classification", mesh, vat_lambda=5.0), batch) for mesh in meshes
    )
    np.testing.assert_allclose(value, many_value, rtol=1e-5)
    jax.tree.map(lambda one, many: np.testing.assert_allclose(one, many, atol=2e-4), params, many_params)


@pytest.mark.slow
def test_a_task_is_learnt_with_it():
    train, held_out = task_examples("classification", 600, 0), task_examples("classification", 101, 1)
    config = make_settings("classification")
    config["sift"]["vat_lambda"] = 5.0
    encoder = types.SimpleNamespace(config=encoder_config("electra"), special=SPECIAL, params=None)
    predictions = predict(encoder, "classification", config, train, held_out)
    assert np.mean(np.equal(predictions, [example.label for example in held_out])) > 0.95
