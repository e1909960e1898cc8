"""Programs for TPUs have no barriers, which would keep the compiler from fusing."""

import contextlib

import jax
import jax.numpy as jnp
import pytest

from electra_jax.models.config import make_pretraining_config
from electra_jax.models.encoder import EncoderLayer
from support.attention_cases import equations, packed_inputs, shapes_of_params
from support.tiny import key, model_section


def count_barriers():
    """Barriers in a layer of ELECTRA with dropout and in its gradients."""
    section = model_section(hidden_dropout=0.1, attention_dropout=0.1)
    config = make_pretraining_config(section).discriminator
    layer, inputs = EncoderLayer(config, is_first_layer=False), packed_inputs(2, 32)
    x_BLD = jnp.zeros((2, 32, config.hidden_size))
    params = shapes_of_params(layer, x_BLD, inputs, False)
    rngs = {"dropout": key()}
    gradients = jax.grad(
        lambda params, x_BLD: layer.apply(params, x_BLD, inputs, True, rngs=rngs).sum(), (0, 1)
    )
    jaxpr = jax.make_jaxpr(gradients)(params, x_BLD).jaxpr
    return sum(one.primitive.name == "optimization_barrier" for one in equations(jaxpr))


def program_for(kind, platform):
    """The context in which programs are traced for a device of this kind."""
    if platform == "cpu":
        return contextlib.nullcontext()
    device = jax.sharding.AbstractDevice(kind, 1, platform)
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1,), ("data",), abstract_device=device))


@pytest.mark.parametrize(
    ("kind", "platform", "expected"),
    [("TPU v5 lite", "tpu", False), ("NVIDIA H100 80GB HBM3", "gpu", True), ("cpu", "cpu", True)],
    ids=["tpu", "gpu", "cpu"],
)
def test_all_programs_but_those_for_tpus_have_barriers(kind, platform, expected):
    with program_for(kind, platform):
        assert bool(count_barriers()) is expected
