"""Scores, mask and dropout of a tile of queries and a chunk of keys, which both kernels compute.

Shapes: B rows, L padded length, F features of all heads, T = 2·L distances, I queries of a tile, J keys of a
chunk, X features of a block.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from electra_jax.models.disentangled_kernels import MASKED
from electra_jax.models.tpu.tiles import LANES, Plan, column, only, skew


class Operands(NamedTuple):
    """What both kernels read: arrays outside the kernels, references to a grid step's part inside."""

    # uint32 [1, 3 + B]: two words of the dropout's key, the first head, the number of each row. Of two axes,
    # since a TPU's block of a batched array is whole along the last two.
    numbers: Any
    segments_B1L: Any  # int32; −1 where the length is padded
    query_BLF: Any  # scaled
    key_BLF: Any
    value_BLF: Any
    key_TF: Any  # the projected table, a row for each distance j − i = t − L
    query_TF: Any  # scaled; a row for each distance i − j = t − L


class Step(NamedTuple):
    """A grid step: a tile of queries in a block of heads."""

    plan: Plan
    operands: Operands
    block: jax.Array  # number of the block of features, in the shard
    row: jax.Array  # number of the row, in the shard
    first_query: jax.Array  # position of the tile's first query


def make_step(plan: Plan, refs: Sequence[Any]) -> Step:
    """The step that runs, with the kernel's first references. Its numbers cannot be asked for in a loop."""
    block, row, tile = map(pl.program_id, range(3))
    return Step(plan, Operands(*refs), block, row, pl.multiple_of(tile * plan.tile, LANES))


class Chunk(NamedTuple):
    """A chunk of keys as a tile of queries meets it."""

    first: Any  # position of its first key
    keys: Any  # its slice of the keys
    key_window: Any  # distances between the queries and all keys of the chunk
    query_windows: list  # the same for each LANES keys
    is_allowed_IJ: jax.Array  # whether the query may attend to the key


def make_chunk(step: Step, first: Any) -> Chunk:
    """The chunk whose first key is at `first`."""
    plan, operands, query = step.plan, step.operands, step.first_query
    length, tile = plan.padded_length, plan.tile
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


def masked_scores(step: Step, head: int, query_IX: jax.Array, chunk: Chunk) -> jax.Array:
    """Scores [I, J] of one head; `query_IX` has the features of that head only."""
    plan, operands = step.plan, step.operands
    key_JX = operands.key_BLF[0, chunk.keys, :]
    products = lambda x, y: plan.multiply("IX,JX->IJ", x, y)
    by_distance_IW = products(query_IX, operands.key_TF[chunk.key_window, :])
    scores_IJ = products(query_IX, key_JX) + skew(plan, by_distance_IW)
    key_JX = only(plan, head, key_JX)
    blocks = [
        skew(plan, products(key_JX[n * LANES : (n + 1) * LANES], operands.query_TF[window, :])).T
        for n, window in enumerate(chunk.query_windows)
    ]
    return jnp.where(chunk.is_allowed_IJ, scores_IJ + jnp.concatenate(blocks, axis=1), MASKED)


def drop(step: Step, head: int, chunk: Chunk, *arrays_IJ: jax.Array) -> list[jax.Array]:
    """`KernelPlan.drop` of a tile and a chunk."""
    position = step.first_query, chunk.first
    return drop_tile(step.plan, step.operands.numbers, step.block, step.row, head, position, *arrays_IJ)


def drop_tile(
    plan: Plan,
    numbers: Any,
    block: jax.Array,
    row: jax.Array,
    head: int,
    position: tuple[Any, Any],
    *arrays_IJ: jax.Array,
) -> list[jax.Array]:
    """`KernelPlan.drop` of a tile of queries and some keys.

    Args:
      numbers: as in `Operands`.
      block: as in `Step`, as is the next.
      head: its number in the block.
      position: of the first query and the first key.
    """
    number = lambda index: jnp.asarray(index, jnp.int32).astype(jnp.uint32)
    head_number = numbers[0, 2] + number(block * plan.block_heads + head)
    num_queries, num_keys = arrays_IJ[0].shape
    iota = lambda shape, axis: jax.lax.broadcasted_iota(jnp.int32, shape, axis)
    query_I1 = (position[0] + iota((num_queries, LANES), 0))[:, :1]
    key_IJ = position[1] + iota((num_queries, num_keys), 1)
    words = numbers[0, 0], numbers[0, 1]
    return plan.drop(words, numbers[0, 3 + row], head_number, query_I1, key_IJ, *arrays_IJ)
