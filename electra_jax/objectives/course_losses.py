"""The losses of MCL's courses over one step: two passes of each encoder at most (mcl.py describes them).

Shapes: B batch, L length, P slots.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from electra_jax.models.config import PretrainingConfig
from electra_jax.models.course_model import CourseModel, unstack
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.base import EPSILON, TOKENS, Sums
from electra_jax.objectives.corruption import MaskedBatch, chosen_positions, write_tokens
from electra_jax.objectives.course_weights import (
    DISCRIMINATOR_CORRECTION,
    DISCRIMINATOR_LOSS,
    GENERATOR_CORRECTION,
    GENERATOR_LOSS,
    active_courses,
)
from electra_jax.objectives.courses import (
    CourseBatch,
    confusion_table,
    correct_generator,
    insert_tokens,
    stack,
    swap_tokens,
)
from electra_jax.objectives.mlm import apply_rngs, make_prepare, mlm_loss, mlm_normalizer, predict_masked
from electra_jax.objectives.rtd import binary_cross_entropy, rtd_loss, token_count
from electra_jax.objectives.vocabulary import VocabularyPredictions

KEYS = {"std": 1 << 16, "itd": 2 << 16}  # folded into the key of a course's noise; masking has the key itself


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
                z_loss_weight = self.objective["z_loss_weight"]
                value, more = mlm_loss(predictions, course, normalizers[task], task, z_loss_weight)
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
        """re-RTD and re-STD: the tokens it detected are corrected, its mistakes stay."""
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
