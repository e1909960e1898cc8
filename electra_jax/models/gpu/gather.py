"""A gather along one axis of a tile, in the shared memory of a GPU's multiprocessor.

Triton has the operation, `tt.gather`, but Pallas lowers no operation of JAX to it, and has no public way to
add one. So this module reaches into JAX's private modules, alone in this package: their names are the same in
JAX 0.10.2, 0.11 and 0.12.
"""

import jax
import jax.numpy as jnp
from jax._src.lib.mlir import ir
from jax._src.lib.triton import dialect
from jax._src.pallas.triton.lowering import register_lowering
from jax.extend.core import Primitive

_gather_p = Primitive("gather_in_tile")


def gather(x: jax.Array, index: jax.Array, axis: int, *, is_interpreted: bool) -> jax.Array:
    """`jnp.take_along_axis` of two-dimensional tiles, whose other axis has the same size in both; indices are
    int32 within the axis."""
    if is_interpreted:
        return jnp.take_along_axis(x, index, axis)
    return _gather_p.bind(x, index, axis=axis)


@_gather_p.def_abstract_eval
def _shape(x, index, *, axis):
    return jax.core.ShapedArray(index.shape, x.dtype)


@register_lowering(_gather_p)
def _lower(context, x, index, *, axis):
    element = ir.RankedTensorType(x.type).element_type
    result = ir.RankedTensorType.get(ir.RankedTensorType(index.type).shape, element)
    return dialect.gather(x, index, axis, results=[result])
