"""Dense, LayerNorm and dropout with logical axes: the pieces every module here is built from.

Shapes: B batch, L length, D input width, F output width.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn


def logical(initializer, *axes: str):
    """Attach logical axis names to a parameter; distributed/sharding.py maps them to a mesh."""
    return nn.with_logical_partitioning(initializer, axes)


class Dense(nn.Module):
    """x_BLD → x_BLF = x·kernel + bias, computed in `dtype`, parameters in float32."""

    features: int
    axes: tuple[str, str]  # logical axes of the kernel
    kernel_init: nn.initializers.Initializer
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dtype = jnp.dtype(self.dtype)
        kernel_DF = self.param("kernel", logical(self.kernel_init, *self.axes), (x.shape[-1], self.features))
        bias_F = self.param("bias", logical(nn.initializers.zeros, self.axes[1]), (self.features,))
        return jnp.matmul(x.astype(dtype), kernel_DF.astype(dtype)) + broadcast_to_rank(bias_F.astype(dtype), x.ndim)


class LayerNorm(nn.Module):
    """Normalise the last axis; statistics in float32, output in `dtype`."""

    epsilon: float
    axis: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale_D = self.param("scale", logical(nn.initializers.ones, self.axis), (x.shape[-1],))
        bias_D = self.param("bias", logical(nn.initializers.zeros, self.axis), (x.shape[-1],))
        x = x.astype(jnp.float32)
        centered = x - x.mean(axis=-1, keepdims=True)
        inverse = jax.lax.rsqrt(jnp.square(centered).mean(axis=-1, keepdims=True) + self.epsilon)
        x = centered * inverse * broadcast_to_rank(scale_D, x.ndim) + broadcast_to_rank(bias_D, x.ndim)
        return x.astype(self.dtype)


def broadcast_to_rank(x: jax.Array, rank: int) -> jax.Array:
    """Prepend axes of size one, explicitly: implicit rank promotion is an error in this project's tests."""
    return x.reshape((1,) * (rank - x.ndim) + x.shape)


def gelu(x: jax.Array) -> jax.Array:
    """Exact (erf) GELU, as ELECTRA's code; the tanh approximation differs by up to 5e-4."""
    return jax.nn.gelu(x, approximate=False)


class Dropout(nn.Module):
    """Inverted dropout whose mask costs half a 32-bit random word an element.

    The keep probability is rounded to 1/65536 (0.9 becomes 0.900009). Masks depend on the "dropout" key and the global
    shape only, so every mesh draws the same ones.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
        if not is_training or self.rate == 0.0:
            return x
        kept = keep_mask(self.make_rng("dropout"), 1.0 - self.rate, x.shape)
        return jnp.where(kept, x / (1.0 - self.rate), jnp.zeros_like(x))


def keep_mask(key: jax.Array, keep_prob: float, shape: Sequence[int]) -> jax.Array:
    """Boolean mask, True with probability round(keep_prob·65536)/65536, from two 16-bit draws a random word."""
    *lead, last = shape
    words = jax.random.bits(key, (*lead, -(-last // 2)), jnp.uint32)
    halves = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(*lead, -1)[..., :last]
    return halves < jnp.uint16(min(round(keep_prob * 65536), 65535))
