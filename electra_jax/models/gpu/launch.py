"""What the launches of all kernels share.

Shapes: B rows, L padded length, H heads, K head dim.
"""

import math
from collections.abc import Callable

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from electra_jax.models.gpu.scores import Operands, Saved, specs_of_operands, specs_of_saved
from electra_jax.models.gpu.tiles import Plan


def call(
    plan: Plan,
    kernel: Callable,
    name: str,
    *,
    grid: tuple[int, ...],
    operands: Operands,
    saved: Saved | None = None,
    outputs: list[tuple[pl.BlockSpec, jax.ShapeDtypeStruct]],
    products: int,
) -> list[jax.Array]:
    """Run a kernel on its grid.

    Args:
      grid: its second axis is the number of the head.
      outputs: block and shape of each result.
      products: matrix products of a pair of tiles, as multiples of that of the queries with the keys.
    """
    inputs, in_specs = list(operands), specs_of_operands(operands)
    if saved is not None:
        inputs, in_specs = [*inputs, *saved], [*in_specs, *specs_of_saved(saved)]
    out_specs, out_shape = zip(*outputs, strict=True)
    batch, length, heads, head_size = operands.query_BLHK.shape
    pairs = batch * heads * length**2
    return pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=in_specs,
        out_specs=out_specs,
        out_shape=out_shape,
        # With more stages loads are prefetched, but shared memory holds each tile more than once.
        compiler_params=plgpu.CompilerParams(num_warps=plan.num_warps, num_stages=1),
        interpret=plan.is_interpreted,
        # The loops' lengths depend on the segments. These are the most.
        cost_estimate=pl.CostEstimate(
            flops=2 * products * pairs * head_size,
            transcendentals=pairs,
            bytes_accessed=sum(math.prod(x.shape) * x.dtype.itemsize for x in (*inputs, *out_shape)),
        ),
        name=name,
    )(*inputs)


def tile_of_head(plan: Plan) -> pl.BlockSpec:
    """Of an array [B, L, H, K], on a grid (tiles, heads, rows)."""
    return pl.BlockSpec((None, plan.tile, None, plan.head_size), lambda tile, head, row: (row, tile, head, 0))


def tile_of_row(plan: Plan) -> pl.BlockSpec:
    """Of an array [B, H, L], on the same grid."""
    return pl.BlockSpec((None, None, plan.tile), lambda tile, head, row: (row, head, tile))
