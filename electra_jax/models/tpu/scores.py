"""Scores, mask and dropout of a tile of queries and a chunk of keys, which both kernels compute.

Shapes: B rows, L padded length, F features of all heads, T = 2·L distances, I queries of a tile, J keys of a
chunk, X features of a block.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from electra_jax.models.dropout import is_kept
from electra_jax.models.layers import einsum_f32
from electra_jax.models.tpu.tiles import LANES, Plan, column, first_query, only, skew

MASKED = -1e30  # finite: a difference of two is 0, not NaN


class Operands(NamedTuple):
    """What both kernels read: arrays outside the kernels, references to a grid step's part inside."""

    numbers: Any  # uint32 [3 + B]: two words of the dropout's key, the first head, the number of each row
    segments_B1L: Any  # int32; −1 where the length is padded
    query_BLF: Any  # scaled
    key_BLF: Any
    value_BLF: Any
    key_TF: Any  # the projected table, a row for each distance j − i = t − L
    query_TF: Any  # scaled; a row for each distance i − j = t − L


class Chunk(NamedTuple):
    """A chunk of keys as a tile of queries meets it."""

    first: Any  # position of its first key
    keys: Any  # its slice of the keys
    key_window: Any  # distances between the queries and all keys of the chunk
    query_windows: list  # the same for each LANES keys
    is_allowed_IJ: jax.Array  # whether the query may attend to the key


def make_chunk(plan: Plan, operands: Operands, first: Any) -> Chunk:
    """The chunk whose first key is at `first`."""
    length, tile, query = plan.padded_length, plan.tile, first_query(plan)
    keys = pl.ds(first, plan.chunk)
    segments_IJ = column(operands.segments_B1L[0, :, pl.ds(query, tile)]) == operands.segments_B1L[0, :, keys]
    aligned = lambda start, size: pl.ds(pl.multiple_of(start, LANES), size)
    return Chunk(
        first,
        keys,
        aligned(length + first - query - tile, plan.chunk + tile),
        [
            aligned(length + query - first - start - LANES, tile + LANES)
            for start in range(0, plan.chunk, LANES)
        ],
        segments_IJ,
    )


def masked_scores(plan: Plan, head: int, query_IX: jax.Array, operands: Operands, chunk: Chunk) -> jax.Array:
    """Scores [I, J] of one head; `query_IX` has the features of that head only."""
    key_JX = operands.key_BLF[0, chunk.keys, :]
    multiply = lambda x, y: einsum_f32("IX,JX->IJ", plan.dtype, x, y)
    scores_IJ = multiply(query_IX, key_JX) + skew(
        plan, multiply(query_IX, operands.key_TF[chunk.key_window, :])
    )
    key_JX = only(plan, head, key_JX)
    blocks = [
        skew(plan, multiply(key_JX[n * LANES : (n + 1) * LANES], operands.query_TF[window, :])).T
        for n, window in enumerate(chunk.query_windows)
    ]
    return jnp.where(chunk.is_allowed_IJ, scores_IJ + jnp.concatenate(blocks, axis=1), MASKED)


def drop(plan: Plan, head: int, operands: Operands, chunk: Chunk, *arrays_IJ: jax.Array) -> list[jax.Array]:
    """The arrays with zeros where dropout drops the weight of attention; what it keeps is not scaled.

    The mask is that of models/dropout.py for weights [B, H, L, M] of the whole batch and all heads.
    """
    if plan.keep_prob == 1.0:
        return list(arrays_IJ)
    numbers = operands.numbers
    number = lambda index: jnp.asarray(index, jnp.int32).astype(jnp.uint32)
    head_number = numbers[2] + number(pl.program_id(0) * plan.block_heads + head)
    first_row = (numbers[3 + pl.program_id(1)] * number(plan.num_heads) + head_number) * number(plan.length)
    iota = lambda shape, axis: jax.lax.broadcasted_iota(jnp.int32, shape, axis)
    rows_I1 = (first_query(plan) + iota((plan.tile, LANES), 0))[:, :1].astype(jnp.uint32) + first_row
    columns_IJ = (chunk.first + iota((plan.tile, plan.chunk), 1)).astype(jnp.uint32)
    kept_IJ = is_kept(plan.keep_prob, (numbers[0], numbers[1]), rows_I1, columns_IJ)
    return [jnp.where(kept_IJ, x_IJ, 0.0) for x_IJ in arrays_IJ]
