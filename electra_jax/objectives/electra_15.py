"""ELECTRA 15 % (ELECTRA §3.5): the discriminator's loss is the mean over the masked positions alone.

It measures how much of ELECTRA's gain comes from a loss on all tokens.
"""

import functools
from collections.abc import Mapping
from typing import Any

from electra_jax.models.config import PretrainingConfig
from electra_jax.models.inputs import SpecialTokens
from electra_jax.models.pretraining import PretrainingModel
from electra_jax.objectives.base import TOKENS, Objective, Phase
from electra_jax.objectives.corruption import MaskedBatch, chosen_positions
from electra_jax.objectives.electra import electra_flops
from electra_jax.objectives.fixed_generators import make_fixed_generator_objective
from electra_jax.objectives.mlm import MLM_METRICS, Z_LOSS_METRIC
from electra_jax.objectives.row import ObjectiveRow
from electra_jax.objectives.rtd import (
    ENCODERS,
    RTD_METRICS,
    detection_logits,
    embedding_modules,
    make_losses,
    rtd_loss,
    token_count,
)


def make_electra_15_objective(
    config: PretrainingConfig, objective: Mapping[str, Any], special: SpecialTokens
) -> Objective:
    """gen_weight·MLM + disc_weight·RTD, both over the masked positions, in one update."""
    model, losses = PretrainingModel(config), make_losses(config, objective, special)

    def loss(params, batch: MaskedBatch, normalizers, dropout_key, carry):
        generator_value, (generator_sums, corrupted_BL) = losses.generator(
            params, batch, normalizers, dropout_key, carry
        )
        logits_BL = detection_logits(model, params, corrupted_BL, batch.inputs, dropout_key)
        chosen_BL = chosen_positions(batch.positions_BP, batch.weights_BP, batch.ids_BL.shape[1])
        value, sums = rtd_loss(logits_BL, corrupted_BL != batch.ids_BL, chosen_BL, normalizers["mlm"])
        return (
            generator_value + objective["disc_weight"] * value,
            (generator_sums | sums | {TOKENS: token_count(batch.inputs)}, None),
        )

    return losses.objective((Phase("joint", (*embedding_modules(config), *ENCODERS), loss),))


ELECTRA_15 = ObjectiveRow(
    name="electra_15",
    title="ELECTRA with the discriminator's loss on masked tokens only",
    make=make_electra_15_objective,
    flops=electra_flops,
    metrics=(MLM_METRICS, RTD_METRICS, Z_LOSS_METRIC),
    make_with_fixed_generator=functools.partial(make_fixed_generator_objective, counts_all_tokens=False),
    parameters_of="electra",
    judges_masked_only=True,
)
