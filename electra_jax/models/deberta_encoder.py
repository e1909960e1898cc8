"""DeBERTa's encoder (microsoft/DeBERTa deberta/bert.py) and its enhanced mask decoder (DeBERTa §3.2;
apps/models/masked_language_model.py).

Shapes: B batch, L length, D hidden, F output channels (as many as D), T taps, N rows of the relative table
(2S).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from electra_jax.models.config import EncoderConfig
from electra_jax.models.dropout import Dropout
from electra_jax.models.encoder import EncoderLayer
from electra_jax.models.execution import UNROLLED, LayerExecution
from electra_jax.models.initializers import kernel_initializer, sinusoidal_positions, table_initializer
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.layer_stack import run_layers
from electra_jax.models.layers import LayerNorm, broadcast_to_rank, einsum_f32, gelu, logical

NUM_DECODER_PASSES = 2  # through the last layer, as in the released code


class DebertaEncoder(nn.Module):
    """Embedded tokens [B, L, D] → hidden states [B, L, D].

    All layers share one table of relative positions, which is normalised once.
    """

    config: EncoderConfig
    execution: LayerExecution = UNROLLED

    @nn.compact
    def __call__(
        self,
        x_BLD: jax.Array,
        inputs: EncoderInputs,
        is_training: bool,
        decoder_positions_BLD: jax.Array | None = None,
    ) -> jax.Array:
        """With `decoder_positions_BLD` the last layer is the enhanced mask decoder.

        It then runs twice. Keys and values are the states of the layer before it; the queries start as these
        states plus the absolute positions, and the second pass reads the output of the first.
        """
        config = self.config
        init = (
            sinusoidal_positions(config.initializer_range)
            if config.initializer == "local"
            else table_initializer(config)
        )
        relative_ND = self.param(
            "rel_embeddings",
            logical(init, "relpos", "embed"),
            (2 * config.disentangled.position_buckets, config.hidden_size),
        )
        relative_ND = LayerNorm(config.layer_norm_epsilon, "embed", config.dtype, name="LayerNorm")(
            relative_ND
        )
        layers = [
            EncoderLayer(config, index == 0, self.execution.attention, name=f"layer_{index}")
            for index in range(config.num_layers)
        ]
        decoder = layers.pop() if decoder_positions_BLD is not None else None
        if config.disentangled.conv_kernel_size:
            embedded_BLD = x_BLD
            x_BLD = run_layers(self, [layers.pop(0)], self.execution, x_BLD, inputs, is_training, relative_ND)
            x_BLD = Convolution(config, name="conv")(embedded_BLD, x_BLD, inputs, is_training)
        x_BLD = run_layers(self, layers, self.execution, x_BLD, inputs, is_training, relative_ND)
        if decoder is None:
            return x_BLD
        stream_BLD = x_BLD + decoder_positions_BLD.astype(x_BLD.dtype)
        for _ in range(NUM_DECODER_PASSES):
            stream_BLD = run_layers(
                self, [decoder], self.execution, x_BLD, inputs, is_training, relative_ND, stream_BLD
            )
        return stream_BLD


class Convolution(nn.Module):
    """v2's convolution: LayerNorm(first layer's output + GELU(dropout(convolution of the embeddings))).

    The result is zero on padding. It is computed as a sum over taps of shifted inputs, so that a window can
    end where its document ends.
    """

    config: EncoderConfig

    @nn.compact
    def __call__(
        self, embedded_BLD: jax.Array, residual_BLD: jax.Array, inputs: EncoderInputs, is_training: bool
    ) -> jax.Array:
        config, width = self.config, self.config.disentangled.conv_kernel_size
        shape = (width, config.hidden_size, config.hidden_size)
        kernel_TDF = self.param("kernel", logical(kernel_initializer(config), "tap", "embed", "mlp"), shape)
        bias_F = self.param("bias", logical(nn.initializers.zeros, "mlp"), shape[-1:])
        y_BLF = jnp.zeros(embedded_BLD.shape, jnp.float32)
        for tap in range(width):
            offset = tap - width // 2
            is_inside_BL = shift(inputs.segments_BL, offset) == inputs.segments_BL
            shifted_BLD = shift(embedded_BLD, offset) * (is_inside_BL & inputs.is_token_BL)[:, :, None]
            y_BLF += einsum_f32("BLD,DF->BLF", config.dtype, shifted_BLD, kernel_TDF[tap])
        y_BLF = (y_BLF + broadcast_to_rank(bias_F, 3)).astype(config.dtype) * inputs.is_token_BL[:, :, None]
        y_BLF = gelu(Dropout(config.hidden_dropout, name="dropout")(y_BLF, is_training, inputs.rows_B))
        x_BLD = LayerNorm(config.layer_norm_epsilon, "embed", config.dtype, name="LayerNorm")(
            residual_BLD + y_BLF
        )
        return x_BLD * inputs.is_token_BL[:, :, None]


def shift(x: jax.Array, offset: int) -> jax.Array:
    """y[:, i] = x[:, i + offset], zero outside the row; among segments, zero means padding."""
    padding = [(0, 0), (max(-offset, 0), max(offset, 0)), *[(0, 0)] * (x.ndim - 2)]
    start = max(offset, 0)
    return jnp.pad(x, padding)[:, start : start + x.shape[1]]
