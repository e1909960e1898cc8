"""Distillation into a masked language model: a student learns what its teachers would put at the masked
positions, beside what stood there (Hinton et al. 2015, Distilling the knowledge in a neural network).

    mlm_weight·MLM + teacher_weight·T²·KL(q ‖ p) + hidden_weight·distance of hidden states

q is the mean over the teachers of softmax(logits/T), p the student's softmax(logits/T), T
config.objective.teacher_temperature. Teachers and student see the same masked row, and logits exist at the
masked positions alone. Three uses:

* An ensemble becomes one model: K runs with K seeds are the teachers of one student, as large or smaller
  (Kim et al. 2025, Pre-training under infinite compute, abstract: a student that is 8 times smaller keeps
  83 % of an ensemble's gain). That it learns distributions at masked positions is our choice.
* One model becomes a smaller one.
* Further pre-training is held near a teacher (Lee et al. 2023, Self-distillation for further pre-training of
  transformers): hidden_weight above 0. In the paper the teacher is the start after further pre-training, and
  the student the same start (checkpoint.init_from); `teachers=init_from` takes the start itself, which
  costs no run before.

The hidden states are those after the last layer, which the head reads: the student's last layer is compared
with a teacher's last, however many layers each has. With one teacher of the student's width they are compared
as they are. Otherwise a trained linear map for each teacher leads from the student's states to the teacher's,
since widths differ or, with several teachers, no two of them have the same axes; the distances are averaged.
The distance is averaged over the real tokens, and "mse" over the dimensions, so that the weight does not
depend on the width.

Shapes: B batch, L length, P masked positions, D hidden, V vocab.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from electra_jax.models.config import PretrainingConfig
from electra_jax.models.heads import VocabularyLogits
from electra_jax.models.initializers import kernel_initializer
from electra_jax.models.inputs import SpecialTokens
from electra_jax.models.layers import Dense
from electra_jax.models.pretraining import MaskedLanguageModel
from electra_jax.objectives.base import EPSILON, TOKENS, Objective, Phase, Sums
from electra_jax.objectives.corruption import MaskedBatch
from electra_jax.objectives.metrics import mean_metric
from electra_jax.objectives.mlm import (
    MLM,
    apply_rngs,
    make_init,
    make_mlm_objective,
    mlm_flops,
    mlm_loss,
    score_masked,
)
from electra_jax.objectives.row import ObjectiveRow
from electra_jax.objectives.rtd import token_count
from electra_jax.objectives.soft_targets import (
    HIDDEN_DISTANCES,
    divergence,
    ensemble_nll,
    ensemble_probabilities,
    hidden_distance,
)
from electra_jax.objectives.teachers import (
    BESIDE_THE_STUDENT,
    HIDDEN_MAPS,
    TEACHER_SETTINGS,
    TEACHERS,
    apply_teacher,
    teacher_configs,
    teacher_inputs,
    with_teachers,
)
from electra_jax.objectives.vocabulary import multiply_logits

# The student's modules that this trains, and of which a teacher consists.
MODULES = ("embeddings", "generator", "generator_predictions")
METHOD = "generate_with_states"
Init = Callable[[jax.Array, int], Any]  # `Objective.init`


def make_distillation_objective(
    config: PretrainingConfig, objective: Mapping[str, Any], special: SpecialTokens
) -> Objective:
    """The student's loss at the masked positions, against the text and against the teachers.

    Raises:
      ValueError: settings that do not fit; see `_check_settings`.
    """
    plain = make_mlm_objective(config, objective, special)
    student, teachers = MaskedLanguageModel(config), _make_teachers(config, objective, special)
    _check_settings(objective)
    maps = make_hidden_maps(config, objective, teacher_configs(config, objective))

    def loss(params, batch: MaskedBatch, normalizers, dropout_key, carry):
        logits, states_BLD = student.apply(
            {"params": params},
            batch.masked_ids_BL,
            batch.inputs,
            batch.positions_BP,
            is_training=dropout_key is not None,
            method=METHOD,
            rngs=apply_rngs(dropout_key, "generate"),
        )
        predictions = score_masked(objective, logits, batch, None)
        z_loss_weight = objective["z_loss_weight"]
        value, sums = mlm_loss(predictions, batch, normalizers["mlm"], z_loss_weight=z_loss_weight)
        value, sums = objective["mlm_weight"] * value, sums | {TOKENS: token_count(batch.inputs)}
        if not teachers:
            return value, (sums, carry)
        views = [one.view(params[TEACHERS][one.name], batch) for one in teachers]
        more, soft_sums = soft_loss(objective, logits, [theirs for theirs, _ in views], batch)
        value, sums = value + objective["teacher_weight"] * more / normalizers["mlm"], sums | soft_sums
        if objective["hidden_weight"]:
            pairs = [
                (maps[one.name].apply({"params": params[HIDDEN_MAPS][one.name]}, states_BLD), theirs_BLD)
                if one.name in maps
                else (states_BLD, theirs_BLD)
                for one, (_, theirs_BLD) in zip(teachers, views, strict=True)
            ]
            distance = _mean_distance(pairs, batch, objective["hidden_distance"])
            value += objective["hidden_weight"] * distance / normalizers[TOKENS]
            sums |= {"hidden_distance": distance}
        return value, (sums, carry)

    student_alone = plain._replace(
        init=_with_maps(plain.init, maps, config.discriminator.hidden_size),
        normalizers=lambda batch: {**plain.normalizers(batch), TOKENS: token_count(batch.inputs) + EPSILON},
        phases=(Phase("mlm", (*MODULES, *([HIDDEN_MAPS] if maps else [])), loss),),
    )
    return with_teachers(student_alone, {one.name: make_init(one.model, plain.prepare) for one in teachers})


class _Teacher(NamedTuple):
    name: str  # its module within TEACHERS
    model: MaskedLanguageModel
    # (its parameters, batch) → (logits, states [B, L, D])
    view: Callable[[Any, MaskedBatch], tuple[VocabularyLogits, jax.Array]]


def _make_teachers(
    config: PretrainingConfig, objective: Mapping[str, Any], special: SpecialTokens
) -> list[_Teacher]:
    types = config.discriminator.type_vocab_size

    def view(model: MaskedLanguageModel, params, batch: MaskedBatch) -> tuple[VocabularyLogits, jax.Array]:
        theirs = model.config.discriminator.type_vocab_size
        inputs = teacher_inputs(batch.inputs, batch.ids_BL, special, types, theirs)
        return apply_teacher(model, params, batch.masked_ids_BL, inputs, batch.positions_BP, method=METHOD)

    models = {name: MaskedLanguageModel(one) for name, one in teacher_configs(config, objective).items()}
    return [_Teacher(name, model, functools.partial(view, model)) for name, model in models.items()]


def _mean_distance(pairs: Sequence[tuple[jax.Array, jax.Array]], batch: MaskedBatch, kind: str) -> jax.Array:
    """The sum over the real tokens of the distance of states [B, L, D], a mean over the pairs."""
    distances_BL = sum(hidden_distance(ours_BLD, theirs_BLD, kind) for ours_BLD, theirs_BLD in pairs)
    return (batch.inputs.is_token_BL * distances_BL).sum() / len(pairs)


def _with_maps(init: Init, maps: Mapping[str, Dense], width: int) -> Init:
    """An initialiser with the module HIDDEN_MAPS, if there are any, for states of `width`."""

    def init_with_maps(key: jax.Array, sequence_length: int):
        keys = jax.random.split(jax.random.fold_in(key, 1), len(maps))
        states = jnp.zeros((1, 1, width))
        trees = {
            name: one.init(own, states)["params"] for own, (name, one) in zip(keys, maps.items(), strict=True)
        }
        return {**init(key, sequence_length), HIDDEN_MAPS: trees}

    return init_with_maps if maps else init


def soft_loss(
    objective: Mapping[str, Any],
    logits: VocabularyLogits,
    teachers: list[VocabularyLogits],
    batch: MaskedBatch,
) -> tuple[jax.Array, Sums]:
    """(T²·KL(q ‖ p), its sums) at the masked positions, summed over the batch.

    T² keeps the gradient's size for every T (Hinton et al. 2015, §2). The sums are the KL without it, and
    the loss of the ensemble's own predictions, at T = 1.
    """
    multiply = lambda one: multiply_logits(*one, one.x_BPE.dtype.name)
    temperature, theirs = objective["teacher_temperature"], [multiply(one) for one in teachers]
    kl_BP = divergence(ensemble_probabilities(theirs, temperature), multiply(logits), temperature)
    kl = (batch.weights_BP * kl_BP).sum()
    nll = (batch.weights_BP * ensemble_nll(theirs, batch.targets_BP)).sum()
    return temperature**2 * kl, {"teacher_kl": kl, "teacher_nll": nll}


def make_hidden_maps(
    config: PretrainingConfig, objective: Mapping[str, Any], teachers: Mapping[str, PretrainingConfig]
) -> dict[str, Dense]:
    """Teacher's name → linear map of the student's states; none where they are compared as they are."""
    width = config.discriminator.hidden_size
    widths = {name: one.discriminator.hidden_size for name, one in teachers.items()}
    if not objective["hidden_weight"] or [*widths.values()] == [width]:
        return {}
    initializer, dtype = kernel_initializer(config.discriminator), config.discriminator.dtype
    return {
        name: Dense(theirs, ("embed", "embedding"), initializer, dtype) for name, theirs in widths.items()
    }


def _check_settings(objective: Mapping[str, Any]) -> None:
    """Raises ValueError for vocabulary chunks, which the teachers' probabilities do not have, an unknown
    distance, or weights that leave no loss."""
    if objective["teachers"] and objective["vocab_chunk_size"]:
        raise ValueError(
            f"config.objective.vocab_chunk_size: got {objective['vocab_chunk_size']}, expected 0 with "
            f"config.objective.name={objective['name']!r}: the teachers' probabilities are of the whole "
            "vocabulary at once. If they do not fit in memory, raise config.train.num_microbatches."
        )
    if objective["hidden_distance"] not in HIDDEN_DISTANCES:
        raise ValueError(
            f"config.objective.hidden_distance: got {objective['hidden_distance']!r}, expected one of "
            f"{' and '.join(HIDDEN_DISTANCES)}."
        )
    weights = ("mlm_weight", "teacher_weight", "hidden_weight")
    if not any(objective[weight] for weight in weights):
        raise ValueError(
            f"config.objective: got 0 for {', '.join(weights)}, expected one above 0: nothing would be "
            "learnt. Pass --config.objective.teacher_weight=0.5."
        )


def distillation_flops(
    config: PretrainingConfig, sequence_length: int, objective: Mapping[str, Any]
) -> float:
    """Student and hidden maps, and one third of each teacher: a step is counted as three forward passes, and
    a frozen model costs one."""
    teachers = teacher_configs(config, objective)
    width = config.discriminator.hidden_size
    maps = make_hidden_maps(config, objective, teachers).values()
    return (
        mlm_flops(config, sequence_length, objective)
        + sum(2 * width * one.features for one in maps)
        + sum(mlm_flops(one, sequence_length, objective) for one in teachers.values()) / 3
    )


DISTILLATION = ObjectiveRow(
    name="distillation",
    title="masked language modelling with teachers",
    make=make_distillation_objective,
    flops=distillation_flops,
    metrics=(
        *MLM.metrics,
        mean_metric("teacher_kl", "teacher_kl", "mlm_weight"),
        mean_metric("teacher_mlm_loss", "teacher_nll", "mlm_weight"),
        mean_metric("hidden_distance", "hidden_distance", TOKENS),
    ),
    paper="Hinton et al. 2015, [Distilling the knowledge in a neural network](https://arxiv.org/abs/1503.02531)",
    in_ablations=False,
    settings={
        **MLM.settings,
        **TEACHER_SETTINGS,
        "mlm_weight": 0.5,
        "teacher_temperature": 1.0,
        "hidden_weight": 0.0,
        "hidden_distance": "mse",
    },
    not_read=("gen_weight", "disc_weight", "temperature"),
    parameters_of="mlm",
    teachers_of=("mlm",),
    predicts_tokens=True,
    card_text="An encoder pre-trained with masked language modelling and with what other models, its "
    "teachers, predict at the masked positions; to be fine-tuned or used to fill in masks.",
    not_published=BESIDE_THE_STUDENT,
    continues_as="mlm",
)
