"""All-Tokens MLM (ELECTRA §3.5): every token is predicted, in a text with the generator's samples.

Shapes: B batch, L length, P masked positions.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from electra_jax.models.config import PretrainingConfig
from electra_jax.models.flops import encoder_flops, masked_head_flops
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.base import Objective, Sums
from electra_jax.objectives.corruption import MaskedBatch
from electra_jax.objectives.mlm import MLM_METRICS
from electra_jax.objectives.requirements import require_vocabulary_chunks
from electra_jax.objectives.row import ObjectiveRow
from electra_jax.objectives.rtd import RTD_METRICS, rtd_loss, token_count
from electra_jax.objectives.token_prediction import (
    TOKEN_METRICS,
    TOKEN_SETTINGS,
    describe_token_encoder,
    make_token_model,
    make_token_objective,
    predict_tokens,
)


def make_all_tokens_mlm_objective(
    config: PretrainingConfig, objective: Mapping[str, Any], special: SpecialTokens
) -> Objective:
    """Every token is predicted, with a gate D_t for copying the input token:
    p(x) = D_t·1[x = input_t] + (1 − D_t)·softmax(x).

    The logits of all positions are computed in chunks of the vocabulary. The metrics rtd_… are those of the
    gate as a detector; token_accuracy is that of the softmax alone, at the masked positions.

    Raises:
      ValueError: config.objective.vocab_chunk_size is not smaller than the vocabulary.
    """
    require_vocabulary_chunks(config, objective)
    model = make_token_model(config, objective, has_gate=True)

    def token_loss(
        params, corrupted_BL, batch: MaskedBatch, normalizers, dropout_key
    ) -> tuple[jax.Array, Sums]:
        predictions, gate_BL = predict_tokens(
            model, objective, params, corrupted_BL, batch, None, dropout_key
        )
        is_token_BL, is_replaced_BL = batch.inputs.is_token_BL, corrupted_BL != batch.ids_BL
        nll = (is_token_BL * copying_nll(predictions.nll_BP, gate_BL, ~is_replaced_BL)).sum()
        is_correct_BP = jnp.take_along_axis(predictions.is_correct_BP, batch.positions_BP, axis=1)
        sums = {
            "token_nll": nll,
            "token_weight": token_count(batch.inputs),
            "token_correct": (batch.weights_BP * is_correct_BP).sum(),
        }
        _, detection = rtd_loss(
            jax.lax.stop_gradient(-gate_BL), is_replaced_BL, is_token_BL, normalizers["tokens"]
        )
        return nll / normalizers["tokens"], sums | detection

    return make_token_objective(model, objective, special, token_loss)


def copying_nll(nll_BL: jax.Array, gate_BL: jax.Array, is_original_BL: jax.Array) -> jax.Array:
    """−log(D·1[the input is the original] + (1 − D)·exp(−nll)), D = σ(gate)."""
    log_predicted_BL = -jax.nn.softplus(gate_BL) - nll_BL
    return -jnp.where(
        is_original_BL, jnp.logaddexp(-jax.nn.softplus(-gate_BL), log_predicted_BL), log_predicted_BL
    )


def all_tokens_mlm_flops(
    config: PretrainingConfig, sequence_length: int, objective: Mapping[str, Any]
) -> float:
    """Generator with its head on the masked positions, encoder with one on every position, and its gate."""
    return (
        encoder_flops(config.generator, sequence_length)
        + masked_head_flops(config.generator, objective["mask_prob"])
        + encoder_flops(config.discriminator, sequence_length)
        + masked_head_flops(config.discriminator, 1.0)
        + 2 * config.discriminator.hidden_size
    )


TITLE = "All-Tokens MLM"
ALL_TOKENS_MLM = ObjectiveRow(
    name="all_tokens_mlm",
    title=TITLE,
    make=make_all_tokens_mlm_objective,
    flops=all_tokens_mlm_flops,
    metrics=(MLM_METRICS, RTD_METRICS, *TOKEN_METRICS),
    settings=TOKEN_SETTINGS,
    not_read=("disc_weight",),
    needs_chunks=True,
    predicts_tokens=True,
    fills_masks=False,
    card_text=describe_token_encoder(TITLE),
    not_published=("discriminator_gate",),
    not_published_note="the small generator, and the gate that copies input tokens, for which transformers "
    "has no class. The encoder was not trained on [MASK]: use it for fine-tuning, not to fill in masks",
    continues_as="mlm",
)
