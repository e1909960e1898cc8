"""The comparison of the two token tables against NumPy, for every way of sharing them."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from electra_jax.training.embedding_tables import table_comparison
from support.tiny import LENGTH, deberta, deberta_section, electra, key


def params_of(objective):
    return jax.jit(lambda: nn.meta.unbox(objective.init(key(), LENGTH)))()


def test_gdes_starts_with_equal_embeddings():
    params = params_of(deberta(deberta_section(embedding_sharing="gdes")))
    metrics = table_comparison(params)(params)
    assert metrics["embedding_cosine"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["embedding_norm_ratio"] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("sharing", ["gdes", "none"])
def test_cosine_and_ratio_are_those_of_the_tables(sharing):
    params = params_of(deberta(deberta_section(embedding_sharing=sharing)))
    table = params["discriminator_embeddings"]["word_embeddings"]
    name = "delta" if sharing == "gdes" else "embedding"
    rng = np.random.default_rng(0)
    table[name] = rng.normal(size=table[name].shape).astype(np.float32)
    metrics = table_comparison(params)(params)
    generator = np.asarray(params["generator_embeddings"]["word_embeddings"]["embedding"], np.float64)
    discriminator = table[name] + (generator if sharing == "gdes" else 0.0)
    norms = np.linalg.norm(generator, axis=1) * np.linalg.norm(discriminator, axis=1)
    expected = ((generator * discriminator).sum(1) / norms).mean()
    assert metrics["embedding_cosine"] == pytest.approx(expected, abs=1e-5)
    ratio = np.linalg.norm(discriminator) / np.linalg.norm(generator)
    assert metrics["embedding_norm_ratio"] == pytest.approx(ratio, rel=1e-5)


@pytest.mark.parametrize("objective", [electra(), deberta(deberta_section(embedding_sharing="tied"))])
def test_one_table_is_not_compared(objective):
    assert table_comparison(jax.eval_shape(lambda: params_of(objective))) is None
