"""BERT's multi-head self-attention: projections with biases, scores divided by √K, attention within segments.

With position "relative_bias", a bias for the distance between query and key is added to the scores
(relative_bias.py).

Shapes: B batch, L query length, M key length, D hidden, H heads, K head dim.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from electra_jax.models.config import EncoderConfig
from electra_jax.models.global_attention import global_attention
from electra_jax.models.initializers import kernel_initializer, neighbour_projection
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.layers import CHECKPOINT_NAME, Dense, broadcast_to_rank, einsum_f32, logical


class SelfAttention(nn.Module):
    """x_BLD → x_BLD: attention and its output projection, before dropout and residual."""

    config: EncoderConfig
    is_first_layer: bool  # initializer "local" starts it differently
    form: str = "plain"  # LayerExecution.attention

    @nn.compact
    def __call__(
        self, x_BLD: jax.Array, inputs: EncoderInputs, is_training: bool, bias_HLM: jax.Array | None = None
    ) -> jax.Array:
        """`bias_HLM` is added to the scores, in float32."""
        config = self.config
        query_BLHK, key_BMHK, value_BMHK = (
            Projection(config, self._kernel_init(role), name=role)(x_BLD)
            for role in ("query", "key", "value")
        )
        # Scaling the queries, not the scores: L·K numbers per head instead of L·M.
        query_BLHK *= jnp.asarray(1.0 / np.sqrt(config.head_size), query_BLHK.dtype)
        arrays = query_BLHK, key_BMHK, value_BMHK
        key = self.make_rng("dropout") if is_training and config.attention_dropout else None
        keep_prob = 1.0 - config.attention_dropout
        form = "plain" if self.is_initializing() else self.form
        context_BLHK = global_attention(keep_prob, config.dtype, arrays, inputs, key, bias_HLM, form)
        context_BLD = context_BLHK.reshape(*context_BLHK.shape[:2], config.hidden_size)
        kernel_init = kernel_initializer(config)
        return Dense(config.hidden_size, ("heads", "embed"), kernel_init, config.dtype, name="output")(
            context_BLD
        )

    def _kernel_init(self, role: str) -> nn.initializers.Initializer:
        config = self.config
        if (
            config.initializer == "local"
            and config.has_input_positions
            and self.is_first_layer
            and role != "value"
        ):
            return neighbour_projection(config, role)
        return kernel_initializer(config)


class Projection(nn.Module):
    """x_BLD → queries, keys or values [B, L, H, K]: a linear map, with a bias if the family has them."""

    config: EncoderConfig
    kernel_init: nn.initializers.Initializer
    bias_init: nn.initializers.Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        config = self.config
        shape = (config.num_heads, config.head_size)
        kernel_DHK = self.param(
            "kernel", logical(self.kernel_init, "embed", "heads", "kv"), (x_BLD.shape[-1], *shape)
        )
        y_BLHK = einsum_f32("BLD,DHK->BLHK", config.dtype, x_BLD, kernel_DHK)
        if config.family.has_biases:
            bias_HK = self.param("bias", logical(self.bias_init, "heads", "kv"), shape)
            y_BLHK += broadcast_to_rank(bias_HK, 4)
        y_BLHK = nn.with_logical_constraint(y_BLHK.astype(config.dtype), ("batch", "length", "heads", "kv"))
        return checkpoint_name(y_BLHK, CHECKPOINT_NAME)
