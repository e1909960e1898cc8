"""Scores and values → context: mask, softmax, dropout and the product with the values, with a custom
derivative.

Shapes: B batch, H heads, L query length, M key length, K head dim.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from electra_jax.models.dropout import drop
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.layers import CONTEXT_NAME, WEIGHTS_NAME, einsum_f32, einsum_gradients
from electra_jax.models.traced_device import fusion_barrier

MASKED_SCORE = -1e9  # finite, so that a row of padding only has a uniform softmax instead of NaN
CONTEXT = "BMHK,BHLM->BLHK"


class KeyWindow(NamedTuple):
    """The keys available to a block of queries, and how far a query may attend, in local attention."""

    segments_BM: jax.Array  # int32, as in `EncoderInputs`; −1 outside the row
    distance_LM: jax.Array  # int32: index of the query in its row minus that of the key
    reach: jax.Array  # int32: the greatest distance, in both directions


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def attend(
    keep_prob: float,
    dtype: str,
    scores_BHLM: jax.Array,
    value_BMHK: jax.Array,
    inputs: EncoderInputs,
    key: jax.Array | None,
    window: KeyWindow | None = None,
) -> jax.Array:
    """Softmax over the keys in the query's segment, dropout, and the sum of the values with these weights.

    The derivative stores the weights once, before dropout and in `dtype`, which is also that of the product's
    operands; plain differentiation would store every intermediate result in float32. It multiplies and sums
    in two passes, because XLA's CPU back end turns the sum of a product along rows into thousands of small
    matrix products.

    Args:
      keep_prob: probability that dropout keeps a weight.
      dtype: of weights and values.
      scores_BHLM: float32.
      value_BMHK: in `dtype`.
      inputs: segments of the queries, row numbers, and the direction in which a query may attend.
      key: of the dropout mask; None means no dropout.
      window: segments, distances and reach of the keys in local attention; None: keys and queries are the
        same tokens, at any distance.

    Returns:
      Context [B, L, H, K] in `dtype`.
    """
    return attend_forward(keep_prob, dtype, scores_BHLM, value_BMHK, inputs, key, window)[0]


def attend_forward(keep_prob, dtype, scores_BHLM, value_BMHK, inputs, key, window=None):
    """The result of `attend`, and what `attend_backward` needs; the first of these are the weights."""
    segments_BL, rows_B, direction = inputs.segments_BL, inputs.rows_B, inputs.direction
    scores_BHLM = jnp.where(_allowed(segments_BL, direction, window), scores_BHLM, MASKED_SCORE)
    # With the barrier the dropout below reads the weights, which are stored anyway, instead of recomputing
    # them.
    weights_BHLM = fusion_barrier(jax.nn.softmax(scores_BHLM, axis=-1).astype(dtype))
    weights_BHLM = checkpoint_name(weights_BHLM, WEIGHTS_NAME)
    context_BLHK = einsum_f32(CONTEXT, dtype, value_BMHK, _drop(keep_prob, weights_BHLM, rows_B, key))
    residuals = weights_BHLM, value_BMHK, segments_BL, rows_B, key, direction, window
    return checkpoint_name(context_BLHK.astype(dtype), CONTEXT_NAME), residuals


def attend_backward(keep_prob, dtype, residuals, gradient_BLHK):
    """The gradients of the arguments of `attend`; of the values in their dtype, of the scores in float32."""
    weights_BHLM, value_BMHK, segments_BL, rows_B, key, direction, window = residuals
    dropped_BHLM = _drop(keep_prob, weights_BHLM, rows_B, key)
    gradient_value_BMHK, gradient_BHLM = einsum_gradients(
        CONTEXT, dtype, value_BMHK, dropped_BHLM, gradient_BLHK.astype(jnp.float32)
    )
    weights_BHLM = weights_BHLM.astype(jnp.float32)
    product_BHLM = fusion_barrier(_drop(keep_prob, gradient_BHLM, rows_B, key) * weights_BHLM)
    gradient_BHLM = product_BHLM - weights_BHLM * product_BHLM.sum(axis=-1, keepdims=True)
    # Several products read this; without the barrier each would recompute it.
    gradient_BHLM = fusion_barrier(jnp.where(_allowed(segments_BL, direction, window), gradient_BHLM, 0.0))
    return gradient_BHLM, gradient_value_BMHK.astype(value_BMHK.dtype), None, None, None


attend.defvjp(attend_forward, attend_backward)


def _allowed(segments_BL: jax.Array, direction: jax.Array | None, window: KeyWindow | None) -> jax.Array:
    """Whether a query may attend to a key, [B, 1, L, M]."""
    segments_BM = segments_BL if window is None else window.segments_BM
    is_allowed_B1LM = (segments_BL[:, :, None] == segments_BM[:, None, :])[:, None]
    if window is not None:
        is_allowed_B1LM &= (jnp.abs(window.distance_LM) <= window.reach)[None, None]
    if direction is None:
        return is_allowed_B1LM
    if window is None:
        index_L = jnp.arange(segments_BL.shape[1])
        distance_LM = index_L[:, None] - index_L[None]
    else:
        distance_LM = window.distance_LM
    return is_allowed_B1LM & (distance_LM * direction >= 0)[None, None]


def _drop(keep_prob: float, x_BHLM: jax.Array, rows_B: jax.Array, key: jax.Array | None) -> jax.Array:
    return x_BHLM if key is None else drop(keep_prob, x_BHLM, rows_B, key)
