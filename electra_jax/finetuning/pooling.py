"""What a head for whole texts reads of the encoder's states.

Shapes: B batch, L length, D hidden.
"""

import jax
import jax.numpy as jnp

POOLINGS = ("cls", "mean")  # values of config.model.pooling


def pooled_state(x_BLD: jax.Array, ids_BL: jax.Array, pooling: str, pad: int) -> jax.Array:
    """The state [B, 1, D] of [CLS], or with "mean" the mean of all tokens' states."""
    return x_BLD[:, :1] if pooling == "cls" else mean_state(x_BLD, ids_BL, pad)


def mean_state(x_BLD: jax.Array, ids_BL: jax.Array, pad: int) -> jax.Array:
    """The mean state of all tokens but padding, [CLS] and [SEP] included: [B, 1, D] in the dtype of the
    states, summed in float32."""
    is_token_BL1 = (ids_BL != pad)[:, :, None]
    sum_B1D = jnp.where(is_token_BL1, x_BLD, 0).sum(axis=1, keepdims=True, dtype=jnp.float32)
    return (sum_B1D / jnp.maximum(is_token_BL1.sum(axis=1, keepdims=True), 1)).astype(x_BLD.dtype)
