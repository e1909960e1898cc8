"""The pre-training heads (google-research/electra run_pretraining.py; microsoft/DeBERTa apps/models).

Shapes: B batch, L length, P masked positions, D hidden, E embedding_size, V vocab.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from electra_jax.models.config import EncoderConfig
from electra_jax.models.initializers import kernel_initializer, last_kernel_initializer
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.layers import Dense, LayerNorm, gelu, logical


class VocabularyLogits(NamedTuple):
    """The factors of logits_BPV = x_BPE · table_VEᵀ + bias_V; objectives/vocabulary.py multiplies them."""

    x_BPE: jax.Array  # compute dtype
    table_VE: jax.Array  # float32
    bias_V: jax.Array  # float32


class GeneratorPredictions(nn.Module):
    """Hidden states of masked positions [B, P, D] and the token table [V, E] → logits over the vocabulary."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x_BPD: jax.Array, word_table_VE: jax.Array) -> VocabularyLogits:
        config = self.config
        kernel_init = kernel_initializer(config)
        has_bias = config.family.has_biases
        x_BPE = Dense(
            config.embedding_size, ("embed", "embedding"), kernel_init, config.dtype, has_bias, name="dense"
        )(x_BPD)
        x_BPE = LayerNorm(config.layer_norm_epsilon, "embedding", config.dtype, has_bias, name="LayerNorm")(
            gelu(x_BPE)
        )
        bias_V = self.param("bias", logical(nn.initializers.zeros, "vocab"), (config.vocab_size,))
        return VocabularyLogits(x_BPE, word_table_VE, bias_V)


class DiscriminatorPredictions(nn.Module):
    """Hidden states [B, L, D] → one float32 logit per token [B, L]; positive means "replaced". No dropout.

    ELECTRA's head is dense → GELU → dense. DeBERTa's first adds the state of [CLS] to every token, followed
    by a LayerNorm. ModernBERT's has a LayerNorm after GELU, as its heads for tasks have.
    """

    config: EncoderConfig

    @nn.compact
    def __call__(self, x_BLD: jax.Array, inputs: EncoderInputs) -> jax.Array:
        config = self.config
        if config.family.adds_cls_in_head:
            # In packed rows, the [CLS] of the token's document.
            start_BL = jnp.maximum(jnp.arange(x_BLD.shape[1])[None] - inputs.positions_BL, 0)
            x_BLD += jnp.take_along_axis(x_BLD, start_BL[:, :, None], axis=1)
            x_BLD = LayerNorm(config.layer_norm_epsilon, "embed", config.dtype, name="LayerNorm")(x_BLD)
        has_bias = config.family.has_biases
        x_BLD = Dense(
            config.hidden_size,
            ("embed", "mlp"),
            kernel_initializer(config),
            config.dtype,
            has_bias,
            name="dense",
        )(x_BLD)
        x_BLD = gelu(x_BLD)
        if config.family.normalizes_in_head:
            x_BLD = LayerNorm(config.layer_norm_epsilon, "mlp", config.dtype, has_bias, name="LayerNorm")(
                x_BLD
            )
        # Logits are float32, and this product is small.
        kernel_init = last_kernel_initializer(config)
        return Dense(1, ("mlp", "label"), kernel_init, "float32", name="dense_prediction")(x_BLD)[..., 0]
