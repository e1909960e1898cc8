"""Multi-head self-attention of BERT: queries, keys and values with bias, scores divided by √K, inside segments.

Shapes: B batch, L query length, M key length, D hidden, H heads, K head dim.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from electra_jax.models.config import EncoderConfig
from electra_jax.models.initializers import kernel_initializer, neighbour_projection
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.layers import Dense, Dropout, broadcast_to_rank, logical

MASKED_SCORE = -1e9  # finite, so that a row of nothing but padding gives a uniform softmax and no NaN


class SelfAttention(nn.Module):
    """x_BLD → x_BLD: attention and its output projection, before dropout and residual."""

    config: EncoderConfig
    is_first: bool

    @nn.compact
    def __call__(self, x_BLD: jax.Array, inputs: EncoderInputs, is_training: bool) -> jax.Array:
        config = self.config
        qkv_BLTHK = self._project(x_BLD)
        query_BLHK, key_BMHK, value_BMHK = (qkv_BLTHK[:, :, i] for i in range(3))
        # Scaling queries rather than scores touches L·K numbers a head instead of L·M.
        query_BLHK *= jnp.asarray(1.0 / np.sqrt(config.head_size), query_BLHK.dtype)
        scores_BHLM = jnp.einsum("BLHK,BMHK->BHLM", query_BLHK, key_BMHK).astype(jnp.float32)
        allowed_BLM = inputs.segments_BL[:, :, None] == inputs.segments_BL[:, None, :]
        scores_BHLM = jnp.where(allowed_BLM[:, None], scores_BHLM, MASKED_SCORE)
        weights_BHLM = jax.nn.softmax(scores_BHLM, axis=-1).astype(config.dtype)
        weights_BHLM = Dropout(config.attention_dropout, name="dropout")(weights_BHLM, is_training)
        context_BLHK = jnp.einsum("BHLM,BMHK->BLHK", weights_BHLM, value_BMHK)
        context_BLD = context_BLHK.reshape(*context_BLHK.shape[:2], config.hidden_size)
        kernel_init = kernel_initializer(config.initializer, config.initializer_range)
        return Dense(config.hidden_size, ("heads", "embed"), kernel_init, config.dtype, name="output")(context_BLD)

    def _project(self, x_BLD: jax.Array) -> jax.Array:
        """Queries, keys and values in one matrix product: [B, L, 3, H, K]. Stacking leaves the head axis shardable."""
        config = self.config
        projections = [Projection(config, role, self._kernel_init(role), name=role)(x_BLD.shape[-1])
                       for role in ("query", "key", "value")]
        kernel_DTHK = jnp.stack([kernel for kernel, _ in projections], axis=1).astype(config.dtype)
        bias_THK = jnp.stack([bias for _, bias in projections]).astype(config.dtype)
        qkv_BLTHK = jnp.einsum("BLD,DTHK->BLTHK", x_BLD, kernel_DTHK) + broadcast_to_rank(bias_THK, 5)
        return nn.with_logical_constraint(qkv_BLTHK, ("batch", "length", None, "heads", "kv"))

    def _kernel_init(self, role: str) -> nn.initializers.Initializer:
        config = self.config
        if config.initializer == "local" and self.is_first and role != "value":
            return neighbour_projection(config.initializer_range, role)
        return kernel_initializer(config.initializer, config.initializer_range)


class Projection(nn.Module):
    """Kernel [D, H, K] and bias [H, K] of a query, key or value."""

    config: EncoderConfig
    role: str
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, width: int) -> tuple[jax.Array, jax.Array]:
        shape = (self.config.num_heads, self.config.head_size)
        kernel_DHK = self.param("kernel", logical(self.kernel_init, "embed", "heads", "kv"), (width, *shape))
        bias_HK = self.param("bias", logical(nn.initializers.zeros, "heads", "kv"), shape)
        return kernel_DHK, bias_HK
