"""BERT's post-LayerNorm Transformer encoder, as in google-research/electra model/modeling.py.

With position "relative_bias" all layers add one bias to their attention scores (relative_bias.py).

Shapes: B batch, L length, E embedding_size, D hidden, F mlp.
"""

import jax
from flax import linen as nn

from electra_jax.models.attention import SelfAttention
from electra_jax.models.config import EncoderConfig
from electra_jax.models.disentangled_attention import DisentangledSelfAttention
from electra_jax.models.dropout import Dropout
from electra_jax.models.execution import UNROLLED, LayerExecution
from electra_jax.models.initializers import embeddings_projection, kernel_initializer
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.layer_stack import run_layers
from electra_jax.models.layers import Dense, LayerNorm, gelu
from electra_jax.models.relative_bias import RelativeBias


class Encoder(nn.Module):
    """Embedded tokens [B, L, E] → hidden states [B, L, D].

    If the widths differ, a linear projection with bias, without activation or LayerNorm, comes first.
    """

    config: EncoderConfig
    execution: LayerExecution = UNROLLED

    @nn.compact
    def __call__(self, x_BLE: jax.Array, inputs: EncoderInputs, is_training: bool) -> jax.Array:
        config = self.config
        x_BLD = x_BLE
        if config.embedding_size != config.hidden_size:
            x_BLD = Dense(
                config.hidden_size,
                ("embedding", "embed"),
                embeddings_projection(config),
                config.dtype,
                name="embeddings_project",
            )(x_BLE)
        layers = [
            EncoderLayer(config, index == 0, self.execution.attention, name=f"layer_{index}")
            for index in range(config.num_layers)
        ]
        bias = (
            ()
            if config.relative_bias is None
            else (RelativeBias(config, name="relative_bias")(x_BLD.shape[1]),)
        )
        return run_layers(self, layers, self.execution, x_BLD, inputs, is_training, *bias)


class EncoderLayer(nn.Module):
    """Attention, then two feed-forward layers; each followed by dropout, residual and LayerNorm."""

    config: EncoderConfig
    is_first_layer: bool
    attention: str = "plain"  # LayerExecution.attention

    @nn.compact
    def __call__(
        self,
        x_BLD: jax.Array,
        inputs: EncoderInputs,
        is_training: bool,
        relative: jax.Array | None = None,
        query_BLD: jax.Array | None = None,
    ) -> jax.Array:
        """Hidden states [B, L, D] → hidden states [B, L, D].

        Args:
          x_BLD: states of the layer before.
          inputs: segments and padding.
          is_training: whether dropout is on.
          relative: shared by all layers: the relative table [2S, D] of disentangled attention, or the
            relative bias [H, L, M].
          query_BLD: another stream for the queries and the residual; keys and values are still from `x_BLD`.
        """
        config = self.config
        query_BLD = x_BLD if query_BLD is None else query_BLD
        if config.disentangled is None:
            y_BLD = SelfAttention(config, self.is_first_layer, self.attention, name="attention")(
                query_BLD, inputs, is_training, relative
            )
        else:
            y_BLD = DisentangledSelfAttention(config, self.is_first_layer, self.attention, name="attention")(
                query_BLD, x_BLD, relative, inputs, is_training
            )
        y_BLD = Dropout(config.hidden_dropout, name="attention_dropout")(y_BLD, is_training, inputs.rows_B)
        x_BLD = LayerNorm(config.layer_norm_epsilon, "embed", config.dtype, name="attention_LayerNorm")(
            query_BLD + y_BLD
        )

        kernel_init = kernel_initializer(config)
        y_BLF = Dense(
            config.intermediate_size, ("embed", "mlp"), kernel_init, config.dtype, name="intermediate"
        )(x_BLD)
        y_BLF = nn.with_logical_constraint(gelu(y_BLF), ("batch", "length", "mlp"))
        y_BLD = Dense(config.hidden_size, ("mlp", "embed"), kernel_init, config.dtype, name="output")(y_BLF)
        y_BLD = Dropout(config.hidden_dropout, name="output_dropout")(y_BLD, is_training, inputs.rows_B)
        x_BLD = LayerNorm(config.layer_norm_epsilon, "embed", config.dtype, name="output_LayerNorm")(
            x_BLD + y_BLD
        )
        return nn.with_logical_constraint(x_BLD, ("batch", "length", None))
