"""z-loss: against NumPy, in chunks of the vocabulary, in the step's metrics, and nowhere without a weight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from electra_jax.objectives.base import EPSILON
from electra_jax.objectives.mlm import Z_LOSS_METRIC
from electra_jax.objectives.registry import OBJECTIVES, make_objective
from electra_jax.objectives.vocabulary import predict_with_log_total
from electra_jax.training.state import unbox
from support import tiny
from support.training_steps import config

B, P, E, V = 2, 5, 8, 300


@pytest.mark.parametrize("chunk_size", [0, 128])
def test_log_z_and_its_gradient_against_numpy(chunk_size):
    source = np.random.default_rng(0)
    x, table, bias = source.normal(size=(B, P, E)), source.normal(size=(V, E)), source.normal(size=V)
    targets, weights = source.integers(0, V, size=(B, P)), source.normal(size=(2, B, P))

    def loss(*operands):
        found = predict_with_log_total(
            *operands,
            targets,
            None,
            temperature=1.0,
            chunk_size=chunk_size,
            dtype="float32",
        )
        return (weights[0] * found.nll_BP + weights[1] * found.log_total_BP**2).sum(), found

    operands = [jnp.asarray(one, jnp.float32) for one in (x, table, bias)]
    gradients, found = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(*operands)
    logits = np.einsum("bpe,ve->bpv", x, table) + bias
    log_total = np.log(np.exp(logits).sum(-1))
    softmax, is_target = np.exp(logits - log_total[..., None]), np.eye(V)[targets]
    np.testing.assert_allclose(found.log_total_BP, log_total, rtol=1e-5)
    of_logits = weights[0][..., None] * (softmax - is_target)
    of_logits += (2 * weights[1] * log_total)[..., None] * softmax
    expected = (
        np.einsum("bpv,ve->bpe", of_logits, table),
        np.einsum("bpv,bpe->ve", of_logits, x),
        of_logits.sum((0, 1)),
    )
    for ours, theirs in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4, rtol=1e-4)


def setup(make, **changes):
    """(function of parameters and batch → loss and sums, parameters, batch), the last two as shapes."""
    objective = make(**changes)
    params = jax.eval_shape(lambda: unbox(objective.init(tiny.key(), tiny.LENGTH)))
    batch = jax.eval_shape(objective.prepare, tiny.key(), jnp.asarray(tiny.rows()))

    def loss(params, batch):
        value, (sums, _) = objective.phases[0].loss(params, batch, objective.normalizers(batch), None, None)
        return value, sums

    return loss, params, batch


@pytest.mark.parametrize(("name", "tasks"), [("electra", ["mlm"]), ("mlm", ["mlm"]), ("mcl", ["mlm", "slm"])])
def test_z_loss_is_summed_only_if_it_has_a_weight(name, tasks):
    make = {"electra": tiny.electra, "mlm": tiny.mlm, "mcl": tiny.mcl}[name]
    without, with_it = (
        jax.eval_shape(*setup(make, **changes))[1].keys() for changes in ({}, {"z_loss_weight": 0.1})
    )
    assert with_it - without == {f"{task}_z" for task in tasks}
    assert Z_LOSS_METRIC in OBJECTIVES[name].metrics and set(Z_LOSS_METRIC.sums) - without == {"mlm_z"}


def test_it_adds_the_weighted_mean_square_of_log_z_and_is_logged():
    objective = tiny.mlm()
    params = jax.jit(lambda: unbox(objective.init(tiny.key(), tiny.LENGTH)))()
    batch = jax.jit(objective.prepare)(tiny.key(1), jnp.asarray(tiny.rows()))
    value, _ = jax.jit(setup(tiny.mlm)[0])(params, batch)
    more, sums = jax.jit(setup(tiny.mlm, z_loss_weight=0.01)[0])(params, batch)
    added = sums["mlm_z"] / (sums["mlm_weight"] + EPSILON)
    assert float(more - value) == pytest.approx(0.01 * float(added), rel=1e-3)
    metric = Z_LOSS_METRIC.compute(jax.device_get(sums))["mlm_z_loss"]
    assert 25 < metric < 36  # log Z of 256 logits near 0 is 5.5


def test_an_objective_without_a_trained_generator_refuses_it():
    full = config()
    full["objective"] = tiny.objective_section("adversarial") | {"z_loss_weight": 1e-4}
    with pytest.raises(
        ValueError,
        match=r"^config\.objective\.z_loss_weight: got 0\.0001, expected 0: objective 'adversarial' with",
    ):
        make_objective(full, None, tiny.SPECIAL)
