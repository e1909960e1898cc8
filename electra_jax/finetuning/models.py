"""An encoder with the head of a downstream task.

config.model.head chooses the head that the family published, or that of the task classes of `transformers`:

                                 published                        transformers
    classification, ELECTRA      dropout → dense                  dropout → dense → GELU → dropout → dense
    classification, DeBERTa      dense → GELU → dropout → dense   the same
    tagging                      dropout → dense on every state   the same
    question answering, ELECTRA  JointSpanHead (span_heads.py)    SpanHead: dense on every state
    question answering, DeBERTa  SpanHead                         the same
    embedding                    EmbeddingHead: none              the same
    all tasks, ModernBERT        ModernHead (modern_heads.py)     the same

Classification and embedding read the state of [CLS], or with config.model.pooling=mean the mean of all states
but those of padding, as ModernBERT's classes can. Sources: google-research/electra, finetune/classification;
microsoft/DeBERTa, apps/models/sequence_classification.py and deberta/pooling.py.

Shapes: B batch, L length, E embedding_size, D hidden, C outputs of the task.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from electra_jax.finetuning.contrastive import OtherTexts, Vectors
from electra_jax.finetuning.modern_heads import ModernHead
from electra_jax.finetuning.packed_rows import PackedRows, unpack_states
from electra_jax.finetuning.pooling import POOLINGS, pooled_state
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
    """Ids [B, L] → float32 outputs [B, C], in tagging [B, L, C]; of answers see span_heads.py. Of embeddings
    they are the vectors [B, D].

    Its parameters are "embeddings", "encoder" and "head", which embeddings lack.
    """

    config: EncoderConfig
    special: SpecialTokens
    task_type: str
    num_outputs: int
    head_style: str  # one of HEADS
    head_dropout: float
    pooling: str = "cls"  # one of POOLINGS

    def setup(self):
        self.embeddings = Embeddings(self.config)
        self.encoder = make_encoder(self.config)
        self.head = make_head(
            self.config,
            self.special,
            self.task_type,
            self.num_outputs,
            self.head_style,
            self.head_dropout,
            self.pooling,
        )

    def __call__(
        self,
        ids_BL: jax.Array,
        is_training: bool,
        labels: Any = None,
        perturbation_BLE: jax.Array | None = None,
        packed: PackedRows | None = None,
    ) -> Any:
        """The task's outputs.

        Args:
          labels: of a training batch, for a head that needs them in training (JointSpanHead). Of embeddings
            they are OtherTexts, and the outputs the Vectors of all texts.
          perturbation_BLE: added to the embeddings (sift.py), those of `packed` if it is given.
          packed: the texts as the encoder computes them, of embeddings those of `labels` behind those of
            `ids_BL`; None: as they are.
        """
        if isinstance(labels, OtherTexts):
            return self._vectors(ids_BL, is_training, labels, packed)
        if packed is None:
            x_BLD = self.states(ids_BL, is_training, perturbation_BLE)
        else:
            x_RLD = self.states(packed.ids_RL, is_training, perturbation_BLE)
            x_BLD = self._unpacked(x_RLD, packed.first_B, ids_BL)
        return self.head(x_BLD, ids_BL, is_training, labels)

    def _vectors(
        self, ids_BL: jax.Array, is_training: bool, labels: OtherTexts, packed: PackedRows | None
    ) -> Vectors:
        batch_size, num_others, length = labels.ids_BTL.shape
        others_CL = labels.ids_BTL.reshape(-1, length)
        if packed is None:
            others_CD, queries_BD = self(others_CL, is_training), self(ids_BL, is_training)
        else:
            # In rows together: with two packings each step would have two numbers of rows, and as many
            # programs to compile as pairs of them.
            x_RLD = self.states(packed.ids_RL, is_training)
            vectors = lambda ids_XL, first_X: self.head(
                self._unpacked(x_RLD, first_X, ids_XL), ids_XL, is_training, None
            )
            queries_BD = vectors(ids_BL, packed.first_B[:batch_size])
            others_CD = vectors(others_CL, packed.first_B[batch_size:])
        return Vectors(queries_BD, others_CD.reshape(batch_size, num_others, -1))

    def _unpacked(self, x_RLD: jax.Array, first_B: jax.Array, ids_BL: jax.Array) -> jax.Array:
        """States of the packed texts `ids_BL`, those that the head reads."""
        reads_all = self.pooling != "cls" or self.task_type in ("tagging", "question_answering")
        return unpack_states(x_RLD, first_B, (ids_BL if reads_all else ids_BL[:, :1]) != self.special.pad)

    def states(
        self, ids_BL: jax.Array, is_training: bool, perturbation_BLE: jax.Array | None = None
    ) -> jax.Array:
        """States [B, L, D] after the last layer."""
        inputs = derive_inputs(ids_BL, self.special, self.config.type_vocab_size)
        x_BLE = self.embeddings(ids_BL, inputs, is_training, perturbation_BLE=perturbation_BLE)
        return self.encoder(x_BLE, inputs, is_training)


def make_head(
    config: EncoderConfig,
    special: SpecialTokens,
    task_type: str,
    num_outputs: int,
    head_style: str,
    dropout: float,
    pooling: str = "cls",
) -> nn.Module:
    """The module that turns the encoder's states into the task's outputs.

    Args:
      pooling: what the head for whole texts reads, the state of "cls" or the "mean" of all.

    Raises:
      ValueError: `head_style` is not one of HEADS, or `pooling` none of POOLINGS.
    """
    if head_style not in HEADS:
        raise ValueError(f"config.model.head: got {head_style!r}, expected one of {', '.join(HEADS)}.")
    if pooling not in POOLINGS:
        raise ValueError(f"config.model.pooling: got {pooling!r:.60}, expected one of {', '.join(POOLINGS)}.")
    if task_type == "embedding":
        return EmbeddingHead(special, pooling)
    task_head = config.family.task_head
    if task_head == "modern":
        return ModernHead(config, special, task_type, num_outputs, dropout, pooling)
    is_electras_own = head_style == "published" and task_head == "electra"
    if task_type == "question_answering":
        return JointSpanHead(config, special) if is_electras_own else SpanHead(config)
    if task_type == "tagging":
        return TaggingHead(config, num_outputs, dropout)
    return ClassificationHead(config, special, num_outputs, dropout, not is_electras_own, pooling)


class ClassificationHead(nn.Module):
    """States [B, L, D] → outputs [B, C] from the state of [CLS], or from the mean of all.

    The inner layer is DeBERTa's pooler, or the first dense layer of `transformers`' ELECTRA head.
    """

    config: EncoderConfig
    special: SpecialTokens
    num_outputs: int
    dropout: float
    has_inner_layer: bool
    pooling: str

    @nn.compact
    def __call__(
        self, x_BLD: jax.Array, ids_BL: jax.Array, is_training: bool, labels: jax.Array | None
    ) -> jax.Array:
        config = self.config
        x_BLD = pooled_state(x_BLD, ids_BL, self.pooling, self.special.pad)
        if self.has_inner_layer:
            if config.family.task_head == "electra":
                x_BLD = Dropout(self.dropout, name="inner_dropout")(x_BLD, is_training)
            kernel_init = table_initializer(config)
            x_BLD = gelu(
                Dense(config.hidden_size, ("embed", "mlp"), kernel_init, config.dtype, name="pooler")(x_BLD)
            )
        x_BLD = Dropout(self.dropout, name="dropout")(x_BLD, is_training)
        return _classifier(config, self.num_outputs)(x_BLD)[:, 0]


class EmbeddingHead(nn.Module):
    """States [B, L, D] → float32 vectors [B, D], the state of [CLS] or the mean of all. No parameters."""

    special: SpecialTokens
    pooling: str

    def __call__(
        self, x_BLD: jax.Array, ids_BL: jax.Array, is_training: bool, labels: jax.Array | None
    ) -> jax.Array:
        return pooled_state(x_BLD.astype(jnp.float32), ids_BL, self.pooling, self.special.pad)[:, 0]


class TaggingHead(nn.Module):
    """States [B, L, D] → outputs [B, L, C]."""

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
