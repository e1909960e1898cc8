"""How large initial values are, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from electra_jax.models.config import make_pretraining_config
from electra_jax.models.encoder import EncoderLayer
from electra_jax.models.initializers import kernel_initializer
from electra_jax.models.inputs import derive_inputs
from support.tiny import SPECIAL, key, model_section

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
