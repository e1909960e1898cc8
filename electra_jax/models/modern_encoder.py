"""ModernBERT's encoder: pre-norm layers without biases, rotary positions, a gated feed-forward layer, and
attention that is global in every third layer and local in the others (Warner et al., "Smarter, Better,
Faster, Longer", 2024; `ModernBertModel` of transformers).

Shapes: B batch, L length, D hidden, F mlp.
"""

import jax
from flax import linen as nn

from electra_jax.models.config import EncoderConfig
from electra_jax.models.dropout import Dropout
from electra_jax.models.execution import UNROLLED, LayerExecution
from electra_jax.models.initializers import kernel_initializer, residual_kernel_initializer
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.layer_stack import run_layers
from electra_jax.models.layers import Dense, LayerNorm, gated_gelu
from electra_jax.models.rotary import RotarySelfAttention, Rotations, make_rotations


class ModernEncoder(nn.Module):
    """Embedded tokens [B, L, D] → hidden states [B, L, D], after a final LayerNorm."""

    config: EncoderConfig
    execution: LayerExecution = UNROLLED

    @nn.compact
    def __call__(self, x_BLD: jax.Array, inputs: EncoderInputs, is_training: bool) -> jax.Array:
        config = self.config
        rotations = make_rotations(config, inputs.positions_BL)
        layers = [
            ModernLayer(
                config,
                index == 0,
                config.rotary.is_global(index),
                self.execution.attention,
                name=f"layer_{index}",
            )
            for index in range(config.num_layers)
        ]
        # The first layer has different parameters from the other global layers.
        period = config.rotary.global_attention_every
        for part in (layers[:1], layers[1:]):
            if part:
                x_BLD = run_layers(
                    self, part, self.execution, x_BLD, inputs, is_training, rotations, period=period
                )
        return LayerNorm(
            config.layer_norm_epsilon, "embed", config.dtype, has_bias=False, name="final_LayerNorm"
        )(x_BLD)


class ModernLayer(nn.Module):
    """LayerNorm and attention, then LayerNorm and a gated feed-forward layer, each added to its input. The
    first layer has no LayerNorm before attention, since the embeddings have just been normalised."""

    config: EncoderConfig
    is_first_layer: bool
    is_global: bool
    attention: str = "plain"  # LayerExecution.attention

    @nn.compact
    def __call__(
        self, x_BLD: jax.Array, inputs: EncoderInputs, is_training: bool, rotations: Rotations
    ) -> jax.Array:
        config = self.config
        norm = lambda name: LayerNorm(
            config.layer_norm_epsilon, "embed", config.dtype, has_bias=False, name=name
        )
        y_BLD = x_BLD if self.is_first_layer else norm("attention_LayerNorm")(x_BLD)
        attention = RotarySelfAttention(
            config, self.is_global, self.is_first_layer, self.attention, name="attention"
        )
        y_BLD = attention(y_BLD, inputs, is_training, rotations)
        rate = config.rotary.attention_output_dropout
        x_BLD += Dropout(rate, name="attention_dropout")(y_BLD, is_training, inputs.rows_B)

        product = lambda name, features, axes, init: Dense(
            features, axes, init(config), config.dtype, has_bias=False, name=name
        )
        y_BLD, inner = norm("mlp_LayerNorm")(x_BLD), (config.intermediate_size, ("embed", "mlp"))
        y_BLF = gated_gelu(
            product("intermediate", *inner, kernel_initializer)(y_BLD),
            product("gate", *inner, kernel_initializer)(y_BLD),
        )
        y_BLF = nn.with_logical_constraint(y_BLF, ("batch", "length", "mlp"))
        output = product("output", config.hidden_size, ("mlp", "embed"), residual_kernel_initializer)
        x_BLD += Dropout(config.hidden_dropout, name="output_dropout")(
            output(y_BLF), is_training, inputs.rows_B
        )
        return nn.with_logical_constraint(x_BLD, ("batch", "length", None))
