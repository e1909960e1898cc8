"""The hashed dropout masks behave like independent coin flips."""

import jax
import numpy as np
import pytest

from electra_jax.models.dropout import keep_mask


def draw(seed, keep_prob=0.9, shape=(64, 128, 96)):
    return np.asarray(keep_mask(jax.random.key(seed), keep_prob, shape))


@pytest.mark.parametrize("keep_prob", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2), (0, 2), (0, 1), (2,)])
def test_rates_are_binomial_along_every_axis(keep_prob, axes):
    kept = draw(3, keep_prob)
    count = np.prod([kept.shape[axis] for axis in axes])
    z = (kept.mean(axis=axes) - keep_prob) / np.sqrt(keep_prob * (1 - keep_prob) / count)
    # For independent flips, z has variance 1 and no outliers.
    assert np.abs(z).max() < 5.5
    if z.size > 60:
        assert abs(np.square(z).mean() - 1) < 6 * np.sqrt(2 / z.size)


@pytest.mark.parametrize(
    "shift", [(0, 0, 1), (0, 0, 2), (0, 0, 32), (0, 1, 0), (0, 2, 0), (1, 0, 0), (0, 1, 1), (1, 1, -1)]
)
def test_neighbours_are_uncorrelated(shift):
    kept = draw(5).astype(np.float64) - 0.9
    correlation = (kept * np.roll(kept, shift, axis=(0, 1, 2))).mean() / (0.9 * 0.1)
    assert abs(correlation) < 5 / np.sqrt(kept.size)


def test_keys_and_their_descendants_draw_different_masks():
    keys = [
        jax.random.key(0),
        jax.random.key(1),
        *(jax.random.fold_in(jax.random.key(0), i) for i in range(6)),
    ]
    masks = [np.asarray(keep_mask(key, 0.5, (256, 256))).astype(np.float64) - 0.5 for key in keys]
    for i, first in enumerate(masks):
        for second in masks[:i]:
            assert abs((first * second).mean() / 0.25) < 5 / 256


def test_a_mask_is_a_function_of_key_and_shape():
    np.testing.assert_array_equal(draw(7), draw(7))
    np.testing.assert_array_equal(
        draw(7), jax.jit(lambda: keep_mask(jax.random.key(7), 0.9, (64, 128, 96)))()
    )
    assert draw(7, 1.0).mean() > 0.999_999
