"""Generator and discriminator of a pre-training run or of an export: what they fill in and what they suspect.

Shapes: B batch, L length, M masks, E embedding_size, V vocab, K fillings.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from data_pipelines.tokenizers.load import Tokenizer
from electra_jax.distributed.sharding import axis_context, batch_sharding, replicated
from electra_jax.huggingface.published_models import ModelWeights, PublishedModule
from electra_jax.models.heads import VocabularyLogits
from electra_jax.models.inputs import SpecialTokens, derive_inputs
from electra_jax.models.layers import broadcast_to_rank, einsum_f32
from electra_jax.objectives.row import ObjectiveRow
from electra_jax.objectives.vocabulary import sample_tokens
from electra_jax.prediction.spelling import Speller

MASKS = 64  # positions whose logits over the vocabulary are computed at once


class Pretrained(NamedTuple):
    """A run or an export."""

    name: str  # for messages
    row: ObjectiveRow
    generator: ModelWeights | None  # what was trained to fill in [MASK]
    discriminator: ModelWeights | None
    tokenizer: Tokenizer
    speller: Speller
    max_length: int  # tokens of a row with [CLS] and [SEP]


class Filled(NamedTuple):
    """Tokens for masks, on the host: [M, K], or [K] of one."""

    ids: np.ndarray
    probabilities: np.ndarray


class Networks:
    """The forward passes of a `Pretrained` for rows of fixed shapes."""

    def __init__(self, pretrained: Pretrained, mesh: Mesh):
        self._mesh = mesh
        self.special = SpecialTokens.from_ids(pretrained.tokenizer.special)
        self._generator = self._forward(pretrained.generator, "generator")
        self._discriminator = self._forward(pretrained.discriminator, "discriminator")

    def _forward(self, model: ModelWeights | None, role: str) -> Any:
        """Ids [B, L] → outputs of one encoder; None without a model."""
        if model is None:
            return None
        apply = _compiled(PublishedModule(model.config, role), self.special)
        params = jax.device_put(model.params, replicated(self._mesh))

        def forward(ids_BL: np.ndarray) -> Any:
            with axis_context(self._mesh):
                return apply(params, jax.device_put(ids_BL, batch_sharding(self._mesh)))

        return forward

    def logits(self, ids_BL: np.ndarray) -> np.ndarray:
        """The discriminator's logits [B, L], on the host.

        Raises:
          FloatingPointError: they are not finite.
        """
        return _finite(jax.device_get(self._discriminator(ids_BL)))

    def fill(self, ids_BL: np.ndarray, is_mask_BL: np.ndarray, count: int) -> Filled:
        """The `count` likeliest tokens for each True of `is_mask_BL`, in the order of rows and positions."""
        return self._at_masks(ids_BL, is_mask_BL, lambda *logits: _best(*logits, count))

    def sample(self, ids_BL: np.ndarray, is_mask_BL: np.ndarray, uniforms_M: np.ndarray) -> Filled:
        """A token for each mask as pre-training draws it, at temperature 1; K is 1."""
        padded = np.zeros(-(-len(uniforms_M) // MASKS) * MASKS, np.float32)
        padded[: len(uniforms_M)] = uniforms_M
        parts = iter(padded.reshape(-1, MASKS))
        return self._at_masks(ids_BL, is_mask_BL, lambda *logits: _drawn(*logits, next(parts)))

    def _at_masks(self, ids_BL: np.ndarray, is_mask_BL: np.ndarray, choose: Any) -> Filled:
        """`choose` of the logits' factors at MASKS positions at a time."""
        outputs: VocabularyLogits = self._generator(ids_BL)
        x_ME = _finite(jax.device_get(outputs.x_BPE))[is_mask_BL]
        found = []
        for start in range(0, len(x_ME), MASKS):
            part_ME = np.zeros((MASKS, x_ME.shape[1]), x_ME.dtype)
            part_ME[: len(x_ME) - start] = x_ME[start : start + MASKS]
            found.append(jax.device_get(choose(part_ME, outputs.table_VE, outputs.bias_V)))
        ids_MK, probabilities_MK = (np.concatenate(side)[: len(x_ME)] for side in zip(*found, strict=True))
        return Filled(ids_MK, probabilities_MK)


@functools.cache
def _compiled(module: PublishedModule, special: SpecialTokens) -> Any:
    """(Parameters, ids [B, L]) → outputs of one encoder. Checkpoints of one model share the program."""

    @jax.jit
    def apply(params, ids_BL):
        inputs = derive_inputs(ids_BL, special, module.config.type_vocab_size)
        return module.apply({"params": params}, ids_BL, inputs)

    return apply


def _finite(values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise FloatingPointError(
            "the model computes numbers that are not finite: its training has diverged. Take an earlier "
            "checkpoint with --step."
        )
    return values


def _log_probs(x_ME: jax.Array, table_VE: jax.Array, bias_V: jax.Array) -> jax.Array:
    logits_MV = einsum_f32("ME,VE->MV", x_ME.dtype.name, x_ME, table_VE) + broadcast_to_rank(bias_V, 2)
    return jax.nn.log_softmax(logits_MV)


@functools.partial(jax.jit, static_argnums=3)
def _best(x_ME: jax.Array, table_VE: jax.Array, bias_V: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    log_probs_MK, ids_MK = jax.lax.top_k(_log_probs(x_ME, table_VE, bias_V), count)
    return ids_MK, jnp.exp(log_probs_MK)


@jax.jit
def _drawn(
    x_ME: jax.Array, table_VE: jax.Array, bias_V: jax.Array, uniforms_M: jax.Array
) -> tuple[jax.Array, jax.Array]:
    log_probs_MV = _log_probs(x_ME, table_VE, bias_V)
    ids_M1 = sample_tokens(log_probs_MV, uniforms_M, 1.0)[:, None]
    return ids_M1, jnp.exp(jnp.take_along_axis(log_probs_MV, ids_M1, axis=1))
