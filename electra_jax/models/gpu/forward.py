"""The forward kernel: context of a tile of queries, by softmax over tiles of keys (online softmax).

Shapes: B rows, L padded length, H heads, K head dim, I queries of a tile, J keys of a tile.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from electra_jax.models.disentangled_kernels import MASKED
from electra_jax.models.gpu.launch import call, tile_of_head, tile_of_row
from electra_jax.models.gpu.scores import Head, Operands, drop, masked_scores
from electra_jax.models.gpu.tiles import Plan


def forward(plan: Plan, operands: Operands) -> tuple[jax.Array, jax.Array]:
    """Context [B, L, H, K] in the plan's dtype, and the logarithm of each query's sum of exponentials [B, H,
    L]."""
    batch, length, heads, _ = shape = operands.query_BLHK.shape
    return call(
        plan,
        functools.partial(_kernel, plan),
        "disentangled_attention_forward",
        grid=(plan.num_tiles, heads, batch),
        operands=operands,
        outputs=[
            (tile_of_head(plan), jax.ShapeDtypeStruct(shape, plan.dtype)),
            (tile_of_row(plan), jax.ShapeDtypeStruct((batch, heads, length), jnp.float32)),
        ],
        products=6,  # the windows' are twice as wide
    )


def _kernel(plan: Plan, *refs) -> None:
    tile, number, row = map(pl.program_id, range(3))
    head = Head(plan, Operands(*refs[:-2]), row, number)
    context_ref, logsumexp_ref = refs[-2:]
    queries = head.queries(tile)

    def add_keys(number, carry):
        """Weights are exponentials of scores less the maximum so far; a larger one shrinks earlier sums."""
        largest_I, total_I, sums_IK = carry
        keys = head.keys(number)
        scores_IJ = masked_scores(plan, queries, keys, head.windows(number - tile))
        new_I = jnp.maximum(largest_I, scores_IJ.max(axis=1))
        weights_IJ, shrink_I = jnp.exp(scores_IJ - new_I[:, None]), jnp.exp(largest_I - new_I)
        (dropped_IJ,) = drop(head, tile, number, weights_IJ)
        sums_IK = shrink_I[:, None] * sums_IK + plan.multiply("IJ,JK->IK", dropped_IJ, keys.value_JK)
        return new_I, shrink_I * total_I + weights_IJ.sum(axis=1), sums_IK

    zeros_I = jnp.zeros(plan.tile, jnp.float32)
    start = zeros_I + MASKED, zeros_I, jnp.zeros((plan.tile, plan.head_size), jnp.float32)
    largest_I, total_I, sums_IK = jax.lax.fori_loop(*head.span(tile), add_keys, start)
    context_ref[...] = (sums_IK / (total_I * plan.keep_prob)[:, None]).astype(plan.dtype)
    logsumexp_ref[...] = largest_I + jnp.log(total_I)
