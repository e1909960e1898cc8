"""Replace MLM (ELECTRA §3.5): masked language modelling whose input holds the generator's samples instead of
[MASK].

Shapes: B batch, L length, P masked positions.
"""

from collections.abc import Mapping
from typing import Any

import jax

from electra_jax.models.config import PretrainingConfig
from electra_jax.models.flops import encoder_flops, masked_head_flops
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.base import Objective, Sums
from electra_jax.objectives.corruption import MaskedBatch
from electra_jax.objectives.mlm import MLM_METRICS
from electra_jax.objectives.row import ObjectiveRow
from electra_jax.objectives.token_prediction import (
    TOKEN_METRICS,
    TOKEN_SETTINGS,
    describe_token_encoder,
    make_token_model,
    make_token_objective,
    predict_tokens,
)


def make_replace_mlm_objective(
    config: PretrainingConfig, objective: Mapping[str, Any], special: SpecialTokens
) -> Objective:
    """The encoder predicts the original tokens at the masked positions, which hold the generator's
    samples."""
    model = make_token_model(config, objective, has_gate=False)

    def token_loss(
        params, corrupted_BL, batch: MaskedBatch, normalizers, dropout_key
    ) -> tuple[jax.Array, Sums]:
        predictions, _ = predict_tokens(
            model, objective, params, corrupted_BL, batch, batch.positions_BP, dropout_key
        )
        nll = (batch.weights_BP * predictions.nll_BP).sum()
        sums = {
            "token_nll": nll,
            "token_weight": batch.weights_BP.sum(),
            "token_correct": (batch.weights_BP * predictions.is_correct_BP).sum(),
        }
        return nll / normalizers["mlm"], sums

    return make_token_objective(model, objective, special, token_loss)


def replace_mlm_flops(config: PretrainingConfig, sequence_length: int, objective: Mapping[str, Any]) -> float:
    """Generator and encoder, each with a head on the masked positions."""
    return sum(
        encoder_flops(encoder, sequence_length) + masked_head_flops(encoder, objective["mask_prob"])
        for encoder in (config.generator, config.discriminator)
    )


TITLE = "Replace MLM"
REPLACE_MLM = ObjectiveRow(
    name="replace_mlm",
    title=TITLE,
    make=make_replace_mlm_objective,
    flops=replace_mlm_flops,
    metrics=(MLM_METRICS, *TOKEN_METRICS),
    settings=TOKEN_SETTINGS,
    not_read=("disc_weight",),
    predicts_tokens=True,
    fills_masks=False,
    card_text=describe_token_encoder(TITLE),
    not_published_note="the small generator. The encoder was not trained on [MASK]: use it for fine-tuning, "
    "not to fill in masks",
    continues_as="mlm",
)
