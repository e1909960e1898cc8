"""Disentangled attention in plain JAX: its two forms against each other, and the buckets of distances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from electra_jax.benchmarks.relative_attention import gathered_positions
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.disentangled_attention import log_bucket, relative_rows, skewed_positions
from support.tiny import deberta_section, key

DISENTANGLED = deberta_section()["disentangled"]


# Results of microsoft/DeBERTa's make_log_bucket_position.
def test_log_buckets_as_released():
    expected = {
        0: 0,
        1: 1,
        127: 127,
        128: 128,
        129: 129,
        130: 130,
        140: 137,
        150: 143,
        200: 169,
        300: 207,
        400: 233,
        500: 254,
        510: 255,
        511: 255,
        600: 270,
    }
    distances = np.array(list(expected))
    np.testing.assert_array_equal(log_bucket(distances, 256, 512), list(expected.values()))
    np.testing.assert_array_equal(log_bucket(-distances, 256, 512), [-bucket for bucket in expected.values()])
    config = make_pretraining_config(deberta_section()).generator.disentangled
    matrix = relative_rows(config, 5).matrix(5)
    # i − j from 0 down to −4, counted from the lowest reachable row.
    np.testing.assert_array_equal(matrix[0], [4, 3, 2, 1, 0])
    np.testing.assert_array_equal(matrix[:, 0], [4, 5, 6, 7, 8])


@pytest.mark.parametrize("length", [1, 2, 31, 128, 256, 300, 384])
@pytest.mark.parametrize("buckets", [32, 256])
def test_skew_equals_gather_in_value_and_gradient(length, buckets):
    config = make_pretraining_config(
        deberta_section(
            disentangled=DISENTANGLED | {"position_buckets": buckets, "max_relative_positions": 512}
        )
    ).generator.disentangled
    terms = relative_rows(config, length)
    shapes = [(2, length, 2, 8)] * 2 + [(terms.last - terms.first + 1, 2, 8)] * 2
    arguments = [jax.random.normal(key(i), shape) for i, shape in enumerate(shapes)]
    weights = jax.random.normal(key(9), (2, 2, length, length))
    results = {}
    for name, position_terms in (("skew", skewed_positions), ("gather", gathered_positions)):
        value = lambda *a: (position_terms(*a, terms, "float32") * weights).sum()
        results[name] = (
            position_terms(*arguments, terms, "float32"),
            jax.grad(value, argnums=(0, 1, 2, 3))(*arguments),
        )
    for skewed, gathered in zip(
        jax.tree.leaves(results["skew"]), jax.tree.leaves(results["gather"]), strict=True
    ):
        np.testing.assert_allclose(
            skewed, gathered, atol=1e-5 * max(1.0, float(jnp.abs(gathered).max())), rtol=0
        )
    query, keys, relative_query, relative_key = (np.asarray(a) for a in arguments)
    i, j = length - 1, length // 3
    row = terms.matrix(length)[i, j]
    by_hand = query[0, i, 1] @ relative_key[row, 1] + relative_query[row, 1] @ keys[0, j, 1]
    np.testing.assert_allclose(results["skew"][0][0, 1, i, j], by_hand, atol=1e-5)
