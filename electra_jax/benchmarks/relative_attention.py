"""One layer of disentangled attention, by gather and by skew, forward and backward, beside plain attention.

Shapes: B batch, L length, D hidden, R rows of the relative table.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from electra_jax.benchmarks.timing import Contestant, time_in_turns
from electra_jax.benchmarks.training_step import SPECIAL, Metrics, random_rows
from electra_jax.models.attention import SelfAttention
from electra_jax.models.config import ATTENTION_IMPLEMENTATIONS, EncoderConfig
from electra_jax.models.disentangled_attention import DisentangledSelfAttention
from electra_jax.models.inputs import derive_inputs
from electra_jax.training.state import unbox

FORMS = ("plain", *ATTENTION_IMPLEMENTATIONS)


def compare_attention(
    encoder: EncoderConfig, *, batch_size: int, length: int, rounds: int, steps: int
) -> Metrics:
    """Median milliseconds and temporary MiB of each of FORMS, and the ratio of gather's time to skew's."""
    figures: Metrics = {}
    contestants = []
    for form in FORMS:
        function, shapes = attention_gradient(encoder, form, batch_size, length)
        compiled = jax.jit(function).lower(*shapes).compile()
        figures[f"{form}_temporary_mib"] = compiled.memory_analysis().temp_size_in_bytes / 2**20
        contestants.append(Contestant(form, _call(compiled, jax.tree.map(_fill, shapes))))
    description = f"attention {batch_size}x{length}"
    seconds = time_in_turns(contestants, rounds=rounds, steps=steps, description=description)
    figures |= {f"{form}_milliseconds": 1e3 * float(np.median(times)) for form, times in seconds.items()}
    return figures | {"gather_over_skew": figures["gather_milliseconds"] / figures["skew_milliseconds"]}


def attention_gradient(
    encoder: EncoderConfig, form: str, batch_size: int, length: int
) -> tuple[Callable, tuple]:
    """(a function that computes the gradients of a layer's parameters and inputs, its arguments' shapes).

    `form` is "plain", which scores content alone, or one of ATTENTION_IMPLEMENTATIONS. Dropout is on, as in
    training.
    """
    ids_BL = random_rows(encoder.vocab_size, batch_size, length)
    if form == "plain":
        layer = SelfAttention(encoder, is_main_process=False)
    else:
        disentangled = dataclasses.replace(encoder.disentangled, implementation=form)
        layer = DisentangledSelfAttention(
            dataclasses.replace(encoder, disentangled=disentangled), is_main_process=False
        )
    x_BLD = jax.ShapeDtypeStruct((batch_size, length, encoder.hidden_size), encoder.dtype)
    table_RD = jax.ShapeDtypeStruct(
        (2 * encoder.disentangled.position_buckets, encoder.hidden_size), encoder.dtype
    )

    def arguments(x_BLD, table_RD):
        inputs = derive_inputs(jnp.asarray(ids_BL), SPECIAL, 0)
        return (x_BLD, inputs, True) if form == "plain" else (x_BLD, x_BLD, table_RD, inputs, True)

    def init(x_BLD, table_RD):
        key = jax.random.key(0)
        return unbox(layer.init({"params": key, "dropout": key}, *arguments(x_BLD, table_RD))["params"])

    def loss(params, x_BLD, table_RD, seed):
        y_BLD = layer.apply(
            {"params": params}, *arguments(x_BLD, table_RD), rngs={"dropout": jax.random.key(seed)}
        )
        return jnp.square(y_BLD.astype(jnp.float32)).sum()

    params = jax.eval_shape(init, x_BLD, table_RD)
    return jax.grad(loss, argnums=(0, 1, 2)), (params, x_BLD, table_RD, jax.ShapeDtypeStruct((), jnp.int32))


def _fill(shape: jax.ShapeDtypeStruct) -> jax.Array:
    """Small random numbers; 0 for the seed, an integer."""
    return (0.05 * jax.random.normal(jax.random.key(0), shape.shape)).astype(shape.dtype)


def _call(compiled: Callable, arguments: tuple) -> Callable[[], object]:
    return lambda: jax.block_until_ready(compiled(*arguments))
