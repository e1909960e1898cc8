"""Dropout whose mask is a hash of the element's index: a few integer operations that fuse into their neighbours, where a
random-number generator would write its numbers to memory first. Any mesh draws the same masks, without communication.

Shapes: B batch, L length, D width.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn


class Dropout(nn.Module):
    """Inverted dropout; draws from the stream "dropout"."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
        if not is_training or self.rate == 0.0:
            return x
        kept = keep_mask(self.make_rng("dropout"), 1.0 - self.rate, x.shape)
        return jnp.where(kept, x / (1.0 - self.rate), jnp.zeros_like(x))


def keep_mask(key: jax.Array, keep_prob: float, shape: Sequence[int]) -> jax.Array:
    """Boolean mask of `shape`, True with probability `keep_prob` (to within 2⁻³²); a function of key and shape alone.

    Every row along the last axis gets a hash of its index and the key, every element one of its row's and its own index.
    """
    lead = tuple(shape[:-1])
    first_word, second_word = jax.random.key_data(key).astype(jnp.uint32).ravel()[:2]
    row = jnp.zeros((*lead, 1), jnp.uint32)
    for axis, size in enumerate(lead):
        row = row * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, (*lead, 1), axis)
    row = mix(mix(row ^ first_word) ^ second_word)
    column = jax.lax.broadcasted_iota(jnp.uint32, tuple(shape), len(lead))
    threshold = min(round(keep_prob * 2**32), 2**32 - 1)
    return mix(row + column * jnp.uint32(0x9E3779B9)) < jnp.uint32(threshold)


def mix(x: jax.Array) -> jax.Array:
    """Integer hash of 32 bits, a bijection in which every input bit flips each output bit about half the time
    ("lowbias32", Chris Wellons, Prospecting for Hash Functions)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
