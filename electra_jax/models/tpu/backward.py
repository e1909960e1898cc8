"""The backward kernel: weights computed again from the saved logarithms, then all five gradients.

The gradients of keys and values add up over the tiles of queries of a row, those of the tables over all rows.
Those of the tables are transposed, [F, T], since their sums would else transpose a product each time.

Shapes: B rows, L padded length, F features of all heads, T = 2·L distances, I queries of a tile, J keys of a
chunk, X features of a block.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from electra_jax.models.tpu.blocks import compiler_params, grid_of, specs
from electra_jax.models.tpu.scores import Chunk, Operands, Step, drop, make_chunk, make_step, masked_scores
from electra_jax.models.tpu.tiles import (
    LANES,
    Plan,
    column,
    inverse_skew,
    only,
    over_chunks,
    reversed_columns,
    reversed_rows,
)


class Saved(NamedTuple):
    """What the backward kernel reads in addition to the operands."""

    context_BLF: Any
    logsumexp: Any  # as `forward` returns it
    gradient_BLF: Any  # of the context


class Gradients(NamedTuple):
    """What it writes."""

    query_BLF: Any
    key_BLF: Any
    value_BLF: Any
    key_FT: Any  # float32, as is the next
    query_FT: Any


class Scratch(NamedTuple):
    """Sums over the tiles of one row, in float32, and the row's keys; reversed within each LANES keys."""

    key_LX: Any  # reversed
    value_LX: Any
    turned_key_XL: Any  # keys, transposed and reversed


class Head(NamedTuple):
    """A tile of queries of one head."""

    number: int  # in its block
    query_IX: jax.Array  # with the features of this head only, as the next
    gradient_IX: jax.Array
    logsumexp_I1: jax.Array
    mean_I1: jax.Array  # of the weights' gradients, with the weights
    turned_query_KI: jax.Array  # this head's features, transposed and reversed

    def features(self, plan: Plan) -> slice:
        return slice(self.number * plan.head_size, (self.number + 1) * plan.head_size)


def backward(plan: Plan, operands: Operands, saved: Saved) -> Gradients:
    """The gradients of queries, keys, values and both tables."""
    _, length, features = operands.query_BLF.shape
    like = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
    table = jax.ShapeDtypeStruct((features, 2 * length), jnp.float32)
    spec = specs(plan)
    sums = pltpu.VMEM((length, LANES), jnp.float32)
    gradients = pl.pallas_call(
        functools.partial(_kernel, plan),
        grid=grid_of(plan, operands.query_BLF.shape),
        in_specs=[*spec.of_operands, *Saved(spec.tile, spec.row, spec.tile)],
        out_specs=list(Gradients(spec.tile, spec.whole, spec.whole, spec.turned_table, spec.turned_table)),
        out_shape=[*map(like, operands[2:5]), table, table],
        scratch_shapes=list(Scratch(sums, sums, pltpu.VMEM((LANES, length), plan.dtype))),
        compiler_params=compiler_params(plan, "parallel", "arbitrary", "arbitrary"),
        interpret=plan.is_interpreted,
        name="disentangled_attention_backward",
    )(*operands, *saved)
    return Gradients(*gradients)


def _kernel(plan: Plan, *refs) -> None:
    step, saved = make_step(plan, refs[:7]), Saved(*refs[7:10])
    gradients, scratch = Gradients(*refs[10:15]), Scratch(*refs[15:])
    _start(step, gradients, scratch)
    dtype, query_IX = plan.dtype, step.operands.query_BLF[0]
    turned_XI = reversed_rows(plan, query_IX).T.astype(dtype)
    sums_IX = jnp.zeros(query_IX.shape, jnp.float32)
    for number in range(plan.block_heads):
        gradient_IX = only(plan, number, saved.gradient_BLF[0])
        product_IX = saved.context_BLF[0].astype(jnp.float32) * gradient_IX.astype(jnp.float32)
        head = Head(
            number,
            only(plan, number, query_IX),
            gradient_IX,
            column(saved.logsumexp[0, 0, number : number + 1, :]),
            product_IX.sum(axis=1, keepdims=True),
            turned_XI[number * plan.head_size : (number + 1) * plan.head_size],
        )
        add_chunk = functools.partial(_add_chunk, step, head, gradients, scratch)
        sums_IX = over_chunks(plan, add_chunk, sums_IX)
    # Numbers that are already rounded to the result's type are reversed exactly.
    gradients.query_BLF[0] = reversed_rows(plan, sums_IX.astype(dtype)).astype(dtype)
    _finish(step, gradients, scratch)


def _start(step: Step, gradients: Gradients, scratch: Scratch) -> None:
    """Zeros where sums begin, and the row's keys in the form that the tables' gradients need."""
    plan, operands = step.plan, step.operands

    @pl.when(step.first_query == 0)
    def _():
        for sums in (scratch.key_LX, scratch.value_LX):
            sums[...] = jnp.zeros_like(sums)

        def turn(first, _):
            for start in range(0, plan.chunk, LANES):
                keys = pl.ds(pl.multiple_of(first + start, LANES), LANES)
                turned_JX = reversed_rows(plan, operands.key_BLF[0, keys, :])
                scratch.turned_key_XL[:, keys] = turned_JX.T.astype(plan.dtype)
            return 0

        over_chunks(plan, turn, 0)

    @pl.when((step.first_query == 0) & (step.row == 0))
    def _():
        for sums in (gradients.key_FT, gradients.query_FT):
            sums[...] = jnp.zeros_like(sums)


def _finish(step: Step, gradients: Gradients, scratch: Scratch) -> None:
    """The sums of a row, after its last tile."""
    plan = step.plan

    @pl.when(step.first_query == plan.padded_length - plan.tile)
    def _():
        def write(first, _):
            for start in range(0, plan.chunk, LANES):
                keys = pl.ds(pl.multiple_of(first + start, LANES), LANES)
                sums_JX = scratch.key_LX[keys, :].astype(plan.dtype)
                gradients.key_BLF[0, keys, :] = reversed_rows(plan, sums_JX).astype(plan.dtype)
            return 0

        over_chunks(plan, write, 0)
        gradients.value_BLF[0] = (scratch.value_LX[...] / plan.keep_prob).astype(plan.dtype)


def _add_chunk(
    step: Step,
    head: Head,
    gradients: Gradients,
    scratch: Scratch,
    first: Any,
    sums_IX: jax.Array,
) -> jax.Array:
    """Add what a chunk of keys gives; returns the gradient of the queries, its rows in reversed order."""
    plan, dtype = step.plan, step.plan.dtype
    chunk = make_chunk(step, first)
    scores_IJ = masked_scores(step, head.number, head.query_IX, chunk)
    weights_IJ = jnp.exp(scores_IJ - head.logsumexp_I1)
    value_JX = step.operands.value_BLF[0, chunk.keys, :]
    slopes_IJ = plan.multiply("IX,JX->IJ", head.gradient_IX, value_JX)
    dropped_IJ, slopes_IJ = drop(step, head.number, chunk, weights_IJ, slopes_IJ)
    dscores_IJ = weights_IJ * (slopes_IJ * (1.0 / plan.keep_prob) - head.mean_I1)
    dscores_IJ = dscores_IJ.astype(dtype)
    scratch.value_LX[chunk.keys, :] += plan.multiply("IJ,IX->JX", dropped_IJ, head.gradient_IX)
    _through_keys(step, head, gradients, scratch, chunk, dscores_IJ)
    return sums_IX + _through_queries(step, head, gradients, chunk, dscores_IJ)


def _through_queries(
    step: Step, head: Head, gradients: Gradients, chunk: Chunk, dscores_IJ: jax.Array
) -> jax.Array:
    """The gradient of the queries, and of the keys' table: products with the queries as rows."""
    plan, operands, window = step.plan, step.operands, chunk.key_window
    dtype = plan.dtype
    turned_IJ = reversed_rows(plan, dscores_IJ)
    spread_IW = inverse_skew(plan, turned_IJ).astype(dtype)
    gradients.key_FT[head.features(plan), window] += plan.multiply(
        "KI,IW->KW", head.turned_query_KI, spread_IW
    )
    of_keys_IX = plan.multiply("IJ,JX->IX", turned_IJ, operands.key_BLF[0, chunk.keys, :])
    of_table_IX = plan.multiply("IW,WX->IX", spread_IW, operands.key_TF[window, :])
    return only(plan, head.number, of_keys_IX + of_table_IX)


def _through_keys(
    step: Step,
    head: Head,
    gradients: Gradients,
    scratch: Scratch,
    chunk: Chunk,
    dscores_IJ: jax.Array,
) -> None:
    """Add to the gradients of the keys and of the queries' table: products with the keys as rows."""
    plan, operands, dtype = step.plan, step.operands, step.plan.dtype
    for n, window in enumerate(chunk.query_windows):
        keys = pl.ds(pl.multiple_of(chunk.first + n * LANES, LANES), LANES)
        turned_JI = reversed_columns(plan, dscores_IJ[:, n * LANES : (n + 1) * LANES])
        spread_JW = inverse_skew(plan, turned_JI).astype(dtype)
        of_queries_JX = plan.multiply("JI,IX->JX", turned_JI, head.query_IX)
        of_table_JX = plan.multiply("JW,WX->JX", spread_JW, operands.query_TF[window, :])
        scratch.key_LX[keys, :] += of_queries_JX + only(plan, head.number, of_table_JX)
        gradients.query_FT[head.features(plan), window] += plan.multiply(
            "KJ,JW->KW", scratch.turned_key_XL[head.features(plan), keys], spread_JW
        )
