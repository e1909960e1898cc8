"""Two-stage training (ELECTRA §3.2): a discriminator beside a generator that is finished.

The first stage is a run of plain masked language modelling. Both encoders of the second stage start from it
(config.checkpoint.init_from), so both have its shape, and each has its own embeddings.
"""

from collections.abc import Mapping
from typing import Any

from electra_jax.models.config import PretrainingConfig
from electra_jax.models.flops import discriminator_flops, generator_flops, masked_head_flops
from electra_jax.models.inputs import SpecialTokens
from electra_jax.models.pretraining import PretrainingModel
from electra_jax.objectives.base import Objective, Phase
from electra_jax.objectives.corruption import MaskedBatch
from electra_jax.objectives.mlm import MLM_METRICS
from electra_jax.objectives.row import FirstStage, ObjectiveRow
from electra_jax.objectives.rtd import RTD_METRICS, generator_loss, make_losses

TRAINED = ("discriminator_embeddings", "discriminator", "discriminator_predictions")
FROZEN = ("generator_embeddings", "generator", "generator_predictions")


def make_two_stage_objective(
    config: PretrainingConfig, objective: Mapping[str, Any], special: SpecialTokens
) -> Objective:
    """The second stage: the discriminator learns to detect the samples of a frozen generator.

    The generator samples with dropout, as in joint training.

    Raises:
      ValueError: the two encoders of config.model share embeddings or differ in shape.
    """
    if config.embedding_sharing != "none":
        raise ValueError(
            f"config.model.embedding_sharing: got {config.embedding_sharing!r}, expected 'none' with "
            "config.objective.name='two_stage': the generator is frozen, and so are its embeddings."
        )
    if config.generator != config.discriminator:
        raise ValueError(
            "config.model.generator: got another shape than that of config.model.discriminator, expected the "
            "same with config.objective.name='two_stage': both start from one encoder."
        )
    losses, model = make_losses(config, objective, special), PretrainingModel(config)

    def loss(params, batch: MaskedBatch, normalizers, dropout_key, carry):
        del carry
        _, (generator_sums, corrupted_BL) = generator_loss(
            model, objective, params, batch, normalizers["mlm"], dropout_key
        )
        value, (sums, _) = losses.discriminator(params, batch, normalizers, dropout_key, corrupted_BL)
        return value, (generator_sums | sums, None)

    return losses.objective((Phase("discriminator", TRAINED, loss),))._replace(frozen=FROZEN)


def two_stage_flops(config: PretrainingConfig, sequence_length: int, objective: Mapping[str, Any]) -> float:
    """Discriminator, and one third of the generator: a step is counted as three forward passes, and a frozen
    generator costs only one."""
    generator = generator_flops(config.generator, sequence_length) + masked_head_flops(
        config.generator, objective["mask_prob"]
    )
    return generator / 3 + discriminator_flops(config, sequence_length)


def _separate_equal_encoders(config: Any) -> None:
    config["model"].update(embedding_sharing="none", generator=config["model"]["discriminator"])


TWO_STAGE = ObjectiveRow(
    name="two_stage",
    title="ELECTRA with a frozen generator trained beforehand",
    make=make_two_stage_objective,
    flops=two_stage_flops,
    metrics=(MLM_METRICS, RTD_METRICS),
    not_read=("gen_weight",),
    adapt=_separate_equal_encoders,
    parameters_of="electra",
    minimizes_mlm=False,  # the generator is finished
    held_out=("rtd_loss",),
    first_stage=FirstStage(
        objective="mlm",
        modules={
            "generator_embeddings": "embeddings",
            "generator": "generator",
            "generator_predictions": "generator_predictions",
        },
        copies={"discriminator_embeddings": "embeddings", "discriminator": "generator"},
    ),
)
