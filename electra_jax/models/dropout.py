"""Dropout whose mask is a hash of the element's index: a few integer operations that fuse into their
neighbours, where a random-number generator would write its numbers to memory first. Any mesh draws the same
masks without communication, also if the batch is cut into data shards along a mapped axis DATA_SHARDS.

Shapes: B batch, L length, D width.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

DATA_SHARDS = "data_shards"  # `jax.vmap` axis of a batch cut into data shards; the first has the first rows


class Dropout(nn.Module):
    """Inverted dropout; draws from the stream "dropout". Without `has_rows` the first axis of its input is
    not the batch's, and every data shard has the same input."""

    rate: float
    has_rows: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
        if not is_training or self.rate == 0.0:
            return x
        kept = keep_mask(self.make_rng("dropout"), 1.0 - self.rate, x.shape, has_rows=self.has_rows)
        return jnp.where(kept, x / (1.0 - self.rate), jnp.zeros_like(x))


def keep_mask(key: jax.Array, keep_prob: float, shape: Sequence[int], *, has_rows: bool = True) -> jax.Array:
    """Boolean mask of `shape`, True with probability `keep_prob` (to within 2⁻³²); a function of key and
    shape alone. With `has_rows` the first axis is the batch's, and a data shard gets its part of the
    mask of the whole batch.

    Every row along the last axis gets a hash of its index and the key, every element one of its row's and its
    own index.
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
    """Index of this data shard; 0 if the batch is whole."""
    try:
        return jax.lax.axis_index(DATA_SHARDS).astype(jnp.uint32)
    except NameError:  # raised by JAX if no axis has that name
        return jnp.uint32(0)


def mix(x: jax.Array) -> jax.Array:
    """Integer hash of 32 bits, a bijection in which every input bit flips each output bit about half the time
    ("lowbias32", Chris Wellons, Prospecting for Hash Functions)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
