"""The forward kernel: context of a tile of queries, by softmax over chunks of keys (online softmax).

Shapes: B rows, L padded length, F features of all heads, I queries of a tile, J keys of a chunk, X features
of a block, N blocks of features, G heads of a block.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from electra_jax.models.disentangled_kernels import MASKED
from electra_jax.models.tpu.blocks import compiler_params, grid_of, specs
from electra_jax.models.tpu.scores import Operands, Step, drop, make_chunk, make_step, masked_scores
from electra_jax.models.tpu.tiles import LANES, Plan, only, over_chunks, row


def forward(plan: Plan, operands: Operands) -> tuple[jax.Array, jax.Array]:
    """Context [B, L, F] in `plan.dtype`, and the logarithm of each query's sum of exponentials [B, N, G,
    L]."""
    batch, length, features = operands.query_BLF.shape
    spec = specs(plan)
    return pl.pallas_call(
        functools.partial(_kernel, plan),
        grid=grid_of(plan, operands.query_BLF.shape),
        in_specs=spec.of_operands,
        out_specs=[spec.tile, spec.row],
        out_shape=[
            jax.ShapeDtypeStruct(operands.query_BLF.shape, plan.dtype),
            jax.ShapeDtypeStruct((batch, features // LANES, plan.block_heads, length), jnp.float32),
        ],
        compiler_params=compiler_params(plan, "parallel", "parallel", "parallel"),
        interpret=plan.is_interpreted,
        name="disentangled_attention_forward",
    )(*operands)


def _kernel(plan: Plan, *refs) -> None:
    step, (context_ref, logsumexp_ref) = make_step(plan, refs[:-2]), refs[-2:]
    query_IX = step.operands.query_BLF[0]
    context_IX = jnp.zeros(query_IX.shape, jnp.float32)
    for head in range(plan.block_heads):
        sums_IX, total_I1, logsumexp_I1 = _attend(step, head, only(plan, head, query_IX))
        context_IX += only(plan, head, sums_IX / (total_I1 * plan.keep_prob))
        logsumexp_ref[0, 0, head : head + 1, :] = row(logsumexp_I1)
    context_ref[0] = context_IX.astype(context_ref.dtype)


def _attend(step: Step, head: int, query_IX: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of one head: sums of the values [I, X], of the weights [I, 1], and its logarithm with the maximum.

    Weights are exponentials of scores less the maximum so far; a larger one shrinks the earlier sums.
    """
    plan = step.plan

    def add_chunk(first, carry):
        largest_I1, total_I1, sums_IX = carry
        chunk = make_chunk(step, first)
        scores_IJ = masked_scores(step, head, query_IX, chunk)
        new_I1 = jnp.maximum(largest_I1, scores_IJ.max(axis=1, keepdims=True))
        weights_IJ, shrink_I1 = jnp.exp(scores_IJ - new_I1), jnp.exp(largest_I1 - new_I1)
        (dropped_IJ,) = drop(step, head, chunk, weights_IJ)
        value_JX = step.operands.value_BLF[0, chunk.keys, :]
        total_I1 = shrink_I1 * total_I1 + weights_IJ.sum(axis=1, keepdims=True)
        sums_IX = shrink_I1 * sums_IX + plan.multiply("IJ,JX->IX", dropped_IJ, value_JX)
        return new_I1, total_I1, sums_IX

    zeros = lambda width: jnp.zeros((plan.tile, width), jnp.float32)
    largest_I1, total_I1, sums_IX = over_chunks(plan, add_chunk, (zeros(1) + MASKED, zeros(1), zeros(LANES)))
    return sums_IX, total_I1, largest_I1 + jnp.log(total_I1)
