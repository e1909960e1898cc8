"""Dropout whose mask is a hash of each element's index.

The hash is a few integer operations, which the compiler fuses with their neighbours; a random-number
generator would write its numbers to memory first. Every mesh draws the same masks without communication, also
when `jax.vmap` maps over data shards of the batch.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

DATA_SHARDS = "data_shards"  # name of the `jax.vmap` axis over data shards, the first rows of the batch first


class Dropout(nn.Module):
    """Inverted dropout; its key is from the stream "dropout"."""

    rate: float
    has_rows: bool = True  # the first axis is the batch; if not, all data shards have the same input and mask

    @nn.compact
    def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
        if not is_training or self.rate == 0.0:
            return x
        kept = keep_mask(self.make_rng("dropout"), 1.0 - self.rate, x.shape, has_rows=self.has_rows)
        return jnp.where(kept, x / (1.0 - self.rate), jnp.zeros_like(x))


def keep_mask(key: jax.Array, keep_prob: float, shape: Sequence[int], *, has_rows: bool = True) -> jax.Array:
    """Boolean mask of `shape`, True with probability `keep_prob` (to within 2⁻³²).

    It depends only on key and shape: every row along the last axis gets a hash of its index and the key,
    every element a hash of its row's hash and its own index. With `has_rows` the first axis is the batch, and
    a data shard gets the part of the mask that the whole batch has in its rows.
    """
    lead = tuple(shape[:-1])
    first_word, second_word = jax.random.key_data(key).astype(jnp.uint32).ravel()[:2]
    row = jnp.zeros((*lead, 1), jnp.uint32)
    for axis, size in enumerate(lead):
        row = row * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, (*lead, 1), axis)
        if axis == 0 and has_rows:
            row += _data_shard() * jnp.uint32(size)
    row = mix(mix(row ^ first_word) ^ second_word)
    column = jax.lax.broadcasted_iota(jnp.uint32, tuple(shape), len(lead))
    threshold = min(round(keep_prob * 2**32), 2**32 - 1)
    return mix(row + column * jnp.uint32(0x9E3779B9)) < jnp.uint32(threshold)


def _data_shard() -> jax.Array:
    """Index of the data shard that is computed; 0 outside `jax.vmap` over data shards."""
    try:
        return jax.lax.axis_index(DATA_SHARDS).astype(jnp.uint32)
    except NameError:  # raised by JAX if no axis has that name
        return jnp.uint32(0)


def mix(x: jax.Array) -> jax.Array:
    """Integer hash of 32 bits: a bijection in which every input bit flips each output bit half the time.

    "lowbias32" of Chris Wellons, Prospecting for Hash Functions.
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
