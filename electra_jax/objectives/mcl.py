"""MCL, the Multi-perspective Course Learner (Chen et al., Findings of ACL 2023): five courses over the rows
of one step.

Self-supervision: RTD (replaced token detection, ELECTRA's), STD (swapped) and ITD (inserted). The generator
reads masked, swapped and lengthened rows in one pass and draws tokens; the discriminator judges all of them
in one pass, by three heads. Self-correction: where the discriminator found what the generator drew, the
generator predicts the original once more (re-MLM, re-SLM); where it was mistaken, it judges once more, with
what it found put right (re-RTD, re-STD). That takes one more pass of each. Decisions and drawn tokens are
those of the first passes and have no gradient.

    L = gen_weight·MLM + disc_weight·RTD + slm_weight·SLM + std_weight·STD + itd_weight·ITD
        + re_mlm_weight·re-MLM + re_slm_weight·re-SLM + re_rtd_weight·re-RTD + re_std_weight·re-STD

A course whose weights are all 0 is not computed; with those of MLM and RTD alone this is ELECTRA, bit for
bit. No code for pre-training was published: configs/mcl.py says of every value where it is from.

Shapes: B batch, L length, P slots.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from electra_jax.models.config import PretrainingConfig
from electra_jax.models.course_model import CourseModel, unstack
from electra_jax.models.flops import discriminator_flops, generator_flops, masked_head_flops
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.base import EPSILON, Objective, Phase, Sums
from electra_jax.objectives.corruption import MaskedBatch, chosen_positions, write_tokens
from electra_jax.objectives.courses import (
    PERMUTATIONS,
    CourseBatch,
    confusion_table,
    correct_generator,
    insert_tokens,
    stack,
    swap_tokens,
)
from electra_jax.objectives.mlm import (
    apply_rngs,
    make_init,
    make_prepare,
    mlm_loss,
    mlm_normalizer,
    predict_masked,
)
from electra_jax.objectives.rtd import (
    ENCODERS,
    binary_cross_entropy,
    embedding_modules,
    rtd_loss,
    token_count,
)
from electra_jax.objectives.vocabulary import VocabularyPredictions

HEADS = ("discriminator_swap_predictions", "discriminator_insert_predictions")
# config.objective's weights of what MCL adds to ELECTRA, without "_weight".
SWAPPED, INSERTED = ("slm", "std"), ("itd",)
RTD_CORRECTIONS, STD_CORRECTIONS = ("re_mlm", "re_rtd"), ("re_slm", "re_std")
ADDED = SWAPPED + INSERTED + RTD_CORRECTIONS + STD_CORRECTIONS
GENERATOR_LOSS = {
    "rtd": ("mlm", "gen_weight"),
    "std": ("slm", "slm_weight"),
}  # the generator's part of a course; ITD has none
DISCRIMINATOR_LOSS = {"rtd": "disc_weight", "std": "std_weight", "itd": "itd_weight"}
NORMALIZERS = ("selected", "all")
KEYS = {"std": 1 << 16, "itd": 2 << 16}  # of a course's noise; masking has the key itself, as in ELECTRA


def make_mcl_objective(
    config: PretrainingConfig, objective: dict[str, Any], special: SpecialTokens
) -> Objective:
    """All courses in one update.

    Raises:
      ValueError: an unknown choice.
    """
    for key, known in (("swap_permutation", PERMUTATIONS), ("correction_normalizer", NORMALIZERS)):
        if objective[key] not in known:
            raise ValueError(f"config.objective.{key}: got {objective[key]!r}, expected one of {known}.")
    courses = Courses(config, objective, special)
    modules = (*embedding_modules(config), *ENCODERS, *HEADS)
    return Objective(
        make_init(courses.model, courses.mask),
        courses.prepare,
        courses.normalizers,
        (Phase("joint", modules, courses.loss),),
    )


class Courses:
    """The functions of the objective. `noisy` is always course → its batch, of the courses that are taken, in
    their order."""

    def __init__(self, config: PretrainingConfig, objective: dict[str, Any], special: SpecialTokens):
        self.model, self.objective, self.special = CourseModel(config), objective, special
        self.type_vocab_size = config.discriminator.type_vocab_size
        self.mask = make_prepare(objective, special, self.type_vocab_size)
        self.active_courses, self.again_generator, self.again_discriminator = active_courses(objective)

    def prepare(self, key: jax.Array, ids_BL: jax.Array) -> CourseBatch:
        objective, swapped, inserted = self.objective, None, None
        if "std" in self.active_courses:
            swapped = swap_tokens(
                jax.random.fold_in(key, KEYS["std"]),
                ids_BL,
                self.special,
                swap_prob=objective["swap_prob"],
                permutation=objective["swap_permutation"],
                type_vocab_size=self.type_vocab_size,
            )
        if "itd" in self.active_courses:
            inserted = insert_tokens(
                jax.random.fold_in(key, KEYS["itd"]),
                ids_BL,
                self.special,
                insert_prob=objective["insert_prob"],
                type_vocab_size=self.type_vocab_size,
            )
        return CourseBatch(self.mask(key, ids_BL), swapped, inserted)

    def normalizers(self, batch: CourseBatch) -> dict[str, jax.Array]:
        noisy = batch.courses
        return {
            "rows": jnp.asarray(batch.ids_BL.shape[0], jnp.float32),
            **{
                GENERATOR_LOSS[name][0]: mlm_normalizer(noisy[name])
                for name in noisy
                if name in GENERATOR_LOSS
            },
            **{name: token_count(noisy[name].inputs) + EPSILON for name in noisy},
        }

    def loss(self, params, batch: CourseBatch, normalizers, dropout_key, carry):
        """As `Phase` wants it; nothing is carried."""
        del carry
        noisy, shared = batch.courses, (normalizers, dropout_key)
        total, sums, corrupted = self.generate(params, noisy, *shared)
        value, more, logits = self.discriminate(params, noisy, corrupted, *shared)
        total, sums = total + value, sums | more
        # A set would have another order in every process, and they must all compile one program.
        confusions = {
            name: confusion_table(logits[name], corrupted[name] != one.ids_BL, one.ids_BL, self.special)
            for name, one in noisy.items()
            if name in self.again_generator + self.again_discriminator
        }
        if self.again_generator:
            value, more = self.regenerate(params, noisy, confusions, *shared)
            total, sums = total + value, sums | more
        if self.again_discriminator:
            value, more = self.rediscriminate(params, noisy, corrupted, confusions, *shared)
            total, sums = total + value, sums | more
        return total, (sums | {"tokens": token_count(batch.inputs)}, None)

    def generate(
        self, params, noisy, normalizers, dropout_key
    ) -> tuple[jax.Array, Sums, dict[str, jax.Array]]:
        """The generator's losses, and what the discriminator sees [B, L] of each course."""
        total, sums, corrupted = 0.0, {}, {}
        each = self._predict(params, list(noisy.values()), dropout_key, "generate")
        for (name, one), predictions in zip(noisy.items(), each, strict=True):
            corrupted[name] = write_tokens(
                one.ids_BL, one.positions_BP, predictions.samples_BP, one.weights_BP
            )
            if name in GENERATOR_LOSS:
                task, weight = GENERATOR_LOSS[name]
                value, more = mlm_loss(predictions, one, normalizers[task], task)
                total, sums = total + self.objective[weight] * value, sums | more
        return total, sums, corrupted

    def discriminate(
        self, params, noisy, corrupted, normalizers, dropout_key
    ) -> tuple[jax.Array, Sums, dict[str, jax.Array]]:
        """The discriminator's losses, and its logits [B, L]."""
        total, sums = 0.0, {}
        logits = self._detect(params, noisy, corrupted, dropout_key, "discriminate")
        for name, one in noisy.items():
            # A sample equal to the original counts as original; an inserted token has none, whatever was
            # drawn.
            is_wrong_BL = (
                chosen_positions(one.positions_BP, one.weights_BP, one.ids_BL.shape[1])
                if name == "itd"
                else corrupted[name] != one.ids_BL
            )
            value, more = rtd_loss(logits[name], is_wrong_BL, one.inputs.is_token_BL, normalizers[name], name)
            total, sums = total + self.objective[DISCRIMINATOR_LOSS[name]] * value, sums | more
        return total, sums, logits

    def regenerate(self, params, noisy, confusions, normalizers, dropout_key) -> tuple[jax.Array, Sums]:
        """re-MLM and re-SLM."""
        noise = {"rtd": self.special.mask, **({"std": noisy["std"].masked_ids_BL} if "std" in noisy else {})}
        lessons = [
            correct_generator(noisy[name], confusions[name], noise[name]) for name in self.again_generator
        ]
        each = self._predict(params, lessons, dropout_key, "regenerate")
        total, sums = 0.0, {}
        for name, lesson, predictions in zip(self.again_generator, lessons, each, strict=True):
            task = GENERATOR_LOSS[name][0]
            value, more = self._average(predictions.nll_BP, lesson.weights_BP, normalizers, task)
            total, sums = total + self.objective[f"re_{task}_weight"] * value, sums | more
        return total, sums

    def rediscriminate(
        self, params, noisy, corrupted, confusions, normalizers, dropout_key
    ) -> tuple[jax.Array, Sums]:
        """re-RTD and re-STD: what it found would distract it, what deceived it and what it accused falsely
        stays."""
        ids = {
            name: jnp.where(confusions[name].pos4, noisy[name].ids_BL, corrupted[name])
            for name in self.again_discriminator
        }
        total, sums = 0.0, {}
        for name, logits_BL in self._detect(params, noisy, ids, dropout_key, "rediscriminate").items():
            bce_BL = binary_cross_entropy(logits_BL, corrupted[name] != noisy[name].ids_BL)
            value, more = self._average(
                bce_BL, confusions[name].is_mistaken.astype(jnp.float32), normalizers, name
            )
            total, sums = total + self.objective[f"re_{name}_weight"] * value, sums | more
        return total, sums

    def _predict(
        self, params, noisy: list[MaskedBatch], dropout_key, which: str
    ) -> list[VocabularyPredictions]:
        """A pass of the generator over courses; it draws tokens in the first alone."""
        stacked = stack(noisy)
        predictions = predict_masked(
            self.model,
            self.objective,
            params,
            stacked,
            dropout_key,
            stacked.uniforms_BP if which == "generate" else None,
            which,
        )

        def cut(tree, num_positions: int):
            return jax.tree.map(lambda leaf: leaf[:, :num_positions], tree)

        return [
            cut(of_course, one.positions_BP.shape[1])
            for one, of_course in zip(noisy, unstack(predictions, len(noisy)), strict=True)
        ]

    def _detect(
        self, params, noisy, ids: dict[str, jax.Array], dropout_key, which: str
    ) -> dict[str, jax.Array]:
        """A pass of the discriminator over `ids` [B, L] of courses: its logits [B, L]."""
        stacked = stack([noisy[name]._replace(ids_BL=ids[name]) for name in ids])
        logits = self.model.apply(
            {"params": params},
            stacked.ids_BL,
            stacked.inputs,
            tuple(ids),
            method="detect",
            is_training=dropout_key is not None,
            rngs=apply_rngs(dropout_key, which),
        )
        return dict(zip(ids, logits, strict=True))

    def _average(
        self, losses: jax.Array, weights: jax.Array, normalizers, first: str
    ) -> tuple[jax.Array, Sums]:
        """Of what is selected by weights [B, …]: the mean in each row, 0 where nothing is, and the mean of
        all rows ("selected"); or the sum, divided as the loss `first` is ("all"). Both add up over
        microbatches."""
        total_B, count_B = (losses * weights).sum(axis=1), weights.sum(axis=1)
        if self.objective["correction_normalizer"] == "selected":
            value = (total_B / (count_B + EPSILON)).sum() / normalizers["rows"]
        else:
            value = total_B.sum() / normalizers[first]
        return value, {f"re_{first}_loss_sum": total_B.sum(), f"re_{first}_weight": count_B.sum()}


def only_courses(*names: str) -> dict[str, float]:
    """What to change in MCL's config.objective so that of all that it adds to ELECTRA `names` of ADDED alone
    have weight."""
    return {f"{name}_weight": 0.0 for name in ADDED if name not in names}


def active_courses(objective: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """The courses whose weights are not all 0 – RTD always –, those of them that are corrected for the
    generator, and those for the discriminator."""
    again_generator = tuple(
        name for name, (task, _) in GENERATOR_LOSS.items() if objective[f"re_{task}_weight"]
    )
    again_discriminator = tuple(name for name in GENERATOR_LOSS if objective[f"re_{name}_weight"])
    is_swapped = (
        objective["slm_weight"]
        or objective["std_weight"]
        or "std" in {*again_generator, *again_discriminator}
    )
    courses = ("rtd", *(("std",) if is_swapped else ()), *(("itd",) if objective["itd_weight"] else ()))
    return courses, again_generator, again_discriminator


def mcl_flops(config: PretrainingConfig, sequence_length: int, objective: Mapping[str, Any]) -> float:
    """Forward FLOPs a token of the text, all courses together, where ELECTRA counts one pass of each
    encoder."""
    courses, again_generator, again_discriminator = active_courses(objective)
    rates = {"rtd": objective["mask_prob"], "std": objective["swap_prob"], "itd": objective["insert_prob"]}
    # A stacked pass has as many slots for each course as for the one that needs most.
    most = lambda names: max((rates[name] for name in names), default=0.0)
    generator = generator_flops(config.generator, sequence_length)
    discriminator = discriminator_flops(config, sequence_length)
    return (
        sum(
            len(names) * (generator + masked_head_flops(config.generator, most(names)))
            for names in (courses, again_generator)
        )
        + (len(courses) + len(again_discriminator)) * discriminator
    )
