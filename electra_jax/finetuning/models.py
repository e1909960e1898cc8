"""An encoder with the head of a downstream task, as each family published it.

ELECTRA (google-research/electra, finetune/classification): state of [CLS] → dropout → dense; no layer in between, unlike
`transformers`' ElectraClassificationHead. DeBERTa (apps/models/sequence_classification.py, deberta/pooling.py): state of [CLS]
→ dense → GELU → dropout → dense. Tags of tokens, in both: dropout → dense on every state.

Shapes: B batch, L length, D hidden, C outputs of the task.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from electra_jax.models.config import EncoderConfig
from electra_jax.models.dropout import Dropout
from electra_jax.models.embeddings import Embeddings
from electra_jax.models.initializers import last_kernel_initializer, table_initializer
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.layers import Dense, gelu
from electra_jax.models.pretraining import make_encoder

KINDS = ("classification", "regression", "tagging")


class TaskModel(nn.Module):
    """Ids [B, L] → float32 outputs: [B, C], or [B, L, C] in tagging. Parameters: "embeddings", "encoder", "head"."""

    config: EncoderConfig
    kind: str  # one of KINDS
    num_outputs: int
    head_dropout: float

    def setup(self):
        self.embeddings = Embeddings(self.config)
        self.encoder = make_encoder(self.config)
        self.head = TaskHead(self.config, self.kind, self.num_outputs, self.head_dropout)

    def __call__(self, ids_BL: jax.Array, inputs: EncoderInputs, is_training: bool) -> jax.Array:
        return self.head(self.encoder(self.embeddings(ids_BL, inputs, is_training), inputs, is_training), is_training)


class TaskHead(nn.Module):
    """States [B, L, D] → outputs."""

    config: EncoderConfig
    kind: str
    num_outputs: int
    dropout: float

    @nn.compact
    def __call__(self, x_BLD: jax.Array, is_training: bool) -> jax.Array:
        config = self.config
        if self.kind != "tagging":
            x_BLD = x_BLD[:, :1]
            if config.disentangled is not None:
                kernel_init = table_initializer(config)
                x_BLD = gelu(Dense(config.hidden_size, ("embed", "mlp"), kernel_init, config.dtype, name="pooler")(x_BLD))
        x_BLD = Dropout(self.dropout, name="dropout")(x_BLD, is_training)
        kernel_init = last_kernel_initializer(config)
        outputs_BLC = Dense(self.num_outputs, ("embed", "label"), kernel_init, "float32", name="classifier")(x_BLD)
        return outputs_BLC if self.kind == "tagging" else outputs_BLC[:, 0]


def task_loss(kind: str, outputs: jax.Array, labels: jax.Array, is_scored: jax.Array) -> jax.Array:
    """Mean loss over the scored entries, of [B, C] and [B], or in tagging of [B, L, C] and [B, L].

    Cross-entropy; in regression the squared error of the one output.
    """
    weights = is_scored.astype(jnp.float32)
    if kind == "regression":
        losses = jnp.square(outputs[..., 0] - labels)
    else:
        log_probabilities = jax.nn.log_softmax(outputs)
        losses = -jnp.take_along_axis(log_probabilities, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    return (weights * losses).sum() / jnp.maximum(weights.sum(), 1.0)
