"""Scores → attention weights: mask, softmax and dropout as one function with a custom derivative.

Shapes: B batch, H heads, L query length, M key length.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from electra_jax.models.dropout import keep_mask
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.layers import ATTENTION_NAME

MASKED_SCORE = -1e9  # finite, so that a row of padding only has a uniform softmax instead of NaN


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attention_weights(
    keep_prob: float, scores_BHLM: jax.Array, inputs: EncoderInputs, key: jax.Array | None
) -> jax.Array:
    """Softmax over the keys in the query's segment, then dropout.

    The derivative stores only the weights; plain differentiation would store every intermediate result. It
    multiplies and sums in two passes, because XLA's CPU back end turns the sum of a product along rows into
    thousands of small matrix products.

    Args:
      keep_prob: probability that dropout keeps a weight.
      scores_BHLM: float32.
      inputs: segments, row numbers, and the direction in which a query may attend.
      key: of the dropout mask; None means no dropout.

    Returns:
      Weights [B, H, L, M] in float32.
    """
    return _forward(keep_prob, scores_BHLM, inputs, key)[0]


def _forward(keep_prob, scores_BHLM, inputs, key):
    segments_BL, rows_B, direction = inputs.segments_BL, inputs.rows_B, inputs.direction
    scores_BHLM = jnp.where(_allowed(segments_BL, direction), scores_BHLM, MASKED_SCORE)
    # With the barrier the dropout below reads the weights, which are stored anyway, instead of recomputing
    # them.
    weights_BHLM = jax.lax.optimization_barrier(jax.nn.softmax(scores_BHLM, axis=-1))
    weights_BHLM = checkpoint_name(weights_BHLM, ATTENTION_NAME)
    return _drop(keep_prob, weights_BHLM, rows_B, key), (weights_BHLM, segments_BL, rows_B, key, direction)


def _backward(keep_prob, residuals, gradient_BHLM):
    weights_BHLM, segments_BL, rows_B, key, direction = residuals
    product_BHLM = jax.lax.optimization_barrier(_drop(keep_prob, gradient_BHLM, rows_B, key) * weights_BHLM)
    gradient_BHLM = product_BHLM - weights_BHLM * product_BHLM.sum(axis=-1, keepdims=True)
    # Several products read this; without the barrier each would recompute it.
    return (
        jax.lax.optimization_barrier(jnp.where(_allowed(segments_BL, direction), gradient_BHLM, 0.0)),
        None,
        None,
    )


attention_weights.defvjp(_forward, _backward)


def _allowed(segments_BL: jax.Array, direction: jax.Array | None) -> jax.Array:
    """Whether a query may attend to a key, [B, 1, L, M]."""
    is_same_B1LM = (segments_BL[:, :, None] == segments_BL[:, None, :])[:, None]
    if direction is None:
        return is_same_B1LM
    index_L = jnp.arange(segments_BL.shape[1])
    return is_same_B1LM & ((index_L[:, None] - index_L[None]) * direction >= 0)[None, None]


def _drop(keep_prob: float, x_BHLM: jax.Array, rows_B: jax.Array, key: jax.Array | None) -> jax.Array:
    """Inverted dropout. It is linear in x, so the same function gives its derivative."""
    if key is None:
        return x_BHLM
    return jnp.where(keep_mask(key, keep_prob, x_BHLM.shape, rows_B), x_BHLM / keep_prob, 0.0)
