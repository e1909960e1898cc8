"""What one layer of an encoder keeps for the backward pass, in bytes for each token; nothing is computed."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend.core import Var

from electra_jax.benchmarks.training_step import SPECIAL, random_rows
from electra_jax.models.config import EncoderConfig
from electra_jax.models.encoder import EncoderLayer
from electra_jax.models.inputs import derive_inputs
from electra_jax.models.modern_encoder import ModernLayer
from electra_jax.models.rotary import make_rotations


def kept_bytes(encoder: EncoderConfig, length: int, index: int = 1) -> float:
    """Bytes per token that differentiation of an unrolled layer stores, its input included, in training.

    The compiler may keep less. Arrays that do not grow with the number of rows, such as parameters, are not
    counted.

    Args:
      index: zero-based index of the layer, not 0; decides between a global and a local layer in ModernBERT.
    """
    one, two = (_residual_bytes(encoder, num_rows, length, index) for num_rows in (1, 2))
    return (two - one) / length


def _residual_bytes(encoder: EncoderConfig, num_rows: int, length: int, index: int) -> int:
    ids_BL = random_rows(encoder.vocab_size, num_rows, length)
    layer = _layer(encoder, index)
    x_BLD = jax.ShapeDtypeStruct((num_rows, length, encoder.hidden_size), encoder.dtype)
    relative = _relative(encoder, num_rows, length)

    def arguments(x_BLD, relative):
        return x_BLD, derive_inputs(jnp.asarray(ids_BL), SPECIAL, 0), True, relative

    def init(x_BLD, relative):
        key = jax.random.key(0)
        return layer.init({"params": key, "dropout": key}, *arguments(x_BLD, relative))["params"]

    def pull_back(params, x_BLD, relative, seed):
        rngs = {"dropout": jax.random.key(seed)}
        apply = lambda params, *given: layer.apply({"params": params}, *arguments(*given), rngs=rngs)
        return jax.tree.leaves(jax.vjp(apply, params, x_BLD, relative)[1])

    params = jax.eval_shape(init, x_BLD, relative)
    seed = jax.ShapeDtypeStruct((), jnp.int32)
    jaxpr = jax.make_jaxpr(pull_back)(params, x_BLD, relative, seed).jaxpr
    # The same array may be there several times: for the queries, keys and values.
    arrays = {var for var in jaxpr.outvars if isinstance(var, Var)}
    return sum(var.aval.size * var.aval.dtype.itemsize for var in arrays)


def _layer(encoder: EncoderConfig, index: int) -> nn.Module:
    if encoder.rotary is not None:
        return ModernLayer(encoder, is_first_layer=False, is_global=encoder.rotary.is_global(index))
    return EncoderLayer(encoder, is_first_layer=False)


def _relative(encoder: EncoderConfig, num_rows: int, length: int) -> Any:
    """Shape of what an encoder's layers share: see `EncoderLayer` and `ModernLayer`."""
    if encoder.rotary is not None:
        positions_BL = jax.ShapeDtypeStruct((num_rows, length), jnp.int32)
        return jax.eval_shape(lambda positions_BL: make_rotations(encoder, positions_BL), positions_BL)
    if encoder.disentangled is not None:
        shape, dtype = (2 * encoder.disentangled.position_buckets, encoder.hidden_size), encoder.dtype
    elif encoder.relative_bias is not None:
        shape, dtype = (encoder.num_heads, length, length), "float32"
    else:
        return None
    return jax.ShapeDtypeStruct(shape, dtype)
