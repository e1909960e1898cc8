"""Distillation into a discriminator: beside which tokens are replaced, it learns the probability of it that
its teachers give (soft labels, as in Hinton et al. 2015, Distilling the knowledge in a neural network).

    gen_weight·MLM + disc_weight·RTD + teacher_weight·disc_weight·BCE(q, p)

q is the mean over the teachers of their probability that a token is replaced, p the student's. Teachers and
student judge the same row, with the samples of the student's own generator, which trains as in ELECTRA. A
teacher may have any generator: only its discriminator is used.

Shapes: B batch, L length.
"""

from collections.abc import Mapping
from typing import Any

import jax

from electra_jax.models.config import PretrainingConfig
from electra_jax.models.flops import discriminator_flops
from electra_jax.models.inputs import SpecialTokens
from electra_jax.models.pretraining import PretrainingModel
from electra_jax.objectives.base import TOKENS, Objective, Phase
from electra_jax.objectives.corruption import MaskedBatch
from electra_jax.objectives.electra import electra_flops
from electra_jax.objectives.metrics import mean_metric
from electra_jax.objectives.mlm import MLM_METRICS, Z_LOSS_METRIC, make_init
from electra_jax.objectives.row import ObjectiveRow
from electra_jax.objectives.rtd import (
    EMBEDDINGS,
    ENCODERS,
    RTD_METRICS,
    binary_cross_entropy,
    detection_logits,
    embedding_modules,
    make_losses,
    rtd_loss,
    token_count,
)
from electra_jax.objectives.teachers import (
    TEACHER_SETTINGS,
    TEACHERS,
    apply_teacher,
    teacher_configs,
    teacher_inputs,
    with_teachers,
)

# Of a teacher. Its discriminator may read the generator's embeddings, too.
MODULES = ("embeddings", *EMBEDDINGS, "discriminator", "discriminator_predictions")


def make_rtd_distillation_objective(
    config: PretrainingConfig, objective: Mapping[str, Any], special: SpecialTokens
) -> Objective:
    """ELECTRA's losses and the teachers' soft labels, in one update."""
    model, losses = PretrainingModel(config), make_losses(config, objective, special)
    models = {name: PretrainingModel(one) for name, one in teacher_configs(config, objective).items()}

    def soft_labels(params, corrupted_BL: jax.Array, batch: MaskedBatch) -> jax.Array:
        types = config.discriminator.type_vocab_size
        total_BL = 0.0
        for name, one in models.items():
            theirs = one.config.discriminator.type_vocab_size
            inputs = teacher_inputs(batch.inputs, batch.ids_BL, special, types, theirs)
            total_BL += jax.nn.sigmoid(
                apply_teacher(one, params[TEACHERS][name], corrupted_BL, inputs, method="discriminate")
            )
        return total_BL / len(models)

    def loss(params, batch: MaskedBatch, normalizers, dropout_key, carry):
        value, (sums, corrupted_BL) = losses.generator(params, batch, normalizers, dropout_key, carry)
        logits_BL = detection_logits(model, params, corrupted_BL, batch.inputs, dropout_key)
        is_token_BL, is_replaced_BL = batch.inputs.is_token_BL, corrupted_BL != batch.ids_BL
        hard, rtd_sums = rtd_loss(logits_BL, is_replaced_BL, is_token_BL, normalizers["rtd"])
        sums = sums | rtd_sums | {TOKENS: token_count(batch.inputs)}
        value += objective["disc_weight"] * hard
        if models:
            labels_BL = soft_labels(params, corrupted_BL, batch)
            soft = (is_token_BL * binary_cross_entropy(logits_BL, labels_BL)).sum()
            weight = objective["disc_weight"] * objective["teacher_weight"]
            value, sums = value + weight * soft / normalizers["rtd"], sums | {"teacher_bce": soft}
        return value, (sums, None)

    phases = (Phase("joint", (*embedding_modules(config), *ENCODERS), loss),)
    student = losses.objective(phases)
    return with_teachers(
        student, {name: make_init(one, student.prepare) for name, one in models.items()}, MODULES
    )


def rtd_distillation_flops(
    config: PretrainingConfig, sequence_length: int, objective: Mapping[str, Any]
) -> float:
    """ELECTRA, and one third of each teacher's discriminator: a frozen model costs one of the three forward
    passes that a step is counted as."""
    teachers = teacher_configs(config, objective)
    frozen = sum(discriminator_flops(one, sequence_length) for one in teachers.values())
    return electra_flops(config, sequence_length, objective) + frozen / 3


RTD_DISTILLATION = ObjectiveRow(
    name="rtd_distillation",
    title="ELECTRA with teachers",
    make=make_rtd_distillation_objective,
    flops=rtd_distillation_flops,
    metrics=(MLM_METRICS, RTD_METRICS, Z_LOSS_METRIC, mean_metric("teacher_rtd_loss", "teacher_bce", TOKENS)),
    in_ablations=False,
    settings=TEACHER_SETTINGS,
    parameters_of="electra",
    teachers_of=("electra",),
    not_published=(TEACHERS,),
    continues_as="electra",
)
