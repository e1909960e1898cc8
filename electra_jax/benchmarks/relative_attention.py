"""One layer of disentangled attention, by gather, by skew and in kernels, compared with plain
attention; forward and backward.

Shapes: B batch, L length of queries, M of keys (equal to L), D hidden, H heads, K head dim, R rows of the
relative table, or in `gathered_positions` those that a row of L tokens can reach.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from electra_jax.benchmarks.timing import Contestant, time_in_turns
from electra_jax.benchmarks.training_step import SPECIAL, Metrics, random_rows
from electra_jax.models.attention import SelfAttention
from electra_jax.models.attention_form import has_kernels
from electra_jax.models.config import EncoderConfig
from electra_jax.models.disentangled_attention import DisentangledSelfAttention, RelativeRows
from electra_jax.models.inputs import derive_inputs
from electra_jax.models.layers import einsum_f32
from electra_jax.training.state import unbox


def gathered_positions(
    query_BLHK: jax.Array,
    key_BMHK: jax.Array,
    query_RHK: jax.Array,
    key_RHK: jax.Array,
    rows: RelativeRows,
    dtype: str,
) -> jax.Array:
    """The two position terms [B, H, L, M] as the equations say: multiply by every row of the table, then pick
    by index."""
    length = query_BLHK.shape[1]
    index_LM = rows.matrix(length)

    def pick(scores_BHLR, index):
        return jnp.take_along_axis(
            scores_BHLR, jnp.broadcast_to(index, (*scores_BHLR.shape[:2], length, length)), axis=-1
        )

    content_to_position_BHLM = pick(einsum_f32("BLHK,RHK->BHLR", dtype, query_BLHK, key_RHK), index_LM)
    position_to_content_BHML = pick(einsum_f32("BMHK,RHK->BHMR", dtype, key_BMHK, query_RHK), index_LM.T)
    return content_to_position_BHLM + position_to_content_BHML.swapaxes(-1, -2)


class GatheredSelfAttention(DisentangledSelfAttention):
    """The same layer, computed by `gathered_positions`: slower, and the reference in tests."""

    position_terms = staticmethod(gathered_positions)


LAYERS: dict[str, Callable[..., nn.Module]] = {
    "plain": SelfAttention,
    "skew": DisentangledSelfAttention,
    "gather": GatheredSelfAttention,
    "pallas": functools.partial(DisentangledSelfAttention, form="pallas"),
}


def layers_for(device: jax.Device) -> list[str]:
    """Those of LAYERS that the device can compute."""
    return [form for form in LAYERS if form != "pallas" or has_kernels(device)]


def compare_attention(
    encoder: EncoderConfig, *, batch_size: int, length: int, rounds: int, steps: int
) -> Metrics:
    """Median milliseconds and temporary MiB of `layers_for` this device, and gather's time ÷ skew's."""
    figures: Metrics = {}
    contestants = []
    for form in layers_for(jax.devices()[0]):
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

    `form` is a key of LAYERS; "plain" scores content alone. Dropout is on, as in training.
    """
    ids_BL = random_rows(encoder.vocab_size, batch_size, length)
    layer = LAYERS[form](encoder, is_first_layer=False)
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
