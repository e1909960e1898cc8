"""The grid of both kernels, and the part of each array that a grid step sees.

Shapes: B rows, L padded length, F features of all heads, T = 2·L distances.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from electra_jax.models.tpu.tiles import LANES, Plan

# Keys, values and tables of a whole row, their gradients and sums: at 4,096 they take some 40 MiB. The
# compilers for v5e, v5p and v6e allow this limit; what is above their default is taken only by long rows.
VMEM_BYTES = 60 * 2**20
DEFAULT_LENGTH = 512  # up to which the compiler's default is enough


class Specs(NamedTuple):
    """Blocks of the arrays, by kind. The grid is (blocks of features, rows, tiles of queries)."""

    numbers: pl.BlockSpec  # [1, 3 + B], scalars
    segments: pl.BlockSpec  # [B, 1, L], a row
    tile: pl.BlockSpec  # [B, L, F], a tile of queries
    whole: pl.BlockSpec  # [B, L, F], a row
    table: pl.BlockSpec  # [T, F], all distances
    turned_table: pl.BlockSpec  # [F, T]
    row: pl.BlockSpec  # [B, blocks, heads of a block, L], a tile of queries

    @property
    def of_operands(self) -> tuple[pl.BlockSpec, ...]:
        """Of `Operands`, in their order."""
        return (self.numbers, self.segments, self.tile, self.whole, self.whole, self.table, self.table)


def grid_of(plan: Plan, shape_BLF: tuple[int, ...]) -> tuple[int, int, int]:
    """The grid for queries of this shape."""
    batch, length, features = shape_BLF
    return features // LANES, batch, length // plan.tile


def specs(plan: Plan) -> Specs:
    """The blocks for every kind of array."""
    length, tile = plan.padded_length, plan.tile
    return Specs(
        numbers=pl.BlockSpec(memory_space=pltpu.SMEM),
        segments=pl.BlockSpec((1, 1, length), lambda block, row, step: (row, 0, 0)),
        tile=pl.BlockSpec((1, tile, LANES), lambda block, row, step: (row, step, block)),
        whole=pl.BlockSpec((1, length, LANES), lambda block, row, step: (row, 0, block)),
        table=pl.BlockSpec((2 * length, LANES), lambda block, row, step: (0, block)),
        turned_table=pl.BlockSpec((LANES, 2 * length), lambda block, row, step: (block, 0)),
        row=pl.BlockSpec((1, 1, plan.block_heads, tile), lambda block, row, step: (row, block, 0, step)),
    )


def compiler_params(plan: Plan, *semantics: str) -> pltpu.CompilerParams:
    """`semantics`: of each axis of the grid, "parallel", or "arbitrary" if its steps add up a sum."""
    limit = VMEM_BYTES if plan.padded_length > DEFAULT_LENGTH or plan.dtype == "float32" else None
    return pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=limit)


def to_blocks(plan: Plan, x_BLHK: jax.Array) -> jax.Array:
    """[B, L, H, K] → [B, L padded to whole registers, F], whole blocks of heads."""
    _, length, heads, _ = x_BLHK.shape
    x_BLHK = jnp.pad(x_BLHK, ((0, 0), (0, -length % LANES), (0, -heads % plan.block_heads), (0, 0)))
    return x_BLHK.reshape(*x_BLHK.shape[:2], -1)


def from_blocks(x_BLF: jax.Array, shape_BLHK: tuple[int, ...]) -> jax.Array:
    """The inverse of `to_blocks`, of this shape."""
    _, length, heads, head_size = shape_BLHK
    return x_BLF[:, :length, : heads * head_size].reshape(shape_BLHK)
