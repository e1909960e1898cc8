"""Fast-ELECTRA (Dong et al. 2024): a discriminator that learns to detect the samples of a finished generator,
which are drawn at a temperature that falls during training.

The generator is a run of masked language modelling, or that of a run of ELECTRA or DeBERTaV3, of any size: a
teacher (teachers.py), named by config.objective.teachers. It has no loss, no gradient and no optimizer state,
and samples without dropout, as it would offline. The discriminator has embeddings of its own.

A finished generator is hard to tell from the text when the discriminator is new. In joint training it would
be as new; here its distribution is smoothed: tokens are drawn from softmax(logits / T), in proportion to
p^(1/T). With x the share of the run's steps that is done,

    T = temperature + (start_temperature − temperature) · decay(x / temperature_share)

where decay is 1 − x/share down to 0 ("linear") or exp(−x/share) ("exponential"). That the schedule descends
is the paper's (abstract); the formula and its defaults are ours, since the text of the paper was not
available. Evaluations draw at the last temperature throughout, so that their metrics can be compared.

Shapes: B batch, L length, P masked positions.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from electra_jax.models.ablations import DiscriminatorModel
from electra_jax.models.config import EncoderConfig, PretrainingConfig
from electra_jax.models.flops import discriminator_flops, generator_flops, masked_head_flops
from electra_jax.models.inputs import EncoderInputs, SpecialTokens
from electra_jax.models.pretraining import MaskedLanguageModel, PretrainingModel
from electra_jax.objectives.base import TOKENS, Objective, Phase
from electra_jax.objectives.corruption import MaskedBatch, masked_targets, write_tokens
from electra_jax.objectives.fixed_generators import make_fixed_generator_objective
from electra_jax.objectives.metrics import mean_metric
from electra_jax.objectives.mlm import MLM_METRICS, make_init, make_prepare, mlm_loss
from electra_jax.objectives.row import ObjectiveRow
from electra_jax.objectives.rtd import (
    RTD_METRICS,
    detection_logits,
    rtd_loss,
    rtd_normalizers,
    token_count,
)
from electra_jax.objectives.teachers import (
    TEACHERS,
    apply_teacher,
    teacher_configs,
    teacher_inputs,
    with_teachers,
)
from electra_jax.objectives.vocabulary import VocabularyPredictions, predict_vocabulary

# Of a generator's run. A discriminator that it has is not read.
MODULES = ("embeddings", "generator_embeddings", "generator", "generator_predictions")
# config.objective.temperature_decay → what is left, from 1 to 0, of the distance to the last temperature.
TEMPERATURE_DECAYS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "linear": lambda x: jnp.maximum(1.0 - x, 0.0),
    "exponential": lambda x: jnp.exp(-x),
}


class _Kind(NamedTuple):
    """The models of a form of runs (`parameter_form`)."""

    model: type[nn.Module]
    generator: str  # the field of PretrainingConfig that is its generator's shape


KINDS = {
    "mlm": _Kind(MaskedLanguageModel, "discriminator"),
    "electra": _Kind(PretrainingModel, "generator"),
}


class FinishedGenerator(NamedTuple):
    """A generator that is not trained."""

    name: str  # its module within TEACHERS
    model: nn.Module
    encoder: EncoderConfig


class TemperedBatch(NamedTuple):
    """A masked batch and the temperature of its samples."""

    masked: MaskedBatch
    temperature_B: jax.Array  # float32, the same for all rows of a step


def finished_generator(config: PretrainingConfig, objective: Mapping[str, Any]) -> FinishedGenerator:
    """The generator among config.objective.teachers.

    Raises:
      ValueError: there is more than one.
    """
    teachers = teacher_configs(config, objective)
    if len(teachers) != 1:
        raise ValueError(
            f"config.objective.teachers: got {len(teachers)} runs, expected one with "
            f"config.objective.name={objective['name']!r}: the generator."
        )
    ((name, model),) = teachers.items()
    kind = KINDS[objective["teacher_models"][0]["form"]]
    return FinishedGenerator(name, kind.model(model), getattr(model, kind.generator))


def temperature_at(objective: Mapping[str, Any], progress: jax.Array) -> jax.Array:
    """The temperature when this share of the run's steps is done."""
    end, decay = objective["temperature"], TEMPERATURE_DECAYS[objective["temperature_decay"]]
    return end + (objective["start_temperature"] - end) * decay(progress / objective["temperature_share"])


def draw(
    generator: FinishedGenerator,
    params: Any,
    objective: Mapping[str, Any],
    batch: TemperedBatch,
    inputs: EncoderInputs,
) -> VocabularyPredictions:
    """The generator's samples at the masked positions, at the batch's temperature, and what its own
    predictions are worth, at temperature 1. `inputs` are those of the batch for it."""
    masked = batch.masked
    ids_BL, positions_BP, targets_BP = masked.masked_ids_BL, masked.positions_BP, masked.targets_BP
    logits = apply_teacher(generator.model, params, ids_BL, inputs, positions_BP, method="generate")
    return predict_vocabulary(
        *logits,
        targets_BP,
        masked.uniforms_BP,
        temperature=jnp.broadcast_to(batch.temperature_B[:, None], targets_BP.shape),
        chunk_size=objective["vocab_chunk_size"],
        dtype=logits.x_BPE.dtype.name,
    )


def make_fast_electra_objective(
    config: PretrainingConfig, objective: Mapping[str, Any], special: SpecialTokens
) -> Objective:
    """disc_weight·RTD of the samples of a finished generator.

    Without the generator, as readers of a run see it (teachers.py), tokens are drawn from the unigram
    distribution.

    Raises:
      ValueError: more than one generator, or a temperature that would rise.
    """
    _check_temperatures(objective)
    if not objective["teachers"]:
        return make_fixed_generator_objective(config, {**objective, "generator": "unigram"}, special)
    generator, model = finished_generator(config, objective), DiscriminatorModel(config)
    types = config.discriminator.type_vocab_size
    mask = make_prepare(objective, special, types)

    def prepare(key: jax.Array, ids_BL: jax.Array) -> TemperedBatch:
        # The dtype of a whole number would be int32, and cut the temperatures of training.
        temperature_B = jnp.full(ids_BL.shape[:1], objective["temperature"], jnp.float32)
        return TemperedBatch(mask(key, ids_BL), temperature_B)

    def at_progress(batch: TemperedBatch, progress: jax.Array) -> TemperedBatch:
        temperature = temperature_at(objective, progress)
        return batch._replace(temperature_B=jnp.full_like(batch.temperature_B, temperature))

    def loss(params, batch: TemperedBatch, normalizers, dropout_key, carry):
        del carry
        masked = batch.masked
        inputs = teacher_inputs(
            masked.inputs, masked.ids_BL, special, types, generator.encoder.type_vocab_size
        )
        predictions = draw(generator, params[TEACHERS][generator.name], objective, batch, inputs)
        _, generator_sums = mlm_loss(predictions, masked, normalizers["mlm"])
        corrupted_BL = write_tokens(
            masked.ids_BL, masked.positions_BP, predictions.samples_BP, masked.weights_BP
        )
        logits_BL = detection_logits(model, params, corrupted_BL, masked.inputs, dropout_key)
        value, sums = rtd_loss(
            logits_BL, corrupted_BL != masked.ids_BL, masked.inputs.is_token_BL, normalizers["rtd"]
        )
        sums |= generator_sums | {
            "sampling_temperature": (masked.weights_BP * batch.temperature_B[:, None]).sum(),
            TOKENS: token_count(masked.inputs),
        }
        return objective["disc_weight"] * value, (sums, None)

    student = Objective(
        init=make_init(model, mask),
        prepare=prepare,
        at_progress=at_progress,
        normalizers=lambda batch: rtd_normalizers(batch.masked),
        phases=(Phase("joint", ("embeddings", "discriminator", "discriminator_predictions"), loss),),
        targets=lambda batch: masked_targets(batch.masked),
    )
    return with_teachers(student, {generator.name: make_init(generator.model, mask)}, MODULES)


def _check_temperatures(objective: Mapping[str, Any]) -> None:
    start, end = objective["start_temperature"], objective["temperature"]
    if start < end:
        raise ValueError(
            f"config.objective.start_temperature: got {start}, expected at least "
            f"config.objective.temperature={end}: replaced tokens become harder to detect during training. "
            f"Pass --config.objective.start_temperature={end} for one temperature throughout."
        )


def fast_electra_flops(
    config: PretrainingConfig, sequence_length: int, objective: Mapping[str, Any]
) -> float:
    """Discriminator, and one third of the generator: a step is counted as three forward passes, and a frozen
    model costs one."""
    discriminator = discriminator_flops(config, sequence_length)
    if not objective["teachers"]:
        return discriminator
    encoder = finished_generator(config, objective).encoder
    generator = generator_flops(encoder, sequence_length) + masked_head_flops(encoder, objective["mask_prob"])
    return discriminator + generator / 3


FAST_ELECTRA = ObjectiveRow(
    name="fast_electra",
    title="Fast-ELECTRA, replaced token detection with a finished generator",
    make=make_fast_electra_objective,
    flops=fast_electra_flops,
    metrics=(
        MLM_METRICS,
        RTD_METRICS,
        mean_metric("sampling_temperature", "sampling_temperature", "mlm_weight"),
    ),
    paper="Dong et al. 2024, [Fast-ELECTRA](https://arxiv.org/abs/2310.07347)",
    in_ablations=False,
    trains_generator=False,
    settings={
        "teachers": (),  # DIR or DIR:STEP of one run, whose generator draws the tokens
        "teacher_models": (),
        "start_temperature": 2.0,  # config.objective.temperature is the last one
        "temperature_decay": "exponential",
        # Of the run's steps. "linear": the decay takes so long; "exponential": the distance to the last
        # temperature falls by the factor e in so long.
        "temperature_share": 0.1,
    },
    not_read=("gen_weight",),
    teachers_of=tuple(KINDS),
    schedules={"sampling temperature": temperature_at},
    not_published=(TEACHERS,),
    continues_as="electra",
    minimizes_mlm=False,
    held_out=("rtd_loss",),
)
