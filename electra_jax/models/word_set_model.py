"""The model of PROP: masked language modelling, and a score of each row (objectives/prop.py).

Shapes: B batch, L length, P masked positions, D hidden.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from electra_jax.models.config import EncoderConfig
from electra_jax.models.heads import VocabularyLogits
from electra_jax.models.initializers import kernel_initializer, last_kernel_initializer
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.layers import Dense
from electra_jax.models.pretraining import MaskedLanguageModel

WORD_SET_HEAD = "word_set_predictions"  # its top-level module beside those of MaskedLanguageModel


class RowScore(nn.Module):
    """States of the rows' first tokens [B, D] → one float32 score per row [B]. BERT's pooler and a linear map
    (Albert-Ma/PROP, pytorch_pretrain_bert/modeling.py), without dropout between the two."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x_BD: jax.Array) -> jax.Array:
        config = self.config
        kernel_init = kernel_initializer(config)
        x_B1D = Dense(config.hidden_size, ("embed", "mlp"), kernel_init, config.dtype, name="dense")(
            x_BD[:, None]
        )
        last = Dense(1, ("mlp", "label"), last_kernel_initializer(config), "float32", name="dense_prediction")
        return last(jnp.tanh(x_B1D.astype(jnp.float32)))[:, 0, 0]


class WordSetModel(MaskedLanguageModel):
    """A `MaskedLanguageModel` that also scores how well the words at a row's beginning represent it."""

    def setup(self):
        super().setup()
        self.word_set_predictions = RowScore(self.config.discriminator)

    def __call__(self, ids_BL: jax.Array, inputs: EncoderInputs, positions_BP: jax.Array):
        """`generate_and_score` without dropout, for `init`."""
        return self.generate_and_score(ids_BL, inputs, positions_BP, is_training=False)

    def generate_and_score(
        self, ids_BL: jax.Array, inputs: EncoderInputs, positions_BP: jax.Array, is_training: bool
    ) -> tuple[VocabularyLogits, jax.Array]:
        """Masked ids [B, L] → logits at `positions_BP`, and the rows' scores [B]."""
        logits, x_BLD = self.generate_with_states(ids_BL, inputs, positions_BP, is_training)
        return logits, self.word_set_predictions(x_BLD[:, 0])
