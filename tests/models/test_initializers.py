"""How large initial values are, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from electra_jax.models.config import make_pretraining_config
from electra_jax.models.encoder import EncoderLayer
from electra_jax.models.initializers import (
    kernel_initializer,
    last_kernel_initializer,
    table_initializer,
)
from electra_jax.models.inputs import derive_inputs
from support.tiny import SPECIAL, key, model_section, relative_section

WIDTH, HEADS, INNER = 128, 4, 192


def make_config(section=model_section, **changes):
    """An encoder so wide that the standard deviation of a kernel is within 1 % of what it is drawn with."""
    shape = {"hidden_size": WIDTH, "num_heads": HEADS, "intermediate_size": INNER, "num_layers": 1}
    model = section(embedding_size=WIDTH, generator=shape, discriminator=shape) | changes
    return make_pretraining_config(model).discriminator


def kernels_of_layer(config):
    """Kernels of a layer that is not the first, by the name of their module."""
    ids, x_BLD = jnp.asarray([[1, 9, 2]]), jnp.zeros((1, 3, WIDTH))
    init = lambda: EncoderLayer(config, is_first_layer=False).init(
        key(), x_BLD, derive_inputs(ids, SPECIAL, 2), False
    )
    layer = nn.meta.unbox(jax.jit(init)())["params"]
    attention = {f"attention {name}": module["kernel"] for name, module in layer["attention"].items()}
    return attention | {name: layer[name]["kernel"] for name in ("intermediate", "output")}


def test_local_variance_is_one_by_the_fan_in_and_also_by_the_heads_in_queries_keys_and_values():
    config = make_config(initializer="local")
    sizes = {name: np.std(kernel) for name, kernel in kernels_of_layer(config).items()}
    for role in ("query", "key", "value"):
        assert sizes.pop(f"attention {role}") * np.sqrt(HEADS * WIDTH) == pytest.approx(1.0, abs=0.02)
    fan_in = {"attention output": WIDTH, "intermediate": WIDTH, "output": INNER}
    assert sizes.keys() == fan_in.keys()
    for name, size in sizes.items():
        assert size * np.sqrt(fan_in[name]) == pytest.approx(1.0, abs=0.02)
    # DeBERTa's convolution: taps, features, features.
    kernel_TDF = kernel_initializer(config)(key(), (3, WIDTH, WIDTH))
    assert np.std(kernel_TDF) * np.sqrt(3 * WIDTH) == pytest.approx(1.0, abs=0.02)


def drawn(config):
    """A table and a last kernel, larger than in any model, as they are drawn for this one."""
    shape = (WIDTH, 4 * WIDTH)
    return table_initializer(config)(key(), shape), last_kernel_initializer(config)(key(), shape)


def test_mcl_draws_a_plain_normal_and_electra_a_truncated_one_and_glorots():
    # init_bert_params in microsoft/COCO-LM: normal_(mean=0.0, std=0.02) for all nn.Linear and nn.Embedding.
    for values in drawn(make_config(relative_section)):
        assert np.std(values) == pytest.approx(0.02, rel=0.01)
        assert np.mean(np.abs(values) > 0.04) == pytest.approx(0.0455, abs=0.003)  # 2 · (1 − Φ(2))
    table, last = drawn(make_config())
    assert np.std(table) == pytest.approx(0.8796 * 0.02, rel=0.01) and np.abs(table).max() <= 0.04
    assert np.abs(last).max() == pytest.approx(np.sqrt(6 / (5 * WIDTH)), rel=0.01)  # uniform


def test_local_starts_mcl_as_electra():
    """Recorded curves of MCL were trained from these values."""
    for ours, electras in zip(
        drawn(make_config(relative_section, initializer="local")),
        drawn(make_config(initializer="local")),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, electras)
