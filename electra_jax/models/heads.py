"""The two pre-training heads (google-research/electra run_pretraining.py).

Shapes: B batch, L length, P masked positions, D hidden, E embedding_size, V vocab.
"""

import jax
from flax import linen as nn

from electra_jax.models.config import EncoderConfig
from electra_jax.models.initializers import glorot_uniform, kernel_initializer
from electra_jax.models.layers import Dense, LayerNorm, broadcast_to_rank, contract, gelu, logical


class GeneratorPredictions(nn.Module):
    """Hidden states of the masked positions [B, P, D] → logits [B, P, V] in float32, against the token table [V, E]."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x_BPD: jax.Array, word_table_VE: jax.Array) -> jax.Array:
        config = self.config
        kernel_init = kernel_initializer(config.initializer, config.initializer_range)
        x_BPE = Dense(config.embedding_size, ("embed", "embedding"), kernel_init, config.dtype, name="dense")(x_BPD)
        x_BPE = LayerNorm(config.layer_norm_epsilon, "embedding", config.dtype, name="LayerNorm")(gelu(x_BPE))
        bias_V = self.param("bias", logical(nn.initializers.zeros, "vocab"), (config.vocab_size,))
        logits_BPV = contract("BPE,VE->BPV", config.dtype, x_BPE, word_table_VE)
        logits_BPV = nn.with_logical_constraint(logits_BPV, ("batch", None, "vocab"))
        return logits_BPV + broadcast_to_rank(bias_V, 3)


class DiscriminatorPredictions(nn.Module):
    """Hidden states [B, L, D] → one float32 logit a token [B, L]; positive means "replaced". No LayerNorm, no dropout."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        config = self.config
        kernel_init = kernel_initializer(config.initializer, config.initializer_range)
        x_BLD = Dense(config.hidden_size, ("embed", "mlp"), kernel_init, config.dtype, name="dense")(x_BLD)
        # The last product is tiny and its result is a logit: float32.
        return Dense(1, ("mlp", "label"), glorot_uniform(), "float32", name="dense_prediction")(gelu(x_BLD))[..., 0]
