"""Dropout whose mask is a hash of each element's index.

The hash is a few integer operations, which the compiler fuses with their neighbours; a random-number
generator would write its numbers to memory first. The index of a row is its number in the whole batch, so
every mesh draws the same masks without communication, however the batch is cut into microbatches and data
shards.

Shapes: B batch.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn


class Dropout(nn.Module):
    """Inverted dropout; its key is from the stream "dropout"."""

    rate: float

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        is_training: bool,
        rows_B: jax.Array | None = None,
        rate: float | None = None,
    ) -> jax.Array:
        """`rows_B` as for `keep_mask`; `rate` replaces that of the module."""
        rate = self.rate if rate is None else rate
        if not is_training or rate == 0.0:
            return x
        return drop(1.0 - rate, x, rows_B, self.make_rng("dropout"))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def drop(keep_prob: float, x: jax.Array, rows_B: jax.Array | None, key: jax.Array) -> jax.Array:
    """x / keep_prob where `keep_mask` is True, else 0. The derivative computes the mask again."""
    return jnp.where(keep_mask(key, keep_prob, x.shape, rows_B), x / keep_prob, jnp.zeros_like(x))


def _drop_forward(keep_prob, x, rows_B, key):
    return drop(keep_prob, x, rows_B, key), (rows_B, key)


def _drop_backward(keep_prob, residuals, gradient):
    # It is linear in x, so the same function gives its derivative.
    return drop(keep_prob, gradient, *residuals), None, None


drop.defvjp(_drop_forward, _drop_backward)


def keep_mask(
    key: jax.Array, keep_prob: float, shape: Sequence[int], rows_B: jax.Array | None = None
) -> jax.Array:
    """Boolean mask of `shape`, True with probability `keep_prob` (to within 2⁻³²).

    Every row along the last axis gets a hash of its index and the key, every element a hash of its row's hash
    and its own index.

    Args:
      rows_B: the indices along the first axis: the mask is the part that a larger array has at these. None:
        0, 1, …, for arrays that are the same for all rows of the batch, or that are never cut.
    """
    lead = tuple(shape[:-1])
    first_word, second_word = jax.random.key_data(key).astype(jnp.uint32).ravel()[:2]
    row = jnp.zeros((*lead, 1), jnp.uint32)
    for axis, size in enumerate(lead):
        if axis == 0 and rows_B is not None:
            index = rows_B.astype(jnp.uint32).reshape(-1, *[1] * len(lead))
        else:
            index = jax.lax.broadcasted_iota(jnp.uint32, (*lead, 1), axis)
        row = row * jnp.uint32(size) + index
    column = jax.lax.broadcasted_iota(jnp.uint32, tuple(shape), len(lead))
    return is_kept(keep_prob, (first_word, second_word), row, column)


def is_kept(
    keep_prob: float, words: tuple[jax.Array, jax.Array], row: jax.Array, column: jax.Array
) -> jax.Array:
    """Whether dropout keeps the elements with these indices (`keep_mask`).

    Args:
      words: uint32, the two words of the key.
      row: uint32, index of the element's row along the last axis, among all rows.
      column: uint32, index of the element in its row.
    """
    row = mix(mix(row ^ words[0]) ^ words[1])
    threshold = min(round(keep_prob * 2**32), 2**32 - 1)
    return mix(row + column * jnp.uint32(0x9E3779B9)) < jnp.uint32(threshold)


def mix(x: jax.Array) -> jax.Array:
    """Integer hash of 32 bits: a bijection in which every input bit flips each output bit half the time.

    "lowbias32" of Chris Wellons, Prospecting for Hash Functions.
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
