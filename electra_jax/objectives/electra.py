"""ELECTRA (Clark et al. 2020, §2): generator and discriminator trained in one update."""

from collections.abc import Mapping
from typing import Any

from electra_jax.models.config import PretrainingConfig
from electra_jax.models.flops import discriminator_flops, generator_flops, masked_head_flops
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.base import Objective, Phase
from electra_jax.objectives.corruption import MaskedBatch
from electra_jax.objectives.fixed_generators import make_fixed_generator_objective
from electra_jax.objectives.mlm import MLM_METRICS, Z_LOSS_METRIC
from electra_jax.objectives.row import ObjectiveRow
from electra_jax.objectives.rtd import ENCODERS, RTD_METRICS, embedding_modules, make_losses


def make_electra_objective(
    config: PretrainingConfig, objective: Mapping[str, Any], special: SpecialTokens
) -> Objective:
    """gen_weight·MLM + disc_weight·RTD; one forward pass of the generator gives its loss and the samples."""
    losses = make_losses(config, objective, special)

    def loss(params, batch: MaskedBatch, normalizers, dropout_key, carry):
        del carry
        shared = params, batch, normalizers, dropout_key
        generator_loss, (generator_sums, corrupted_BL) = losses.generator(*shared, None)
        discriminator_loss, (discriminator_sums, _) = losses.discriminator(*shared, corrupted_BL)
        return generator_loss + discriminator_loss, (generator_sums | discriminator_sums, None)

    return losses.objective((Phase("joint", (*embedding_modules(config), *ENCODERS), loss),))


def electra_flops(config: PretrainingConfig, sequence_length: int, objective: Mapping[str, Any]) -> float:
    """Generator, its head, discriminator and its head. An enhanced mask decoder's second pass counts as one
    more layer."""
    return (
        generator_flops(config.generator, sequence_length)
        + masked_head_flops(config.generator, objective["mask_prob"])
        + discriminator_flops(config, sequence_length)
    )


ELECTRA = ObjectiveRow(
    name="electra",
    title="ELECTRA",
    make=make_electra_objective,
    flops=electra_flops,
    metrics=(MLM_METRICS, RTD_METRICS, Z_LOSS_METRIC),
    paper="Clark et al. 2020, [ELECTRA](https://arxiv.org/abs/2003.10555)",
    make_with_fixed_generator=make_fixed_generator_objective,
)
