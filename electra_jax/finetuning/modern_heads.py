"""ModernBERT's head for tasks, the same in all task classes of `transformers`: dense → GELU → LayerNorm →
dropout → dense, without biases but the last.

Shapes: B batch, L length, D hidden, C outputs of the task.
"""

import jax
from flax import linen as nn

from electra_jax.finetuning.pooling import pooled_state
from electra_jax.finetuning.span_decoding import IndependentOutputs
from electra_jax.models.config import EncoderConfig
from electra_jax.models.dropout import Dropout
from electra_jax.models.initializers import last_kernel_initializer, residual_kernel_initializer
from electra_jax.models.inputs import SpecialTokens
from electra_jax.models.layers import Dense, LayerNorm, gelu


class ModernHead(nn.Module):
    """States [B, L, D] → outputs [B, C] of classification, [B, L, C] of tagging, or start and end logits
    [B, L] of questions."""

    config: EncoderConfig
    special: SpecialTokens
    task_type: str
    num_outputs: int
    dropout: float
    pooling: str  # what classification reads, one of POOLINGS

    @nn.compact
    def __call__(
        self, x_BLD: jax.Array, ids_BL: jax.Array, is_training: bool, labels: jax.Array | None
    ) -> jax.Array | IndependentOutputs:
        config = self.config
        is_of_tokens = self.task_type in ("tagging", "question_answering")
        if not is_of_tokens:
            x_BLD = pooled_state(x_BLD, ids_BL, self.pooling, self.special.pad)
        x_BLD = Dense(
            config.hidden_size,
            ("embed", "mlp"),
            residual_kernel_initializer(config),
            config.dtype,
            has_bias=False,
            name="pooler",
        )(x_BLD)
        x_BLD = LayerNorm(config.layer_norm_epsilon, "mlp", config.dtype, has_bias=False, name="LayerNorm")(
            gelu(x_BLD)
        )
        x_BLD = Dropout(self.dropout, name="dropout")(x_BLD, is_training)
        y_BLC = Dense(
            self.num_outputs, ("mlp", "label"), last_kernel_initializer(config), "float32", name="classifier"
        )(x_BLD)
        if self.task_type == "question_answering":
            return IndependentOutputs(y_BLC[..., 0], y_BLC[..., 1])
        return y_BLC if is_of_tokens else y_BLC[:, 0]
