"""The adversarial generator's gradient: exact, by enumeration of all samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from electra_jax.models.ablations import AdversarialModel
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.inputs import derive_inputs
from electra_jax.objectives.adversarial import baseline_loss, reinforce_loss
from electra_jax.objectives.corruption import MaskedBatch
from support.tiny import SPECIAL
from support.tiny_ablations import O0, VOCAB, full_config, loss_of, make, random_params

P, V = 2, 5


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.0, 3.0))
def test_the_expected_gradient_is_that_of_the_expected_reward_for_any_baseline(seed, scale):
    rng = np.random.default_rng(seed)
    logits = jnp.asarray(scale * rng.normal(size=(P, V)), jnp.float32)
    reward, baseline, weights = (
        rng.exponential(size=(P, V)),
        5.0 * rng.normal(size=(1, P)),
        rng.random((1, P)),
    )
    log_probability = jax.nn.log_softmax(logits)
    samples = np.stack(np.meshgrid(*[np.arange(V)] * P, indexing="ij"), -1).reshape(
        -1, P
    )  # all of them, [Vᴾ, P]
    probability = np.exp(np.asarray(log_probability))[np.arange(P), samples].prod(-1)

    def expected_loss(logits):
        nll = -jax.nn.log_softmax(logits)[np.arange(P), samples]
        return reinforce_loss(
            nll,
            jnp.asarray(reward[np.arange(P), samples]),
            jnp.asarray(baseline),
            jnp.asarray(weights * probability[:, None]),
        )

    def exact(logits):  # the generator is to maximise it
        return -(weights[0] * (jax.nn.softmax(logits) * reward).sum(-1)).sum()

    ours, wanted = jax.grad(expected_loss)(logits), jax.grad(exact)(logits)
    np.testing.assert_allclose(ours, wanted, atol=2e-5)
    # The term of the baseline is 0 in expectation: it adds no bias.
    assert (
        np.abs(
            np.asarray(
                jax.grad(
                    lambda logits: reinforce_loss(
                        -jax.nn.log_softmax(logits)[np.arange(P), samples],
                        jnp.zeros(samples.shape),
                        jnp.asarray(baseline),
                        jnp.asarray(weights * probability[:, None]),
                    )
                )(logits)
            )
        ).max()
        < 2e-5
    )


def test_the_best_baseline_is_the_average_probability_of_the_right_answer():
    reward = np.random.default_rng(0).exponential(size=(1, 50)).astype(np.float32)
    weights = np.ones_like(reward)
    best = np.exp(-reward).mean()
    gradient = jax.grad(
        lambda x: baseline_loss(jnp.full(reward.shape, x), jnp.asarray(reward), jnp.asarray(weights))
    )
    np.testing.assert_allclose(gradient(jnp.float32(np.log(best / (1 - best)))), 0.0, atol=1e-5)
    np.testing.assert_allclose(gradient(jnp.float32(0.3)), (expit(0.3) - np.exp(-reward)).sum(), rtol=1e-5)
    assert not np.any(
        jax.grad(lambda r: baseline_loss(jnp.zeros(r.shape), r, jnp.asarray(weights)))(jnp.asarray(reward))
    )


@pytest.fixture(scope="module")
def enumerated():
    """(objective, parameters, a batch with a row for each token that may be drawn at one position, weighted
    by its probability, and the model's outputs on it)."""
    # Without chunks a sample is the inverse CDF of its uniform number.
    objective = make("adversarial", disc_weight=0.0, gen_weight=1.0, vocab_chunk_size=0)
    params = random_params(objective)
    model = AdversarialModel(make_pretraining_config(full_config("adversarial")["model"]))
    ids = np.tile([1, 9, 8, 30, 40, 2, 0, 0], (VOCAB, 1))
    inputs = derive_inputs(jnp.asarray(ids), SPECIAL, 2)
    masked, positions = ids.copy(), np.full((VOCAB, 1), 3)
    masked[:, 3] = SPECIAL.mask
    apply = lambda params, method, *more: model.apply(
        {"params": params}, *more, is_training=False, method=method
    )

    def log_probability(params):
        logits, baseline = apply(
            params, "generate_with_baseline", masked[:1], jax.tree.map(lambda x: x[:1], inputs), positions[:1]
        )
        return jax.nn.log_softmax(logits.x_BPE @ logits.table_VE.T + logits.bias_V[None, None])[
            0, 0
        ], baseline

    probability = np.exp(np.asarray(jax.jit(log_probability, compiler_options=O0)(params)[0], np.float64))
    middles = np.cumsum(probability) - probability / 2  # each draws its own token
    batch = MaskedBatch(
        jnp.asarray(ids),
        inputs,
        jnp.asarray(masked),
        jnp.asarray(positions),
        jnp.asarray(ids[:, 3:4]),
        jnp.asarray(probability[:, None], jnp.float32),
        jnp.asarray(middles[:, None], jnp.float32),
    )
    corrupted = ids.copy()
    corrupted[:, 3] = np.arange(VOCAB)
    detect = jax.jit(
        lambda params: apply(params, "discriminate", jnp.asarray(corrupted), inputs), compiler_options=O0
    )
    logits = np.asarray(detect(params))[:, 3]
    reward = np.logaddexp(0, logits) - logits * (corrupted[:, 3] != ids[:, 3])
    return objective, params, batch, log_probability, reward


def test_the_objective_has_the_exact_gradient_of_the_discriminators_loss(enumerated):
    objective, params, batch, log_probability, reward = enumerated
    assert reward.std() > 0.01
    (_, sums), ours = jax.jit(
        jax.value_and_grad(loss_of(objective, batch), has_aux=True), compiler_options=O0
    )(params)

    def expected_reward(params):
        logs, baseline = log_probability(params)
        return (jnp.exp(logs) * reward).sum(), (jnp.exp(logs), baseline)

    (_, (probability, baseline)), reward_gradient = jax.jit(
        jax.value_and_grad(expected_reward, has_aux=True), compiler_options=O0
    )(params)
    wanted = jax.tree.map(jnp.negative, reward_gradient)
    for module in ("generator", "generator_predictions"):
        for one, other in zip(jax.tree.leaves(ours[module]), jax.tree.leaves(wanted[module]), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted[module])) > 1e-3
    assert not any(
        np.any(leaf) for leaf in jax.tree.leaves([ours["discriminator"], ours["discriminator_predictions"]])
    )
    np.testing.assert_allclose(sums["reward"], (probability * reward).sum(), rtol=1e-5)
    np.testing.assert_allclose(sums["baseline"], np.logaddexp(0, -baseline).item(), rtol=1e-5)
    expected = (expit(baseline) - (probability * np.exp(-reward)).sum()).item()
    np.testing.assert_allclose(ours["generator_baseline"]["bias"], expected, rtol=1e-4, atol=1e-6)
