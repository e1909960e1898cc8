"""Scores → attention weights: mask, softmax and dropout as one function with a derivative of its own.

Shapes: B batch, H heads, L query length, M key length.
"""

import functools

import jax
import jax.numpy as jnp

from electra_jax.models.dropout import keep_mask

MASKED_SCORE = -1e9  # finite, so that a row of nothing but padding gives a uniform softmax and no NaN


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attention_weights(
    keep_prob: float,
    scores_BHLM: jax.Array,
    segments_BL: jax.Array,
    key: jax.Array | None,
    direction: jax.Array | None = None,
) -> jax.Array:
    """Softmax over the keys of the query's own segment, those in its `direction` where one is given (see
    `EncoderInputs`), then dropout that keeps with `keep_prob`; without a key, none.

    The derivative keeps the weights alone, where plain differentiation would keep every step, and it
    multiplies and sums in two
    passes: XLA's CPU back end turns the sum of a product along rows into thousands of little matrix products.
    """
    return _forward(keep_prob, scores_BHLM, segments_BL, key, direction)[0]


def _forward(keep_prob, scores_BHLM, segments_BL, key, direction):
    scores_BHLM = jnp.where(_allowed(segments_BL, direction), scores_BHLM, MASKED_SCORE)
    # The barrier lets the dropout below read the weights, which are kept anyway, rather than compute them
    # again.
    weights_BHLM = jax.lax.optimization_barrier(jax.nn.softmax(scores_BHLM, axis=-1))
    return _drop(keep_prob, weights_BHLM, key), (weights_BHLM, segments_BL, key, direction)


def _backward(keep_prob, residuals, gradient_BHLM):
    weights_BHLM, segments_BL, key, direction = residuals
    product_BHLM = jax.lax.optimization_barrier(_drop(keep_prob, gradient_BHLM, key) * weights_BHLM)
    gradient_BHLM = product_BHLM - weights_BHLM * product_BHLM.sum(axis=-1, keepdims=True)
    # Several products read this: without the barrier each would compute it again.
    return (
        jax.lax.optimization_barrier(jnp.where(_allowed(segments_BL, direction), gradient_BHLM, 0.0)),
        None,
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


def _drop(keep_prob: float, x_BHLM: jax.Array, key: jax.Array | None) -> jax.Array:
    """Inverted dropout; linear in x, so it is its own derivative."""
    if key is None:
        return x_BHLM
    return jnp.where(keep_mask(key, keep_prob, x_BHLM.shape), x_BHLM / keep_prob, 0.0)
