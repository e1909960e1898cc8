"""The loss of a model that only counts tokens: against figures by hand, and whatever is masked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.corruption import MASKING, mask_tokens, never_masked
from electra_jax.training.unigram import unigram_cross_entropy, unigram_log_probabilities

SPECIAL = SpecialTokens(pad=0, cls=1, sep=2, mask=4, unk=3)


def test_frequencies_of_the_training_text_with_add_one_smoothing():
    """Six ids of which 0 and 3 are never masked: N = 5 + 2, V = 4."""
    log_q = unigram_log_probabilities(np.array([90, 5, 0, 90, 2, 0]), [0, 3])
    expected = [0, 6 / 11, 1 / 11, 0, 3 / 11, 1 / 11]
    np.testing.assert_allclose(np.exp(log_q), expected, rtol=1e-12)
    # Two of the masked tokens are id 1, one is id 5, which training text does not have. A model may have rows
    # beyond the tokenizer's ids.
    loss = unigram_cross_entropy(np.array([0.0, 2, 0, 0, 0, 1, 0, 0]), log_q)
    assert loss == pytest.approx(-(2 * np.log(6 / 11) + np.log(1 / 11)) / 3)
    assert np.isnan(unigram_cross_entropy(np.zeros(8), log_q))


@pytest.mark.parametrize("masking", MASKING)
def test_few_masked_tokens_give_the_loss_of_many(masking):
    """Its expectation does not depend on how many tokens are masked; that of their own entropy does."""
    rng = np.random.default_rng(0)
    frequencies = rng.dirichlet(np.full(500, 0.3))
    rows = 3 + rng.choice(500, size=(1024, 64), p=frequencies)  # [UNK], and [MASK] as rare text, among them
    rows[:, 0], rows[:, -1], rows[rows == SPECIAL.mask] = SPECIAL.cls, SPECIAL.sep, SPECIAL.unk
    training, held_out = np.split(rows, 2)
    ids = never_masked(masking, SPECIAL)
    log_q = unigram_log_probabilities(np.bincount(training.ravel(), minlength=503), ids)
    counts = np.bincount(held_out.ravel(), minlength=503)
    counts[ids] = 0
    expected = unigram_cross_entropy(counts, log_q)

    def masked(part):
        batch = mask_tokens(
            jax.random.key(1),
            jnp.asarray(part, jnp.int32),
            SPECIAL,
            masking=masking,
            mask_prob=0.15,
            mask_token_prob=1.0,
            type_vocab_size=1,
        )
        return np.bincount(batch.targets_BP.ravel(), weights=batch.weights_BP.ravel(), minlength=503)

    parts = [masked(part) for part in np.split(held_out, 32)]
    losses = [unigram_cross_entropy(part, log_q) for part in parts]
    assert np.isfinite(losses).all() and 100 < parts[0].sum() < 200
    assert np.mean(losses) == pytest.approx(expected, abs=0.06)
    shares = [part[part > 0] / part.sum() for part in parts]
    entropies = [-(share * np.log(share)).sum() for share in shares]
    assert np.mean(entropies) < expected - 0.5
