"""MCL, the Multi-perspective Course Learner (Chen et al., Findings of ACL 2023): five courses over the rows
of one step.

Self-supervision: RTD (replaced token detection, ELECTRA's), STD (swapped) and ITD (inserted). The generator
reads masked, swapped and lengthened rows in one pass and draws tokens; the discriminator judges all of them
in one pass, with three heads. Self-correction: where the discriminator found the generator's tokens, the
generator predicts the originals once more (re-MLM, re-SLM); where the discriminator was mistaken, it judges
once more, with the tokens that it found put right (re-RTD, re-STD). That takes one more pass of each encoder.
Decisions and drawn tokens are those of the first passes and have no gradient.

    L = gen_weight·MLM + disc_weight·RTD + slm_weight·SLM + std_weight·STD + itd_weight·ITD
        + re_mlm_weight·re-MLM + re_slm_weight·re-SLM + re_rtd_weight·re-RTD + re_std_weight·re-STD

A course whose weights are all 0 is not computed; with MLM and RTD alone this is ELECTRA, bit for bit. No code
for its pre-training was published: configs/mcl.py gives the source of every value.

Shapes: B batch, L length, P slots.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from electra_jax.models.config import PretrainingConfig
from electra_jax.models.course_model import CourseModel, unstack
from electra_jax.models.flops import discriminator_flops, generator_flops, masked_head_flops
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.base import EPSILON, TOKENS, Objective, Phase, Sums
from electra_jax.objectives.corruption import MaskedBatch, chosen_positions, masked_targets, write_tokens
from electra_jax.objectives.courses import (
    PERMUTATIONS,
    CourseBatch,
    confusion_table,
    correct_generator,
    insert_tokens,
    stack,
    swap_tokens,
)
from electra_jax.objectives.metrics import (
    HostSums,
    Metrics,
    SumMetrics,
    detection_metrics,
    prediction_metrics,
    ratio,
)
from electra_jax.objectives.mlm import (
    MLM_METRICS,
    apply_rngs,
    make_init,
    make_prepare,
    mlm_loss,
    mlm_normalizer,
    predict_masked,
)
from electra_jax.objectives.row import ObjectiveRow
from electra_jax.objectives.rtd import (
    ENCODERS,
    RTD_METRICS,
    binary_cross_entropy,
    embedding_modules,
    rtd_loss,
    token_count,
)
from electra_jax.objectives.vocabulary import VocabularyPredictions

HEADS = ("discriminator_swap_predictions", "discriminator_insert_predictions")
# Keys of config.objective: the weights of the losses that MCL adds to ELECTRA.
SWAPPED, INSERTED = ("slm_weight", "std_weight"), ("itd_weight",)
RTD_CORRECTIONS, STD_CORRECTIONS = ("re_mlm_weight", "re_rtd_weight"), ("re_slm_weight", "re_std_weight")
ADDED = SWAPPED + INSERTED + RTD_CORRECTIONS + STD_CORRECTIONS
# Course → the generator's loss on it, and the key of its weight. ITD has none.
GENERATOR_LOSS = {"rtd": ("mlm", "gen_weight"), "std": ("slm", "slm_weight")}
GENERATOR_CORRECTION = {"rtd": ("mlm", "re_mlm_weight"), "std": ("slm", "re_slm_weight")}
# Course → the key of the weight of the discriminator's loss on it.
DISCRIMINATOR_LOSS = {"rtd": "disc_weight", "std": "std_weight", "itd": "itd_weight"}
DISCRIMINATOR_CORRECTION = {"rtd": "re_rtd_weight", "std": "re_std_weight"}
NORMALIZERS = ("selected", "all")
KEYS = {"std": 1 << 16, "itd": 2 << 16}  # folded into the key of a course's noise; masking has the key itself


class ActiveCourses(NamedTuple):
    """The courses that are computed: those with a weight other than 0, and RTD always."""

    courses: tuple[str, ...]
    corrected_by_generator: tuple[str, ...]
    corrected_by_discriminator: tuple[str, ...]


def make_mcl_objective(
    config: PretrainingConfig, objective: Mapping[str, Any], special: SpecialTokens
) -> Objective:
    """All courses in one update.

    Raises:
      ValueError: config.objective.swap_permutation or correction_normalizer is unknown.
    """
    for key, known in (("swap_permutation", PERMUTATIONS), ("correction_normalizer", NORMALIZERS)):
        if objective[key] not in known:
            raise ValueError(f"config.objective.{key}: got {objective[key]!r}, expected one of {known}.")
    courses = Courses(config, objective, special)
    modules = (*embedding_modules(config), *ENCODERS, *HEADS)
    return Objective(
        init=make_init(courses.model, courses.mask),
        prepare=courses.prepare,
        normalizers=courses.normalizers,
        phases=(Phase("joint", modules, courses.loss),),
        targets=lambda batch: masked_targets(batch.masked),
    )


class Courses:
    """The functions of the objective. The argument `courses` of its methods is always course → its batch, of
    the courses that are computed, in their order."""

    def __init__(self, config: PretrainingConfig, objective: Mapping[str, Any], special: SpecialTokens):
        self.model, self.objective, self.special = CourseModel(config), objective, special
        self.type_vocab_size = config.discriminator.type_vocab_size
        self.mask = make_prepare(objective, special, self.type_vocab_size)
        self.active = active_courses(objective)

    def prepare(self, key: jax.Array, ids_BL: jax.Array) -> CourseBatch:
        objective, swapped, inserted = self.objective, None, None
        if "std" in self.active.courses:
            swapped = swap_tokens(
                jax.random.fold_in(key, KEYS["std"]),
                ids_BL,
                self.special,
                swap_prob=objective["swap_prob"],
                permutation=objective["swap_permutation"],
                type_vocab_size=self.type_vocab_size,
            )
        if "itd" in self.active.courses:
            inserted = insert_tokens(
                jax.random.fold_in(key, KEYS["itd"]),
                ids_BL,
                self.special,
                insert_prob=objective["insert_prob"],
                type_vocab_size=self.type_vocab_size,
            )
        return CourseBatch(self.mask(key, ids_BL), swapped, inserted)

    def normalizers(self, batch: CourseBatch) -> dict[str, jax.Array]:
        courses = batch.courses
        predicted = {
            GENERATOR_LOSS[name][0]: mlm_normalizer(course)
            for name, course in courses.items()
            if name in GENERATOR_LOSS
        }
        return {
            "rows": jnp.asarray(batch.masked.ids_BL.shape[0], jnp.float32),
            **predicted,
            **{name: token_count(course.inputs) + EPSILON for name, course in courses.items()},
        }

    def loss(self, params, batch: CourseBatch, normalizers, dropout_key, carry):
        """The loss of the phase; nothing is carried."""
        del carry
        courses, shared = batch.courses, (normalizers, dropout_key)
        total, sums, corrupted = self.generate(params, courses, *shared)
        value, more, logits = self.discriminate(params, courses, corrupted, *shared)
        total, sums = total + value, sums | more
        # A set would have another order in every process, and all processes must compile one program.
        corrected = self.active.corrected_by_generator + self.active.corrected_by_discriminator
        confusions = {
            name: confusion_table(logits[name], corrupted[name] != course.ids_BL, course.ids_BL, self.special)
            for name, course in courses.items()
            if name in corrected
        }
        if self.active.corrected_by_generator:
            value, more = self.regenerate(params, courses, confusions, *shared)
            total, sums = total + value, sums | more
        if self.active.corrected_by_discriminator:
            value, more = self.rediscriminate(params, courses, corrupted, confusions, *shared)
            total, sums = total + value, sums | more
        return total, (sums | {TOKENS: token_count(batch.masked.inputs)}, None)

    def generate(
        self, params, courses: dict[str, MaskedBatch], normalizers, dropout_key
    ) -> tuple[jax.Array, Sums, dict[str, jax.Array]]:
        """The generator's losses, their sums, and course → the discriminator's input [B, L]."""
        total, sums, corrupted = 0.0, {}, {}
        each = self.predict(params, list(courses.values()), dropout_key, "generate")
        for (name, course), predictions in zip(courses.items(), each, strict=True):
            corrupted[name] = write_tokens(
                course.ids_BL, course.positions_BP, predictions.samples_BP, course.weights_BP
            )
            if name in GENERATOR_LOSS:
                task, weight = GENERATOR_LOSS[name]
                value, more = mlm_loss(predictions, course, normalizers[task], task)
                total, sums = total + self.objective[weight] * value, sums | more
        return total, sums, corrupted

    def discriminate(
        self, params, courses: dict[str, MaskedBatch], corrupted, normalizers, dropout_key
    ) -> tuple[jax.Array, Sums, dict[str, jax.Array]]:
        """The discriminator's losses, their sums, and course → its logits [B, L]."""
        total, sums = 0.0, {}
        logits = self.detect(params, courses, corrupted, dropout_key, "discriminate")
        for name, course in courses.items():
            # A sample equal to the original counts as original; an inserted token has none.
            is_wrong_BL = (
                chosen_positions(course.positions_BP, course.weights_BP, course.ids_BL.shape[1])
                if name == "itd"
                else corrupted[name] != course.ids_BL
            )
            value, more = rtd_loss(
                logits[name], is_wrong_BL, course.inputs.is_token_BL, normalizers[name], name
            )
            total, sums = total + self.objective[DISCRIMINATOR_LOSS[name]] * value, sums | more
        return total, sums, logits

    def regenerate(
        self, params, courses: dict[str, MaskedBatch], confusions, normalizers, dropout_key
    ) -> tuple[jax.Array, Sums]:
        """re-MLM and re-SLM."""
        noise = {"rtd": self.special.mask}
        if "std" in courses:
            noise["std"] = courses["std"].masked_ids_BL
        names = self.active.corrected_by_generator
        corrections = [correct_generator(courses[name], confusions[name], noise[name]) for name in names]
        each = self.predict(params, corrections, dropout_key, "regenerate")
        total, sums = 0.0, {}
        for name, correction, predictions in zip(names, corrections, each, strict=True):
            task, weight = GENERATOR_CORRECTION[name]
            value, more = self.average(predictions.nll_BP, correction.weights_BP, normalizers, task)
            total, sums = total + self.objective[weight] * value, sums | more
        return total, sums

    def rediscriminate(
        self, params, courses: dict[str, MaskedBatch], corrupted, confusions, normalizers, dropout_key
    ) -> tuple[jax.Array, Sums]:
        """re-RTD and re-STD: the tokens that it found are put right, its mistakes stay."""
        ids = {
            name: jnp.where(confusions[name].found, courses[name].ids_BL, corrupted[name])
            for name in self.active.corrected_by_discriminator
        }
        total, sums = 0.0, {}
        for name, logits_BL in self.detect(params, courses, ids, dropout_key, "rediscriminate").items():
            bce_BL = binary_cross_entropy(logits_BL, corrupted[name] != courses[name].ids_BL)
            value, more = self.average(
                bce_BL, confusions[name].is_mistaken.astype(jnp.float32), normalizers, name
            )
            total, sums = total + self.objective[DISCRIMINATOR_CORRECTION[name]] * value, sums | more
        return total, sums

    def predict(
        self, params, courses: list[MaskedBatch], dropout_key, name: str
    ) -> list[VocabularyPredictions]:
        """The pass `name` of the generator over courses; only "generate" draws tokens."""
        stacked = stack(courses)
        predictions = predict_masked(
            self.model,
            self.objective,
            params,
            stacked,
            dropout_key,
            stacked.uniforms_BP if name == "generate" else None,
            name,
        )

        def cut(tree, num_positions: int):
            return jax.tree.map(lambda leaf: leaf[:, :num_positions], tree)

        return [
            cut(of_course, course.positions_BP.shape[1])
            for course, of_course in zip(courses, unstack(predictions, len(courses)), strict=True)
        ]

    def detect(
        self,
        params,
        courses: dict[str, MaskedBatch],
        ids: dict[str, jax.Array],
        dropout_key,
        name: str,
    ) -> dict[str, jax.Array]:
        """The pass `name` of the discriminator over the `ids` [B, L] of courses: course → logits [B, L]."""
        stacked = stack([courses[course]._replace(ids_BL=ids[course]) for course in ids])
        logits = self.model.apply(
            {"params": params},
            stacked.ids_BL,
            stacked.inputs,
            tuple(ids),
            method="detect",
            is_training=dropout_key is not None,
            rngs=apply_rngs(dropout_key, name),
        )
        return dict(zip(ids, logits, strict=True))

    def average(
        self, losses: jax.Array, weights: jax.Array, normalizers, name: str
    ) -> tuple[jax.Array, Sums]:
        """Average of the losses [B, …] that `weights` [B, …] select, and its sums; both add up over
        microbatches.

        With correction_normalizer "selected" it is the mean over all rows of the mean in each row, 0 where a
        row has none. With "all" it is the sum divided by the denominator of the first loss `name`.
        """
        total_B, count_B = (losses * weights).sum(axis=1), weights.sum(axis=1)
        if self.objective["correction_normalizer"] == "selected":
            value = (total_B / (count_B + EPSILON)).sum() / normalizers["rows"]
        else:
            value = total_B.sum() / normalizers[name]
        return value, {f"re_{name}_loss_sum": total_B.sum(), f"re_{name}_weight": count_B.sum()}


def only_courses(*weights: str) -> dict[str, float]:
    """Changes of MCL's config.objective after which, of the weights in ADDED, only these are not 0."""
    return {key: 0.0 for key in ADDED if key not in weights}


def active_courses(objective: Mapping[str, Any]) -> ActiveCourses:
    """The courses that a section config.objective computes."""
    by_generator = tuple(name for name, (_, key) in GENERATOR_CORRECTION.items() if objective[key])
    by_discriminator = tuple(name for name, key in DISCRIMINATOR_CORRECTION.items() if objective[key])
    is_swapped = any(objective[key] for key in SWAPPED) or "std" in by_generator + by_discriminator
    is_inserted = any(objective[key] for key in INSERTED)
    courses = ("rtd", *(("std",) if is_swapped else ()), *(("itd",) if is_inserted else ()))
    return ActiveCourses(courses, by_generator, by_discriminator)


def mcl_flops(config: PretrainingConfig, sequence_length: int, objective: Mapping[str, Any]) -> float:
    """All passes of both encoders, per token of the text."""
    courses, by_generator, by_discriminator = active_courses(objective)
    rates = {"rtd": objective["mask_prob"], "std": objective["swap_prob"], "itd": objective["insert_prob"]}
    generator = generator_flops(config.generator, sequence_length)
    discriminator = discriminator_flops(config, sequence_length)

    def generator_pass(names: tuple[str, ...]) -> float:
        # Every course of a stacked pass has as many slots as the one with the most.
        highest_rate = max((rates[name] for name in names), default=0.0)
        return len(names) * (generator + masked_head_flops(config.generator, highest_rate))

    return (
        sum(generator_pass(names) for names in (courses, by_generator))
        + (len(courses) + len(by_discriminator)) * discriminator
    )


def correction_metrics(name: str) -> SumMetrics:
    """Loss of a correction where something was selected, and the share of tokens that were."""

    def compute(sums: HostSums) -> Metrics:
        weight = sums[f"re_{name}_weight"]
        return {
            f"re_{name}_loss": ratio(sums[f"re_{name}_loss_sum"], weight),
            f"re_{name}_rate": ratio(weight, sums[TOKENS]),
        }

    return SumMetrics((f"re_{name}_loss_sum", f"re_{name}_weight"), compute)


MCL = ObjectiveRow(
    name="mcl",
    title="MCL",
    make=make_mcl_objective,
    flops=mcl_flops,
    metrics=(
        MLM_METRICS,
        prediction_metrics("slm"),
        RTD_METRICS,
        detection_metrics("std", "swapped_rate"),
        detection_metrics("itd", "inserted_rate"),
        *(correction_metrics(name) for name in ("mlm", "slm", "rtd", "std")),
    ),
    paper="Chen et al. 2023, [MCL](https://arxiv.org/abs/2305.03981)",
    in_ablations=False,
    settings={  # explained in configs/mcl.py
        "swap_prob": 0.15,
        "swap_permutation": "uniform",
        "insert_prob": 0.15,
        "slm_weight": 1.0,
        "std_weight": 50.0,
        "itd_weight": 50.0,
        "re_mlm_weight": 1.0,
        "re_slm_weight": 1.0,
        "re_rtd_weight": 50.0,
        "re_std_weight": 50.0,
        "correction_normalizer": "selected",
    },
    card_model="MCL",
    not_published=HEADS,
)
