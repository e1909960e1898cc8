"""Generator and discriminator of a pre-training run or of an export: what they fill in and what they suspect.

Shapes: B batch, L length, P positions, M masks, E embedding_size, V vocab, K fillings.
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
from electra_jax.objectives.vocabulary import predict_vocabulary, sample_tokens
from electra_jax.prediction.spelling import Speller

MASKS = 64  # positions whose logits over the vocabulary are computed at once
# Vocabulary entries whose logits are computed at once for the probabilities of given tokens.
VOCABULARY_CHUNK = 1 << 16


class Pretrained(NamedTuple):
    """A run or an export."""

    name: str  # for messages
    row: ObjectiveRow
    generator: ModelWeights | None  # what was trained to fill in [MASK]
    discriminator: ModelWeights | None
    tokenizer: Tokenizer
    speller: Speller
    max_length: int  # tokens of a row with [CLS] and [SEP]
    step: int | None = None  # of the run's checkpoint; None: it comes from no run


class Filled(NamedTuple):
    """Tokens for masks, on the host: [M, K], or [K] of one."""

    ids: np.ndarray
    probabilities: np.ndarray


class Networks:
    """The forward passes of a `Pretrained` for rows of fixed shapes."""

    def __init__(self, pretrained: Pretrained, mesh: Mesh):
        self._mesh = mesh
        self.special = SpecialTokens.from_ids(pretrained.tokenizer.special)
        generator = self._placed(pretrained.generator)
        self._generator = self._forward(_compiled, generator, "generator")
        self._likelihood = self._forward(_compiled_likelihood, generator, "generator")
        self._discriminator = self._forward(
            _compiled, self._placed(pretrained.discriminator), "discriminator"
        )

    def _placed(self, model: ModelWeights | None) -> ModelWeights | None:
        """The model on all devices."""
        return model and model._replace(params=jax.device_put(model.params, replicated(self._mesh)))

    def _forward(self, compiled: Any, model: ModelWeights | None, role: str) -> Any:
        """What `compiled` makes of one encoder, for arrays [B, …] on the host; None without a model."""
        if model is None:
            return None
        apply, params = compiled(PublishedModule(model.config, role), self.special), model.params

        def forward(*rows: np.ndarray) -> Any:
            with axis_context(self._mesh):
                return apply(params, *jax.device_put(rows, batch_sharding(self._mesh)))

        return forward

    def logits(self, ids_BL: np.ndarray) -> np.ndarray:
        """The discriminator's logits [B, L], on the host.

        Raises:
          FloatingPointError: they are not finite.
        """
        return _finite(jax.device_get(self._discriminator(ids_BL)))

    def log_probs(self, ids_BL: np.ndarray, positions: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """The generator's log-probabilities of tokens at positions of each row, on the host; all three are
        [B, P], or [B] for one of each row.

        Raises:
          FloatingPointError: they are not finite.
        """
        places = (array.reshape(len(ids_BL), -1) for array in (positions, tokens))
        return _finite(jax.device_get(self._likelihood(ids_BL, *places))).reshape(tokens.shape)

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


@functools.cache
def _compiled_likelihood(module: PublishedModule, special: SpecialTokens) -> Any:
    """(Parameters of a generator, ids [B, L], positions [B, P], tokens [B, P]) → log-probabilities [B, P].

    Its head is computed at these positions alone.
    """
    is_large = module.config.vocab_size > VOCABULARY_CHUNK

    @jax.jit
    def apply(params, ids_BL, positions_BP, tokens_BP):
        inputs = derive_inputs(ids_BL, special, module.config.type_vocab_size)
        logits = module.apply({"params": params}, ids_BL, inputs, positions_BP)
        predictions = predict_vocabulary(
            *logits,
            tokens_BP,
            None,
            temperature=1.0,
            chunk_size=VOCABULARY_CHUNK if is_large else 0,
            dtype=module.config.dtype,
        )
        return -predictions.nll_BP

    return apply


def _finite(values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise FloatingPointError(
            "the model computes numbers that are not finite: its training has diverged. Take an earlier "
            "checkpoint, DIR:STEP."
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
