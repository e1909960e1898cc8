"""Attention of BERT and ModernBERT on TPUs, to the whole document or within a window: two kernels, forward
and backward, in place of models/attention_weights.py's softmax and models/local_attention.py's blocks.

A grid step takes a tile of queries of a block of heads, and all keys that they may attend to: those of the
row, or those of the tile and some on each side. Scores and weights stay in the chip's memory (VMEM). The
backward kernel computes them again, so that it needs nothing but queries, keys and values.

Shapes: B rows, L padded length, F features of all heads, I queries of a tile, J its keys, X features of a
block.
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
from electra_jax.models.attention_shards import Arrays, Rows, attend_on_shards, make_rows
from electra_jax.models.disentangled_kernels import MASKED
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.layers import CONTEXT_NAME
from electra_jax.models.tpu.blocks import compiler_params, from_blocks, grid_of, specs, to_blocks
from electra_jax.models.tpu.scores import drop_tile
from electra_jax.models.tpu.tiles import LANES, Plan, column, only

OUTSIDE = -2  # segment of keys outside the row, to which nothing attends; padded tokens have −1
HALF = LANES // 2  # margins are multiples, so that windows are multiples of LANES


def attend_in_kernels(
    keep_prob: float,
    dtype: str,
    reach: int | None,
    arrays: Arrays,
    inputs: EncoderInputs,
    key: jax.Array | None,
) -> jax.Array:
    """Context [B, L, H, K] of queries that attend to keys of their segment.

    Padding attends to padding, as without the kernels: its context has no meaning, but is finite.

    Args:
      keep_prob: probability that dropout keeps a weight; the masks are those of the plain form. 1 if `reach`
        is a number.
      dtype: of the operands of products.
      reach: the greatest distance of a key, in tokens; None: any.
      arrays: queries, divided by √K, keys and values [B, L, H, K] in `dtype`.
      inputs: segments and row numbers; queries attend in both directions.
      key: of the dropout mask; None means no dropout.
    """
    _, length, heads, head_size = arrays[0].shape
    keep_prob = 1.0 if key is None else keep_prob
    call = Call(Plan(length, heads, head_size, keep_prob, dtype, are_interpreted()), reach)
    return attend_on_shards(functools.partial(_attend, call), make_rows(inputs, key), arrays)


class Operands(NamedTuple):
    """What both kernels read: arrays outside the kernels, references to a grid step's part inside."""

    numbers: Any  # as in `models.tpu.scores.Operands`
    segments_B1L: Any  # int32
    key_segments_B1M: Any  # the same with a margin on each side, M = L + 2 margins
    query_BLF: Any  # scaled
    key_BLF: Any
    value_BLF: Any


class Call(NamedTuple):
    """What is static: tiles, dropout, and how far a query may attend."""

    plan: Plan
    reach: int | None

    @property
    def margin(self) -> int:
        """Keys on each side of the tile's own, or of the row."""
        return 0 if self.reach is None else max(1, -(-self.reach // HALF)) * HALF

    @property
    def width(self) -> int:
        """Keys of a grid step."""
        return self.plan.padded_length if self.reach is None else self.plan.tile + 2 * self.margin

    def parts(self) -> tuple[tuple[Any, int], ...]:
        """(First position, number) of the keys: on the left, the tile's own, and on the right. Those that
        would lie outside the row are others, to which no query attends."""
        tile, margin, length = self.plan.tile, self.margin, self.plan.padded_length
        if self.reach is None:
            return ((0, length),)
        first = self.first_query()
        left = pl.multiple_of(jnp.maximum(first - margin, 0), HALF)
        right = pl.multiple_of(jnp.minimum(first + tile, length - margin), HALF)
        return (left, margin), (first, tile), (right, margin)

    def first_query(self) -> jax.Array:
        """Position of the tile's first query, in a kernel."""
        return pl.multiple_of(pl.program_id(2) * self.plan.tile, LANES)

    def read(self, ref: Any) -> jax.Array:
        """The keys' rows [J, X] of a whole row [1, L, X]."""
        return jnp.concatenate([ref[0, pl.ds(*part), :] for part in self.parts()], axis=0)

    def add(self, sums_LX: Any, x_JX: jax.Array) -> None:
        """Add the keys' rows to those of a whole row."""
        done = 0
        for first, size in self.parts():
            sums_LX[pl.ds(first, size), :] += x_JX[done : done + size]
            done += size

    def is_allowed(self, operands: Operands) -> jax.Array:
        """Whether a query may attend to a key, [I, J]."""
        tile, first = self.plan.tile, self.first_query()
        segments_I1 = column(operands.segments_B1L[0, :, pl.ds(first, tile)])
        if self.reach is None:
            return segments_I1 == operands.key_segments_B1M[0]
        is_same_IJ = segments_I1 == operands.key_segments_B1M[0, :, pl.ds(first, self.width)]
        query_IJ, key_IJ = (
            jax.lax.broadcasted_iota(jnp.int32, (tile, self.width), axis) for axis in range(2)
        )
        return is_same_IJ & (jnp.abs(query_IJ + self.margin - key_IJ) <= self.reach)

    def drop(self, operands: Operands, head: int, *arrays_IJ: jax.Array) -> list[jax.Array]:
        """`KernelPlan.drop` of the tile and all keys of the row."""
        block, row, position = pl.program_id(0), pl.program_id(1), (self.first_query(), 0)
        return drop_tile(self.plan, operands.numbers, block, row, head, position, *arrays_IJ)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(call: Call, first_head: jax.Array, rows: Rows, arrays: Arrays) -> jax.Array:
    return _attend_forward(call, first_head, rows, arrays)[0]


def _attend_forward(call, first_head, rows, arrays):
    operands = _operands(call, first_head, rows, arrays)
    context_BLF = _run(
        call,
        _forward_kernel,
        operands,
        out_specs=specs(call.plan).tile,
        out_shape=jax.ShapeDtypeStruct(operands.query_BLF.shape, call.plan.dtype),
        semantics=("parallel", "parallel", "parallel"),
        name="attention_forward",
    )
    context_BLHK = checkpoint_name(from_blocks(context_BLF, arrays[0].shape), CONTEXT_NAME)
    return context_BLHK, (first_head, rows, arrays)


def _attend_backward(call, residuals, gradient_BLHK):
    first_head, rows, arrays = residuals
    plan, spec = call.plan, specs(call.plan)
    operands = _operands(call, first_head, rows, arrays)
    gradient_BLF = to_blocks(plan, gradient_BLHK.astype(plan.dtype))
    sums = pltpu.VMEM((plan.padded_length, LANES), jnp.float32)
    gradients = _run(
        call,
        _backward_kernel,
        operands,
        gradient_BLF,
        out_specs=[spec.tile, spec.whole, spec.whole],
        out_shape=[jax.ShapeDtypeStruct(gradient_BLF.shape, plan.dtype)] * 3,
        scratch_shapes=[sums, sums],
        semantics=("parallel", "parallel", "arbitrary"),
        name="attention_backward",
    )
    return None, None, tuple(from_blocks(x_BLF, arrays[0].shape) for x_BLF in gradients)


_attend.defvjp(_attend_forward, _attend_backward)


def _operands(call: Call, first_head: jax.Array, rows: Rows, arrays: Arrays) -> Operands:
    plan = call.plan
    missing = plan.padded_length - plan.length
    segments_BL = jnp.pad(rows.segments_BL, ((0, 0), (0, missing)), constant_values=-1)
    margins = ((0, 0), (call.margin, call.margin))
    key_segments_BM = jnp.pad(segments_BL, margins, constant_values=OUTSIDE)
    numbers = jnp.concatenate([rows.words, first_head[None], rows.rows_B.astype(jnp.uint32)])[None]
    blocks = (to_blocks(plan, x_BLHK) for x_BLHK in arrays)
    return Operands(numbers, segments_BL[:, None], key_segments_BM[:, None], *blocks)


def _run(
    call: Call,
    kernel: Callable[..., None],
    operands: Operands,
    *more_tiles: jax.Array,
    semantics: tuple[str, ...],
    **arguments: Any,
) -> Any:
    plan, spec = call.plan, specs(call.plan)
    shape_11M = (1, 1, operands.key_segments_B1M.shape[2])
    key_segments = pl.BlockSpec(shape_11M, lambda block, row, step: (row, 0, 0))
    return pl.pallas_call(
        functools.partial(kernel, call),
        grid=grid_of(plan, operands.query_BLF.shape),
        in_specs=[
            *Operands(spec.numbers, spec.segments, key_segments, spec.tile, spec.whole, spec.whole),
            *[spec.tile] * len(more_tiles),
        ],
        compiler_params=compiler_params(plan, *semantics),
        interpret=plan.is_interpreted,
        **arguments,
    )(*operands, *more_tiles)


def _forward_kernel(call: Call, *refs: Any) -> None:
    operands, context_ref = Operands(*refs[:-1]), refs[-1]
    plan = call.plan
    is_allowed_IJ = call.is_allowed(operands)
    query_IX, key_JX, value_JX = _content(call, operands)
    context_IX = jnp.zeros(query_IX.shape, jnp.float32)
    for head in range(plan.block_heads):
        weights_IJ, total_I1 = _weights(plan, only(plan, head, query_IX), key_JX, is_allowed_IJ)
        (dropped_IJ,) = call.drop(operands, head, weights_IJ)
        sums_IX = plan.multiply("IJ,JX->IX", dropped_IJ, value_JX)
        context_IX += only(plan, head, sums_IX / (total_I1 * plan.keep_prob))
    context_ref[0] = context_IX.astype(context_ref.dtype)


def _backward_kernel(call: Call, *refs: Any) -> None:
    operands = Operands(*refs[:6])
    gradient_ref, query_gradient_ref, *key_value_refs = refs[6:10]
    plan = call.plan
    is_allowed_IJ = call.is_allowed(operands)
    query_IX, key_JX, value_JX = _content(call, operands)
    of_query_IX = jnp.zeros(query_IX.shape, jnp.float32)
    of_key_JX = of_value_JX = jnp.zeros(key_JX.shape, jnp.float32)
    for head in range(plan.block_heads):
        own_query_IX = only(plan, head, query_IX)
        gradient_IX = only(plan, head, gradient_ref[0])
        weights_IJ, total_I1 = _weights(plan, own_query_IX, key_JX, is_allowed_IJ)
        weights_IJ = weights_IJ / total_I1
        slopes_IJ = plan.multiply("IX,JX->IJ", gradient_IX, value_JX)
        dropped_IJ, slopes_IJ = call.drop(operands, head, weights_IJ, slopes_IJ)
        mean_I1 = (weights_IJ * slopes_IJ).sum(axis=1, keepdims=True)
        # What dropout keeps is divided by keep_prob: here, once for all.
        dscores_IJ = weights_IJ * (slopes_IJ - mean_I1) * (1.0 / plan.keep_prob)
        of_query_IX += only(plan, head, plan.multiply("IJ,JX->IX", dscores_IJ, key_JX))
        of_key_JX += plan.multiply("IJ,IX->JX", dscores_IJ, own_query_IX)
        of_value_JX += plan.multiply("IJ,IX->JX", dropped_IJ, gradient_IX)
    query_gradient_ref[0] = of_query_IX.astype(plan.dtype)
    _add_up(call, refs[10:], (of_key_JX, of_value_JX / plan.keep_prob), key_value_refs)


def _add_up(call: Call, sums_refs: Any, gradients_JX: Any, refs: Any) -> None:
    """Add the gradients of a step's keys to those of the row; the last tile of a row writes them."""

    @pl.when(pl.program_id(2) == 0)
    def _():
        for sums_LX in sums_refs:
            sums_LX[...] = jnp.zeros_like(sums_LX)

    for sums_LX, x_JX in zip(sums_refs, gradients_JX, strict=True):
        call.add(sums_LX, x_JX)

    @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
    def _():
        for ref, sums_LX in zip(refs, sums_refs, strict=True):
            ref[0] = sums_LX[...].astype(ref.dtype)


def _content(call: Call, operands: Operands) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries [I, X], keys and values [J, X]."""
    return operands.query_BLF[0], call.read(operands.key_BLF), call.read(operands.value_BLF)


def _weights(
    plan: Plan, query_IX: jax.Array, key_JX: jax.Array, is_allowed_IJ: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Exponentials of one head's scores less the largest [I, J], and their sums [I, 1]."""
    scores_IJ = jnp.where(is_allowed_IJ, plan.multiply("IX,JX->IJ", query_IX, key_JX), MASKED)
    weights_IJ = jnp.exp(scores_IJ - scores_IJ.max(axis=1, keepdims=True))
    return weights_IJ, weights_IJ.sum(axis=1, keepdims=True)
