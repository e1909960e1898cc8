"""Heads that find an answer in a text: one scores start and end independently; ELECTRA's scores the end given
the start.

An answer lies among the tokens of the context (the second text); [CLS] stands for "not in this window".
Labels [B, 3] are the start, the end and whether the question has no answer at all.

Shapes: B batch, L length, D hidden, F inner width, K starts in the beam.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from electra_jax.finetuning.span_decoding import IndependentOutputs, JointOutputs
from electra_jax.models.config import EncoderConfig
from electra_jax.models.initializers import last_kernel_initializer
from electra_jax.models.inputs import SpecialTokens
from electra_jax.models.layers import Dense, einsum_f32, gelu, logical

INNER_WIDTH = 512  # of both inner layers of ELECTRA's head
BEAM_SIZE = 20
ANSWERABILITY_WEIGHT = 0.5
IMPOSSIBLE = -1000.0  # added to the scores of tokens where no answer can start or end


class JointTrainingOutputs(NamedTuple):
    """Outputs of ELECTRA's head in training, where the ends are scored given the true start."""

    start_logits: jax.Array  # [B, L]
    end_logits: jax.Array  # [B, L]
    answerable_logit: jax.Array  # [B], high where there is no answer


class SpanHead(nn.Module):
    """States [B, L, D] → start and end logits [B, L], as in the question answering classes of
    `transformers`."""

    config: EncoderConfig

    @nn.compact
    def __call__(
        self, x_BLD: jax.Array, ids_BL: jax.Array, is_training: bool, labels_B3: jax.Array | None
    ) -> IndependentOutputs:
        kernel_init = last_kernel_initializer(self.config)
        logits_BL2 = Dense(2, ("embed", "label"), kernel_init, "float32", name="classifier")(x_BLD)
        return IndependentOutputs(logits_BL2[..., 0], logits_BL2[..., 1])


class JointSpanHead(nn.Module):
    """ELECTRA's head (google-research/electra, finetune/qa/qa_tasks.py, after XLNet's).

    States [B, L, D] → in training the logits of starts, and of ends given the true start; otherwise the K
    likeliest starts, and for each of them the K likeliest ends. In both cases also a logit for no answer,
    from the state of [CLS] and the mean state of the start.
    """

    config: EncoderConfig
    special: SpecialTokens

    @nn.compact
    def __call__(
        self, x_BLD: jax.Array, ids_BL: jax.Array, is_training: bool, labels_B3: jax.Array | None
    ) -> JointTrainingOutputs | JointOutputs:
        kernel_init, width = last_kernel_initializer(self.config), x_BLD.shape[-1]
        x_BLD = x_BLD.astype(jnp.float32)
        dense = lambda features, name, axes: Dense(features, axes, kernel_init, "float32", name=name)
        penalty_BL = jnp.where(can_answer(ids_BL, self.special), 0.0, IMPOSSIBLE)
        start_logits_BL = dense(1, "start", ("embed", "label"))(x_BLD)[..., 0] + penalty_BL

        start_BLD = jax.nn.softmax(start_logits_BL)[:, :, None] * x_BLD
        features_BLD = jnp.concatenate([x_BLD[:, :1], start_BLD.sum(axis=1, keepdims=True)], axis=-1)
        inner_BLF = gelu(dense(INNER_WIDTH, "answerable_inner", ("embed", "mlp"))(features_BLD))
        answerable_logit_B = dense(1, "answerable", ("mlp", "label"))(inner_BLF)[:, 0, 0]

        # dense(concat(state of the start, state)) is a sum of two products; one is the same for all starts.
        kernel_EF = self.param(
            "end_inner_kernel", logical(kernel_init, "embed", "mlp"), (2 * width, INNER_WIDTH)
        )
        bias_F = self.param("end_inner_bias", logical(nn.initializers.zeros, "mlp"), (INNER_WIDTH,))
        shared_BLF = einsum_f32("BLD,DF->BLF", "float32", x_BLD, kernel_EF[width:]) + bias_F[None, None]
        score = dense(1, "end", ("mlp", "label"))

        def end_logits(index_B: jax.Array) -> jax.Array:
            start_BD = jnp.take_along_axis(x_BLD, index_B[:, None, None], axis=1)[:, 0]
            given_BF = einsum_f32("BD,DF->BF", "float32", start_BD, kernel_EF[:width])
            return score(gelu(shared_BLF + given_BF[:, None]))[..., 0] + penalty_BL

        if labels_B3 is not None:
            return JointTrainingOutputs(start_logits_BL, end_logits(labels_B3[:, 0]), answerable_logit_B)
        beam = min(BEAM_SIZE, ids_BL.shape[1])
        start_log_probs_BK, start_indices_BK = jax.lax.top_k(jax.nn.log_softmax(start_logits_BL), beam)
        # One start at a time: for all at once the inner states would be [B, K, L, F].
        ends = [
            jax.lax.top_k(jax.nn.log_softmax(end_logits(start_indices_BK[:, k])), beam) for k in range(beam)
        ]
        return JointOutputs(
            start_log_probs_BK,
            start_indices_BK,
            jnp.stack([log_probs for log_probs, _ in ends], axis=1),
            jnp.stack([indices for _, indices in ends], axis=1),
            answerable_logit_B,
        )


def can_answer(ids_BL: jax.Array, special: SpecialTokens) -> jax.Array:
    """Where an answer can start or end [B, L]: the tokens of the context, and [CLS] for no answer."""
    is_sep_BL = (ids_BL == special.sep).astype(jnp.int32)
    seps_before_BL = jnp.cumsum(is_sep_BL, axis=1) - is_sep_BL
    is_context_BL = (seps_before_BL == 1) & (is_sep_BL == 0) & (ids_BL != special.pad)
    return is_context_BL.at[:, 0].set(True)


def span_loss(
    outputs: IndependentOutputs | JointTrainingOutputs,
    labels_B3: jax.Array,
    is_scored_B: jax.Array,
    can_answer_BL: jax.Array,
) -> jax.Array:
    """Mean cross-entropy of start and end; ELECTRA's head adds half the cross-entropy of answerability."""
    weights_B = is_scored_B.astype(jnp.float32)
    losses_B = jnp.zeros_like(weights_B)
    for column, logits_BL in enumerate((outputs.start_logits, outputs.end_logits)):
        log_probs_BL = jax.nn.log_softmax(jnp.where(can_answer_BL, logits_BL, IMPOSSIBLE))
        losses_B -= 0.5 * jnp.take_along_axis(log_probs_BL, labels_B3[:, column, None], axis=1)[:, 0]
    if isinstance(outputs, JointTrainingOutputs):
        logit_B = outputs.answerable_logit
        losses_B += ANSWERABILITY_WEIGHT * (jax.nn.softplus(logit_B) - logit_B * labels_B3[:, 2])
    return (weights_B * losses_B).sum() / jnp.maximum(weights_B.sum(), 1.0)
