"""Pieces of both kernels: what happens to a tile of queries and a chunk of keys in the chip's own memory.

A tile of I queries meets a window of I + J distances for J keys. One product gives a score for each query and
distance; row i of it, shifted by i, has a score for each key. A TPU shifts rows in its registers, and only to
the right. The transpose of the shift would go to the left. Rows in reversed order need a shift to the right
there as well, so the backward pass reverses rows, by a product with a matrix that has ones on its
antidiagonal. That is exact.

Shapes: I queries of a tile, J keys, W distances of a window, X features of a block.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from electra_jax.models.disentangled_kernels import KernelPlan

LANES = 128  # columns of a TPU's registers; every slice is a multiple of it
TILES, CHUNKS = (256, 128), (512, 384, 256, 128)


class Plan(KernelPlan):
    """Tiles for a TPU."""

    @property
    def padded_length(self) -> int:
        return -(-self.length // LANES) * LANES

    @property
    def tile(self) -> int:
        """Queries of a grid step."""
        return next(size for size in TILES if self.padded_length % size == 0)

    @property
    def chunk(self) -> int:
        """Keys whose scores are computed at once."""
        return next(size for size in CHUNKS if self.padded_length % size == 0)

    @property
    def block_heads(self) -> int:
        """Heads that share a block of LANES features."""
        return LANES // self.head_size


def over_chunks(plan: Plan, body: Callable[[Any, Any], Any], start: Any) -> Any:
    """`body(first key, carry) → carry` for every chunk of keys, in order."""
    num_chunks = plan.padded_length // plan.chunk
    if num_chunks == 1:
        return body(0, start)
    step = lambda index, carry: body(pl.multiple_of(index * plan.chunk, LANES), carry)
    return jax.lax.fori_loop(0, num_chunks, step, start)


def column(row_1I: jax.Array) -> jax.Array:
    """[1, I] → [I, 1]."""
    size = row_1I.shape[1]
    return jnp.broadcast_to(row_1I, (size, size)).T[:, :1]


def row(column_I1: jax.Array) -> jax.Array:
    """[I, 1] → [1, I]."""
    return jnp.broadcast_to(column_I1, (column_I1.shape[0], LANES)).T[:1]


def only(plan: Plan, head: int, x_IX: jax.Array) -> jax.Array:
    """x with zeros in the features of the block's other heads.

    A product with it is that of one head, so heads need no axis.
    """
    feature_IX = jax.lax.broadcasted_iota(jnp.int32, x_IX.shape, 1)
    first = head * plan.head_size
    is_own = (feature_IX >= first) & (feature_IX < first + plan.head_size)
    return jnp.where(is_own, x_IX, jnp.zeros_like(x_IX))


def rolled_rows(plan: Plan, x_IW: jax.Array, shift: int) -> jax.Array:
    """Roll row i to the right by shift + i: y[i, w] = x[i, (w − shift − i) mod W]."""
    if not plan.is_interpreted:
        return pltpu.roll(x_IW, shift, axis=1, stride=1, stride_axis=0)
    # The same by index: XLA needs minutes to compile what an interpreted roll becomes, an operation each row.
    row_IW, column_IW = (jax.lax.broadcasted_iota(jnp.int32, x_IW.shape, axis) for axis in (0, 1))
    return jnp.take_along_axis(x_IW, (column_IW - shift - row_IW) % x_IW.shape[1], axis=1)


def skew(plan: Plan, x_IW: jax.Array) -> jax.Array:
    """Shift row i by I − i: y[i, j] = x[i, j + I − i], [I, I + J] → [I, J]."""
    width = x_IW.shape[1] - x_IW.shape[0]
    return rolled_rows(plan, x_IW, width)[:, :width]


def inverse_skew(plan: Plan, y_IJ: jax.Array) -> jax.Array:
    """The transpose of `skew`, [I, J] → [I, I + J]; rows of both are in reversed order."""
    zeros_II = jnp.zeros((y_IJ.shape[0], y_IJ.shape[0]), y_IJ.dtype)
    return rolled_rows(plan, jnp.concatenate([y_IJ, zeros_II], axis=1), 1)


def reversed_rows(plan: Plan, x_IJ: jax.Array) -> jax.Array:
    """x with its rows in reversed order, in float32."""
    starts = reversed(range(0, x_IJ.shape[0], LANES))
    blocks = [
        plan.multiply("RI,IJ->RJ", _exchange(plan.dtype), x_IJ[start : start + LANES]) for start in starts
    ]
    return jnp.concatenate(blocks, axis=0)


def reversed_columns(plan: Plan, x_IJ: jax.Array) -> jax.Array:
    """xᵀ with its rows, the columns of x, in reversed order, in float32; x has LANES columns."""
    return plan.multiply("RJ,IJ->RI", _exchange(plan.dtype), x_IJ)


def _exchange(dtype: str) -> jax.Array:
    """Ones on the antidiagonal, zeros elsewhere."""
    first, second = (jax.lax.broadcasted_iota(jnp.int32, (LANES, LANES), axis) for axis in (0, 1))
    return (first + second == LANES - 1).astype(jnp.float32).astype(dtype)
