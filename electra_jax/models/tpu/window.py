"""Attention within a window on TPUs (ModernBERT's local layers): two kernels, forward and backward, in place
of models/local_attention.py's blocks.

A grid step takes a tile of queries of a block of heads, and all keys that they may attend to: those of the
tile, and some on each side. Scores and weights stay in the chip's memory (VMEM). The backward kernel computes
them again, so that nothing but queries, keys and values is kept for it.

Shapes: B rows, L padded length, F features of all heads, I queries of a tile, J keys of its window, X
features of a block.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from electra_jax.models.attention_form import are_interpreted
from electra_jax.models.attention_shards import Arrays, attend_on_shards
from electra_jax.models.disentangled_kernels import MASKED
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.layers import CONTEXT_NAME
from electra_jax.models.tpu.blocks import compiler_params, from_blocks, grid_of, specs, to_blocks
from electra_jax.models.tpu.tiles import LANES, Plan, column, only

OUTSIDE = -2  # segment of keys outside the row, to which nothing attends; padded tokens have −1
HALF = LANES // 2  # margins are multiples, so that windows are multiples of LANES


class Operands(NamedTuple):
    """What both kernels read: arrays outside the kernels, references to a grid step's part inside."""

    segments_B1L: Any  # int32
    key_segments_B1M: Any  # the same with a margin on each side, M = L + 2 margins
    query_BLF: Any  # scaled
    key_BLF: Any
    value_BLF: Any


class Window(NamedTuple):
    """The keys that a tile of queries may attend to."""

    plan: Plan
    reach: int  # the greatest distance of a key

    @property
    def margin(self) -> int:
        """Keys on each side of the tile."""
        return max(1, -(-self.reach // HALF)) * HALF

    @property
    def width(self) -> int:
        return self.plan.tile + 2 * self.margin

    def parts(self) -> tuple[tuple[Any, int], ...]:
        """(First position, number) of the keys on the left, of the tile's own, and on the right. Those that
        would lie outside the row are others, to which no query attends."""
        tile, margin, length = self.plan.tile, self.margin, self.plan.padded_length
        first = pl.multiple_of(pl.program_id(2) * tile, LANES)
        left = pl.multiple_of(jnp.maximum(first - margin, 0), HALF)
        right = pl.multiple_of(jnp.minimum(first + tile, length - margin), HALF)
        return (left, margin), (first, tile), (right, margin)

    def read(self, ref: Any) -> jax.Array:
        """The window's rows [J, X] of a whole row [1, L, X]."""
        return jnp.concatenate([ref[0, pl.ds(*part), :] for part in self.parts()], axis=0)

    def add(self, sums_LX: Any, x_JX: jax.Array) -> None:
        """Add the window's rows to those of a whole row."""
        done = 0
        for first, size in self.parts():
            sums_LX[pl.ds(first, size), :] += x_JX[done : done + size]
            done += size

    def is_allowed(self, operands: Operands) -> jax.Array:
        """Whether a query may attend to a key, [I, J]."""
        tile = self.plan.tile
        first = pl.multiple_of(pl.program_id(2) * tile, LANES)
        segments_I1 = column(operands.segments_B1L[0, :, pl.ds(first, tile)])
        segments_1J = operands.key_segments_B1M[0, :, pl.ds(first, self.width)]
        query_IJ, key_IJ = (
            jax.lax.broadcasted_iota(jnp.int32, (tile, self.width), axis) for axis in range(2)
        )
        return (segments_I1 == segments_1J) & (jnp.abs(query_IJ + self.margin - key_IJ) <= self.reach)


def window_attention(dtype: str, reach: int, arrays: Arrays, inputs: EncoderInputs) -> jax.Array:
    """Context [B, L, H, K] of queries that attend to keys of their segment at most `reach` away, without
    dropout.

    Padding attends to padding, as without the kernels: its context has no meaning, but is finite.

    Args:
      dtype: of the operands of products.
      arrays: queries, divided by √K, keys and values [B, L, H, K] in `dtype`.
      inputs: segments; queries attend in both directions.
    """
    _, length, heads, head_size = arrays[0].shape
    window = Window(Plan(length, heads, head_size, 1.0, dtype, are_interpreted()), reach)
    return attend_on_shards(functools.partial(_attend, window), arrays, inputs.segments_BL)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(window: Window, arrays: Arrays, segments_BL: jax.Array) -> jax.Array:
    return _attend_forward(window, arrays, segments_BL)[0]


def _attend_forward(window, arrays, segments_BL):
    operands = _operands(window, arrays, segments_BL)
    spec = specs(window.plan)
    context_BLF = _call(
        window,
        _forward_kernel,
        operands,
        out_specs=spec.tile,
        out_shape=jax.ShapeDtypeStruct(operands.query_BLF.shape, window.plan.dtype),
        semantics=("parallel", "parallel", "parallel"),
        name="window_attention_forward",
    )
    context_BLHK = checkpoint_name(from_blocks(context_BLF, arrays[0].shape), CONTEXT_NAME)
    return context_BLHK, (arrays, segments_BL)


def _attend_backward(window, residuals, gradient_BLHK):
    arrays, segments_BL = residuals
    plan, spec = window.plan, specs(window.plan)
    operands = _operands(window, arrays, segments_BL)
    gradient_BLF = to_blocks(plan, gradient_BLHK.astype(plan.dtype))
    sums = pltpu.VMEM((plan.padded_length, LANES), jnp.float32)
    gradients = _call(
        window,
        _backward_kernel,
        operands,
        gradient_BLF,
        out_specs=[spec.tile, spec.whole, spec.whole],
        out_shape=[jax.ShapeDtypeStruct(gradient_BLF.shape, plan.dtype)] * 3,
        scratch_shapes=[sums, sums],
        semantics=("parallel", "parallel", "arbitrary"),
        name="window_attention_backward",
    )
    return tuple(from_blocks(x_BLF, arrays[0].shape) for x_BLF in gradients), None


_attend.defvjp(_attend_forward, _attend_backward)


def _operands(window: Window, arrays: Arrays, segments_BL: jax.Array) -> Operands:
    plan = window.plan
    missing = plan.padded_length - plan.length
    segments_BL = jnp.pad(segments_BL, ((0, 0), (0, missing)), constant_values=-1)
    margins = ((0, 0), (window.margin, window.margin))
    key_segments_BM = jnp.pad(segments_BL, margins, constant_values=OUTSIDE)
    blocks = (to_blocks(plan, x_BLHK) for x_BLHK in arrays)
    return Operands(segments_BL[:, None], key_segments_BM[:, None], *blocks)


def _call(
    window: Window,
    kernel: Callable[..., None],
    operands: Operands,
    *more_tiles: jax.Array,
    semantics: tuple[str, ...],
    **arguments: Any,
) -> Any:
    plan, spec = window.plan, specs(window.plan)
    shape_11M = (1, 1, operands.key_segments_B1M.shape[2])
    key_segments = pl.BlockSpec(shape_11M, lambda block, row, step: (row, 0, 0))
    return pl.pallas_call(
        functools.partial(kernel, window),
        grid=grid_of(plan, operands.query_BLF.shape),
        in_specs=[
            *Operands(spec.segments, key_segments, spec.tile, spec.whole, spec.whole),
            *[spec.tile] * len(more_tiles),
        ],
        compiler_params=compiler_params(plan, *semantics),
        interpret=plan.is_interpreted,
        **arguments,
    )(*operands, *more_tiles)


def _forward_kernel(window: Window, *refs: Any) -> None:
    operands, context_ref = Operands(*refs[:-1]), refs[-1]
    plan = window.plan
    is_allowed_IJ = window.is_allowed(operands)
    query_IX, key_JX, value_JX = _content(window, operands)
    context_IX = jnp.zeros(query_IX.shape, jnp.float32)
    for head in range(plan.block_heads):
        weights_IJ, total_I1 = _weights(plan, only(plan, head, query_IX), key_JX, is_allowed_IJ)
        sums_IX = plan.multiply("IJ,JX->IX", weights_IJ, value_JX)
        context_IX += only(plan, head, sums_IX / total_I1)
    context_ref[0] = context_IX.astype(context_ref.dtype)


def _backward_kernel(window: Window, *refs: Any) -> None:
    operands = Operands(*refs[:5])
    gradient_ref, query_gradient_ref, *key_value_refs = refs[5:9]
    sums_refs = refs[9:]
    plan = window.plan
    is_allowed_IJ = window.is_allowed(operands)
    query_IX, key_JX, value_JX = _content(window, operands)
    of_query_IX = jnp.zeros(query_IX.shape, jnp.float32)
    of_key_JX = of_value_JX = jnp.zeros(key_JX.shape, jnp.float32)
    for head in range(plan.block_heads):
        own_query_IX = only(plan, head, query_IX)
        gradient_IX = only(plan, head, gradient_ref[0])
        weights_IJ, total_I1 = _weights(plan, own_query_IX, key_JX, is_allowed_IJ)
        weights_IJ = weights_IJ / total_I1
        slopes_IJ = plan.multiply("IX,JX->IJ", gradient_IX, value_JX)
        mean_I1 = (weights_IJ * slopes_IJ).sum(axis=1, keepdims=True)
        dscores_IJ = weights_IJ * (slopes_IJ - mean_I1)
        of_query_IX += only(plan, head, plan.multiply("IJ,JX->IX", dscores_IJ, key_JX))
        of_key_JX += plan.multiply("IJ,IX->JX", dscores_IJ, own_query_IX)
        of_value_JX += plan.multiply("IJ,IX->JX", weights_IJ, gradient_IX)
    query_gradient_ref[0] = of_query_IX.astype(plan.dtype)
    _add_up(window, sums_refs, (of_key_JX, of_value_JX), key_value_refs)


def _add_up(window: Window, sums_refs: Any, gradients_JX: Any, refs: Any) -> None:
    """Add the gradients of a window to those of the row; the last tile of a row writes them."""

    @pl.when(pl.program_id(2) == 0)
    def _():
        for sums_LX in sums_refs:
            sums_LX[...] = jnp.zeros_like(sums_LX)

    for sums_LX, x_JX in zip(sums_refs, gradients_JX, strict=True):
        window.add(sums_LX, x_JX)

    @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
    def _():
        for ref, sums_LX in zip(refs, sums_refs, strict=True):
            ref[0] = sums_LX[...].astype(ref.dtype)


def _content(window: Window, operands: Operands) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries [I, X], keys and values [J, X]."""
    return operands.query_BLF[0], window.read(operands.key_BLF), window.read(operands.value_BLF)


def _weights(
    plan: Plan, query_IX: jax.Array, key_JX: jax.Array, is_allowed_IJ: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Exponentials of one head's scores less the largest [I, J], and their sums [I, 1]."""
    scores_IJ = jnp.where(is_allowed_IJ, plan.multiply("IX,JX->IJ", query_IX, key_JX), MASKED)
    weights_IJ = jnp.exp(scores_IJ - scores_IJ.max(axis=1, keepdims=True))
    return weights_IJ, weights_IJ.sum(axis=1, keepdims=True)
