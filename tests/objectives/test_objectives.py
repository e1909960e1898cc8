"""Masking, sampling and losses against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from electra_jax.models.config import encoder_shape
from electra_jax.objectives.corruption import mask_tokens, max_predictions_per_seq, write_tokens
from electra_jax.objectives.rtd import rtd_loss
from electra_jax.objectives.vocabulary import sample_tokens
from electra_jax.training.state import unbox
from support.tiny import LENGTH, SPECIAL, electra, key, mlm, model_section, rows


def masked(ids, seed=0, mask_prob=0.15, mask_token_prob=0.85):
    return mask_tokens(
        key(seed),
        jnp.asarray(ids),
        SPECIAL,
        masking="uniform",
        mask_prob=mask_prob,
        mask_token_prob=mask_token_prob,
        type_vocab_size=2,
    )


# Reference values of google-research/electra's configure_pretraining.py.
@pytest.mark.parametrize("mask_prob, length, expected", [(0.15, 128, 19), (0.15, 512, 79), (0.25, 512, 130)])
def test_max_predictions(mask_prob, length, expected):
    assert max_predictions_per_seq(mask_prob, length) == expected


def test_number_of_predictions_follows_the_papers_rule():
    ids = np.zeros((40, 128), np.int32)
    for row, length in enumerate(range(3, 123, 3)):
        ids[row, :length] = 50
        ids[row, [0, length - 1]] = 1, 2
    batch = masked(ids)
    lengths = (ids != 0).sum(1)
    candidates = (ids == 50).sum(1)
    expected = np.minimum(np.clip(np.round(lengths * 0.15), 1, 19), candidates)
    np.testing.assert_array_equal(batch.weights_BP.sum(1), expected)


def test_masking_touches_only_candidates_and_never_one_twice():
    ids = rows(64, length=64, seed=1)
    batch = jax.device_get(masked(ids))
    for row in range(len(ids)):
        chosen = batch.positions_BP[row][batch.weights_BP[row] > 0]
        assert len(set(chosen)) == len(chosen)
        assert not set(ids[row, chosen]) & {0, 1, 2, 4}
        np.testing.assert_array_equal(batch.targets_BP[row][batch.weights_BP[row] > 0], ids[row, chosen])
        untouched = np.setdiff1d(np.arange(64), chosen)
        np.testing.assert_array_equal(batch.masked_ids_BL[row, untouched], ids[row, untouched])
        assert all(
            new in (old, SPECIAL.mask) for new, old in zip(batch.masked_ids_BL[row], ids[row], strict=True)
        )


def test_share_of_mask_tokens():
    ids = np.full((400, 128), 50, np.int32)
    batch = masked(ids)
    share = (np.asarray(batch.masked_ids_BL) == SPECIAL.mask).sum() / np.asarray(batch.weights_BP).sum()
    assert abs(share - 0.85) < 0.02  # five standard deviations of 7,600 draws


def test_positions_are_uniform():
    ids = np.full((4000, 20), 50, np.int32)
    batch = masked(ids)
    counts = np.bincount(np.asarray(batch.positions_BP).ravel(), minlength=20)
    expected = counts.sum() / 20
    assert ((counts - expected) ** 2 / expected).sum() < 43.8  # chi-square, 19 degrees of freedom, p = 0.001


def test_samples_follow_the_softmax_with_temperature():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=300).astype(np.float32) * 2
    draws = 200_000
    uniforms = jax.random.uniform(key(3), (1, draws))
    samples = np.asarray(
        jax.lax.map(
            lambda u: sample_tokens(jnp.broadcast_to(jnp.asarray(logits), (1, u.size, 300)), u[None], 1.7)[0],
            uniforms.reshape(40, -1),
        )
    ).ravel()
    probabilities = np.exp(logits / 1.7) / np.exp(logits / 1.7).sum()
    counts = np.bincount(samples, minlength=300)
    statistic = ((counts - draws * probabilities) ** 2 / (draws * probabilities)).sum()
    assert statistic < 382  # chi-square, 299 degrees of freedom, p = 0.001


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1.0 - 2**-24])
def test_samples_never_have_probability_zero(uniform):
    logits = np.full((1, 1, 300), -np.inf, np.float32)
    logits[0, 0, 7] = 0.0
    assert int(sample_tokens(jnp.asarray(logits), jnp.full((1, 1), uniform), 1.0)[0, 0]) == 7


def test_unused_slots_write_nothing():
    ids = jnp.asarray([[5, 6, 7]])
    out = write_tokens(ids, jnp.asarray([[0, 2]]), jnp.asarray([[9, 8]]), jnp.asarray([[0.0, 1.0]]))
    np.testing.assert_array_equal(out, [[5, 6, 8]])


def test_rtd_loss_against_torch():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 6)).astype(np.float32) * 3
    labels, real = rng.random((4, 6)) < 0.3, rng.random((4, 6)) < 0.8
    value, sums = rtd_loss(
        jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(real), jnp.float32(real.sum())
    )
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(logits)[torch.from_numpy(real)],
        torch.from_numpy(labels.astype(np.float32))[torch.from_numpy(real)],
    )
    np.testing.assert_allclose(value, expected.item(), rtol=1e-6)
    assert float(sums["rtd_histogram"].sum()) == real.sum()
    assert float(sums["rtd_true_positive"]) == ((logits > 0) & labels & real).sum()


@pytest.mark.parametrize("make", [electra, mlm])
def test_losses_of_microbatches_add_up(make):
    objective = make()
    params = jax.jit(lambda: unbox(objective.init(key(), LENGTH)))()
    batch = jax.jit(objective.prepare)(key(1), jnp.asarray(rows(8)))
    normalizers = objective.normalizers(batch)
    loss = jax.jit(lambda rows: objective.phases[0].loss(params, rows, normalizers, None, None))
    whole, sums = loss(batch)
    parts = [loss(jax.tree.map(lambda x, i=i: x[i : i + 2], batch)) for i in range(0, 8, 2)]
    np.testing.assert_allclose(whole, sum(value for value, _ in parts), rtol=1e-6)
    np.testing.assert_allclose(sums[0]["mlm_nll"], sum(part["mlm_nll"] for _, (part, _) in parts), rtol=1e-6)


def test_discriminator_loss_does_not_train_the_generator():
    objective = electra(gen_weight=0.0)
    params = jax.jit(lambda: unbox(objective.init(key(), LENGTH)))()
    batch = jax.jit(objective.prepare)(key(1), jnp.asarray(rows(8)))
    loss = lambda p: objective.phases[0].loss(p, batch, objective.normalizers(batch), None, None)[0]
    grads = jax.jit(jax.grad(loss))(params)
    size = lambda name: sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(grads[name]))
    assert size("generator") == size("generator_predictions") == 0.0
    assert size("discriminator") > 0 and size("embeddings") > 0


def test_bfloat16_computes_nearly_the_same_loss_and_gradient():
    ids = jnp.asarray(rows(8))
    value = {}
    for dtype in ("float32", "bfloat16"):
        one_layer = encoder_shape(32, 1) | {"num_heads": 4}
        model = model_section(dtype=dtype, hidden_dropout=0.1, attention_dropout=0.1, discriminator=one_layer)
        objective = electra(model)
        # Jitted as wholes, or every operation would be compiled separately.
        params = jax.jit(lambda objective=objective: unbox(objective.init(key(0), ids.shape[1])))()
        batch = jax.jit(objective.prepare)(key(1), ids)
        loss = lambda params: objective.phases[0].loss(
            params, batch, objective.normalizers(batch), key(2), None
        )[0]
        value[dtype] = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(value["bfloat16"][0], value["float32"][0], rtol=5e-3)
    for exact, rounded in zip(
        *(jax.tree.leaves(value[dtype][1]) for dtype in ("float32", "bfloat16")), strict=True
    ):
        assert rounded.dtype == np.float32
        np.testing.assert_allclose(rounded, exact, atol=0.1 * np.abs(exact).max() + 1e-6)
