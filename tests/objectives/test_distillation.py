"""What students learn from teachers: losses against NumPy references, what has a gradient, and settings."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from electra_jax.models.config import make_pretraining_config
from electra_jax.models.inputs import derive_inputs
from electra_jax.models.pretraining import MaskedLanguageModel, PretrainingModel
from electra_jax.objectives.electra import electra_flops
from electra_jax.objectives.mlm import mlm_flops
from electra_jax.objectives.registry import forward_flops
from electra_jax.objectives.rtd import generator_loss
from electra_jax.objectives.soft_targets import hidden_distance
from support.tiny import LENGTH, SPECIAL, key, objective_section, rows
from support.tiny_ablations import O0, VOCAB, bce, full_config, loss_of, make, random_params
from support.tiny_teachers import SAME, WIDE, settings, teacher

CHANGES = {"mlm_weight": 0.25, "teacher_weight": 2.0, "teacher_temperature": 2.0, "hidden_weight": 3.0}
OF_RTD = {"teacher_weight": 0.5, "disc_weight": 4.0}


# Of the student, which has one token type where a teacher has two.
STUDENT = {"type_vocab_size": 1}
# Of a teacher, whose predictions have none of it, also where the student is trained with a key for dropout.
DROPOUT = {"hidden_dropout": 0.5, "attention_dropout": 0.5}


def wide_teacher(name):
    return teacher(name, WIDE, **DROPOUT)


@cache
def made(name, **changes):
    """(objective, parameters, batch) with a teacher of the student's width and one that is wider."""
    objective = make(name, "model", STUDENT, **settings(teacher(name), wide_teacher(name), **changes))
    batch = objective.prepare(key(1), jnp.asarray(rows(4, LENGTH, vocab_size=VOCAB)))
    return objective, random_params(objective), batch


def models_of(name):
    """config.model of the student and of its teachers."""
    return full_config(name, "model", STUDENT)["model"], teacher(name)["model"], wide_teacher(name)["model"]


def inputs_of(batch, config):
    return derive_inputs(batch.ids_BL, SPECIAL, config["type_vocab_size"])


@cache
def value_and_grads(name, **changes):
    """((loss, sums), gradients of all parameters, those of the teachers included)."""
    objective, params, batch = made(name, **changes)
    loss = loss_of(objective, batch, dropout_key=key(2))
    function = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=O0)
    return jax.device_get(function(params))


def of_teachers(params, models, run):
    return [run(model, params["teachers"][f"teacher_{i}"]) for i, model in enumerate(models)]


def views(name, params, batch):
    """(logits [B, P, V], states [B, L, D]) of the student and of each teacher, by the model alone."""

    def run(config, params):
        model = MaskedLanguageModel(make_pretraining_config(config))
        inputs = inputs_of(batch, config)
        apply = jax.jit(
            partial(model.apply, is_training=False, method="generate_with_states"),
            compiler_options=O0,
        )
        logits, states = apply({"params": params}, batch.masked_ids_BL, inputs, batch.positions_BP)
        x, table, bias = (np.float64(part) for part in logits)
        return x @ table.T + bias, np.float64(states)

    student, *teachers = models_of(name)
    own = {module: params[module] for module in ("embeddings", "generator", "generator_predictions")}
    return run(student, own), of_teachers(params, teachers, run)


def kl(q, log_p):
    return (q * (np.log(q) - log_p)).sum(-1)


def test_a_student_learns_the_mean_of_its_teachers():
    (value, sums), _ = value_and_grads("distillation", **CHANGES)
    _, params, batch = made("distillation", **CHANGES)
    (logits, states), teachers = views("distillation", params, batch)
    weights, targets = np.float64(batch.weights_BP), batch.targets_BP[..., None]
    of_targets = lambda values: np.take_along_axis(values, targets, -1)[..., 0]
    of_text = -(weights * of_targets(log_softmax(logits, -1))).sum()
    q = np.mean([softmax(one / 2.0, -1) for one, _ in teachers], 0)
    divergence = (weights * kl(q, log_softmax(logits / 2.0, -1))).sum()
    ensemble = np.mean([softmax(one, -1) for one, _ in teachers], 0)
    np.testing.assert_allclose(sums["mlm_nll"], of_text, rtol=2e-5)
    np.testing.assert_allclose(sums["teacher_kl"], divergence, rtol=2e-5)
    np.testing.assert_allclose(
        sums["teacher_nll"], -(weights * np.log(of_targets(ensemble))).sum(), rtol=2e-5
    )
    assert divergence > 1.0 and weights.sum() < weights.size  # unused slots do not count
    is_token, distance = np.asarray(batch.inputs.is_token_BL), 0.0
    for number, (_, theirs) in enumerate(teachers):
        one = params["hidden_maps"][f"teacher_{number}"]
        ours = states @ np.float64(one["kernel"]) + np.float64(one["bias"])
        distance += np.square(ours - theirs).mean(-1)[is_token].sum() / 2
    np.testing.assert_allclose(sums["hidden_distance"], distance, rtol=2e-5)
    expected = (0.25 * of_text + 2.0 * 2.0**2 * divergence) / weights.sum() + 3.0 * distance / is_token.sum()
    np.testing.assert_allclose(value, expected, rtol=2e-5)


def test_distances_of_states():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 2, 3, 8)).astype(np.float32)
    np.testing.assert_allclose(hidden_distance(one, other, "mse"), np.square(one - other).mean(-1), rtol=1e-5)
    cosine = (one * other).sum(-1) / (np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1))
    np.testing.assert_allclose(hidden_distance(one, other, "cosine"), 1 - cosine, rtol=1e-5)
    np.testing.assert_allclose(hidden_distance(one, 3 * one, "cosine"), 0, atol=1e-6)


def test_states_of_zeros_have_a_gradient():
    zeros = jnp.zeros((1, 1, 4))
    grad = jax.grad(lambda x: hidden_distance(x, zeros, "cosine").sum())(zeros)
    np.testing.assert_array_equal(grad, zeros)


def test_a_student_that_equals_its_teacher_has_nothing_to_learn_from_it():
    changes = {"mlm_weight": 0.0, "hidden_weight": 1.0}
    objective = make("distillation", **settings(teacher("mlm"), **changes))
    params = random_params(objective)
    batch = objective.prepare(key(1), jnp.asarray(rows(4, LENGTH, vocab_size=VOCAB)))
    assert "hidden_maps" not in params
    equal = params | {"teachers": {"teacher_0": {name: params[name] for name in objective.phases[0].trains}}}
    function = jax.jit(jax.value_and_grad(loss_of(objective, batch), has_aux=True), compiler_options=O0)
    (value, sums), grads = function(equal)
    np.testing.assert_allclose(value, 0.0, atol=1e-6)
    np.testing.assert_allclose(sums["teacher_nll"], sums["mlm_nll"], rtol=1e-6)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads)) < 1e-6
    (value, _), _ = function(params)  # of another teacher
    assert value > 0.01


@pytest.mark.parametrize(("name", "changes"), [("distillation", CHANGES), ("rtd_distillation", OF_RTD)])
def test_teachers_have_no_gradient(name, changes):
    objective, params, _ = made(name, **changes)
    _, grads = value_and_grads(name, **changes)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads["teachers"]))
    trained = {module for phase in objective.phases for module in phase.trains}
    assert objective.frozen == ("teachers",) and trained == set(params) - {"teachers"}
    for module in trained:
        assert any((leaf != 0).any() for leaf in jax.tree.leaves(grads[module])), module


def test_a_discriminator_learns_the_probabilities_of_its_teachers():
    (value, sums), _ = value_and_grads("rtd_distillation", **OF_RTD)
    _, params, batch = made("rtd_distillation", **OF_RTD)
    student, *teachers = models_of("electra")
    model = PretrainingModel(make_pretraining_config(student))
    section = objective_section("electra")
    generate = jax.jit(
        lambda params: generator_loss(model, section, params, batch, 1.0, None), compiler_options=O0
    )
    _, (_, corrupted) = generate(params)

    def run(config, params):
        model = PretrainingModel(make_pretraining_config(config))
        inputs = inputs_of(batch, config)
        apply = jax.jit(partial(model.apply, is_training=False, method="discriminate"), compiler_options=O0)
        return np.float64(apply({"params": params}, corrupted, inputs))

    logits = run(student, {module: params[module] for module in set(params) - {"teachers"}})
    labels = np.mean([1 / (1 + np.exp(-one)) for one in of_teachers(params, teachers, run)], 0)
    is_token = np.asarray(batch.inputs.is_token_BL)
    soft, hard = (
        (is_token * bce(logits, target)).sum() for target in (labels, np.asarray(corrupted != batch.ids_BL))
    )
    weights = np.float64(batch.weights_BP).sum()
    expected = sums["mlm_nll"] / weights + 4.0 * (hard + 0.5 * soft) / is_token.sum()
    np.testing.assert_allclose(value, expected, rtol=2e-5)
    np.testing.assert_allclose(sums["teacher_bce"], soft, rtol=2e-5)
    np.testing.assert_allclose(sums["rtd_bce"], hard, rtol=2e-5)


def test_flops_count_a_third_of_each_teacher():
    """A step is counted as three forward passes, of which a frozen model needs one."""
    full = full_config("distillation", **settings(teacher("mlm"), teacher("mlm", WIDE), hidden_weight=1.0))
    model, wide = (make_pretraining_config(one) for one in (full["model"], teacher("mlm", WIDE)["model"]))
    of_wide, own = (mlm_flops(one, LENGTH, full["objective"]) for one in (wide, model))
    maps = 2 * 16 * 16 + 2 * 16 * 32
    np.testing.assert_allclose(forward_flops(full, model), own + maps + (own + of_wide) / 3)
    full = full_config("rtd_distillation", **settings(teacher("electra")))
    detection = 8 * 16**2 + 4 * 16 * 64 + 4 * LENGTH * 16 + 2 * 16 * 16 + 2 * 16
    np.testing.assert_allclose(
        forward_flops(full, model), electra_flops(model, LENGTH, full["objective"]) + detection / 3
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"vocab_chunk_size": 16},
            r"vocab_chunk_size: got 16, expected 0 with config\.objective\.name='dist",
        ),
        ({"hidden_distance": "l1"}, r"hidden_distance: got 'l1', expected one of mse and cosine"),
        ({"mlm_weight": 0.0, "teacher_weight": 0.0}, r"got 0 for mlm_weight, .*: nothing would be learnt"),
        (
            {"teachers": ("a", "b")},
            r"teachers: got 2 teachers, but config\.objective\.teacher_models describes 1",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make("distillation", **settings(teacher("mlm", SAME), **changes))


def test_without_teachers_there_is_the_student_alone():
    """As readers of a run need it."""
    for name, plain in (("distillation", "mlm"), ("rtd_distillation", "electra")):
        one, other = (jax.eval_shape(partial(make(which).init, key(), LENGTH)) for which in (name, plain))
        assert jax.tree.structure(one) == jax.tree.structure(other)
        assert make(name).frozen == ()
