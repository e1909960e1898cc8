"""An encoder with the head of a downstream task.

Heads are those that each family published, or where they differ those of `transformers`' task classes.
Classification: ELECTRA's own (google-research/electra, finetune/classification) is state of [CLS] → dropout →
dense, where `transformers` has dropout → dense → GELU → dropout → dense; DeBERTa
(apps/models/sequence_classification.py, deberta/pooling.py) in both is dense → GELU → dropout → dense. Tags
of tokens, everywhere: dropout → dense on every state. Answers: span_heads.py.

Shapes: B batch, L length, E embedding_size, D hidden, C outputs of the task.
"""

from typing import Any

import jax
from flax import linen as nn

from electra_jax.finetuning.span_heads import JointSpanHead, SpanHead
from electra_jax.models.config import EncoderConfig
from electra_jax.models.dropout import Dropout
from electra_jax.models.embeddings import Embeddings
from electra_jax.models.initializers import last_kernel_initializer, table_initializer
from electra_jax.models.inputs import SpecialTokens, derive_inputs
from electra_jax.models.layers import Dense, gelu
from electra_jax.models.pretraining import make_encoder

HEADS = ("published", "transformers")


class TaskModel(nn.Module):
    """Ids [B, L] → float32 outputs: [B, C], in tagging [B, L, C], of answers as span_heads.py has them.
    Parameters: "embeddings", "encoder", "head". `labels` are those of a training batch, for a head that
    learns with them; a perturbation of the embeddings is sift.py's."""

    config: EncoderConfig
    special: SpecialTokens
    kind: str
    num_outputs: int
    style: str  # of the head, one of HEADS
    head_dropout: float

    def setup(self):
        self.embeddings = Embeddings(self.config)
        self.encoder = make_encoder(self.config)
        self.head = make_head(
            self.config, self.special, self.kind, self.num_outputs, self.style, self.head_dropout
        )

    def __call__(
        self,
        ids_BL: jax.Array,
        is_training: bool,
        labels: jax.Array | None = None,
        perturbation_BLE: jax.Array | None = None,
    ) -> Any:
        return self.head(self.states(ids_BL, is_training, perturbation_BLE), ids_BL, is_training, labels)

    def states(
        self, ids_BL: jax.Array, is_training: bool, perturbation_BLE: jax.Array | None = None
    ) -> jax.Array:
        """States [B, L, D] after the last layer."""
        inputs = derive_inputs(ids_BL, self.special, self.config.type_vocab_size)
        x_BLE = self.embeddings(ids_BL, inputs, is_training, perturbation_BLE=perturbation_BLE)
        return self.encoder(x_BLE, inputs, is_training)


def make_head(
    config: EncoderConfig, special: SpecialTokens, kind: str, num_outputs: int, style: str, dropout: float
) -> nn.Module:
    """The module between the encoder's states and a task's outputs.

    Raises:
      ValueError: `style` is not one of HEADS.
    """
    if style not in HEADS:
        raise ValueError(f"config.model.head: got {style!r}, expected one of {', '.join(HEADS)}.")
    is_electras_own = style == "published" and config.disentangled is None
    if kind == "question_answering":
        return JointSpanHead(config, special) if is_electras_own else SpanHead(config)
    if kind == "tagging":
        return TaggingHead(config, num_outputs, dropout)
    return ClassificationHead(config, num_outputs, dropout, has_inner_layer=not is_electras_own)


class ClassificationHead(nn.Module):
    """States [B, L, D] → [B, C] from that of [CLS]; the inner layer is DeBERTa's pooler, or the one of
    `transformers`."""

    config: EncoderConfig
    num_outputs: int
    dropout: float
    has_inner_layer: bool

    @nn.compact
    def __call__(
        self, x_BLD: jax.Array, ids_BL: jax.Array, is_training: bool, labels: jax.Array | None
    ) -> jax.Array:
        config = self.config
        x_BLD = x_BLD[:, :1]
        if self.has_inner_layer:
            if config.disentangled is None:
                x_BLD = Dropout(self.dropout, name="inner_dropout")(x_BLD, is_training)
            kernel_init = table_initializer(config)
            x_BLD = gelu(
                Dense(config.hidden_size, ("embed", "mlp"), kernel_init, config.dtype, name="pooler")(x_BLD)
            )
        x_BLD = Dropout(self.dropout, name="dropout")(x_BLD, is_training)
        return _classifier(config, self.num_outputs)(x_BLD)[:, 0]


class TaggingHead(nn.Module):
    """States [B, L, D] → [B, L, C]."""

    config: EncoderConfig
    num_outputs: int
    dropout: float

    @nn.compact
    def __call__(
        self, x_BLD: jax.Array, ids_BL: jax.Array, is_training: bool, labels: jax.Array | None
    ) -> jax.Array:
        return _classifier(self.config, self.num_outputs)(
            Dropout(self.dropout, name="dropout")(x_BLD, is_training)
        )


def _classifier(config: EncoderConfig, num_outputs: int) -> Dense:
    return Dense(
        num_outputs, ("embed", "label"), last_kernel_initializer(config), "float32", name="classifier"
    )
